"""Save the bench's scikit-learn model as a pyfunc: save_pyfunc.py FOLDER. Runs in the ML environment."""

import sys
from pathlib import Path

import mlflow.sklearn

sys.path.insert(0, str(Path(__file__).parents[1]))

from serving_model import fitted

if __name__ == "__main__":
    mlflow.sklearn.save_model(
        fitted()[0], sys.argv[1], serialization_format="cloudpickle", pyfunc_predict_fn="predict_proba",
        pip_requirements=["scikit-learn"],
    )  # fmt: skip
