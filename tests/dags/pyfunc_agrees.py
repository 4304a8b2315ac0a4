"""Run in the ML environment: every logged answer against `mlflow.pyfunc` of the Production model, as JSON."""

import json
import warnings

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa

from fraud.features.engines.arrow_vector import vectors
from fraud.lake import catalog
from fraud.registry import model_versions
from fraud.registry.model_versions import MODEL_NAME
from fraud.settings import Settings


def main() -> None:
    """Print how many answers were compared and the largest absolute difference."""
    settings = Settings.load()
    lake = catalog.PREDICTIONS.at(settings.lake_uri)
    served = pa.concat_tables([lake.read(day) for day in lake.partitions()])
    when = served["event_us"].cast(pa.timestamp("us", "UTC"))
    mlflow.set_tracking_uri(settings.mlflow_url)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow warns about package versions
        model = mlflow.pyfunc.load_model(f"models:/{MODEL_NAME}@production")
    plan = model_versions.fetch(settings).plan
    names = list(plan.vector.names)
    rows = pd.DataFrame(vectors(served.append_column("event_timestamp", when), plan), columns=names)
    again = model.predict(rows[sorted(names)])["fraud_probability"]
    differences = np.abs(served["fraud_probability"].to_numpy() - again)
    print(json.dumps({"compared": len(differences), "largest": float(differences.max())}))


if __name__ == "__main__":
    main()
