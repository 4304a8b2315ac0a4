"""The trees of the benchmark as an MLflow pyfunc. MLflow loads this file as code, without a pickle."""

from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fraud.scoring.onnx_session import OnnxModel


class Trees(mlflow.pyfunc.PythonModel):
    """Probabilities float64[n] of a frame of vectors."""

    def load_context(self, context: mlflow.pyfunc.PythonModelContext) -> None:
        self._model = OnnxModel(Path(context.artifacts["model"]).read_bytes())

    def predict(self, context: object, model_input: pd.DataFrame) -> NDArray[np.float64]:  # noqa: ARG002 - MLflow's
        return self._model.probabilities(model_input.to_numpy(np.float32)).astype(np.float64)


mlflow.models.set_model(Trees())
