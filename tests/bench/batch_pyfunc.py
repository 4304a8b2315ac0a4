"""The bench's trees behind MLflow's generic interface, as code that MLflow loads (nothing is pickled)."""

from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fraud.scoring.onnx_session import OnnxModel


class Trees(mlflow.pyfunc.PythonModel):
    """A frame of vectors in, float64[n] probabilities out."""

    def load_context(self, context: mlflow.pyfunc.PythonModelContext) -> None:
        self._model = OnnxModel(Path(context.artifacts["model"]).read_bytes())

    def predict(self, context: object, model_input: pd.DataFrame) -> NDArray[np.float64]:  # noqa: ARG002 - MLflow's
        return self._model.probabilities(model_input.to_numpy(np.float32)).astype(np.float64)


mlflow.models.set_model(Trees())
