"""Write a version's model folder in MLflow's layout: ONNX file, signature with named inputs, input example."""

import importlib
from pathlib import Path
from typing import Final

import numpy as np

from fraud.core.contract import CATEGORY_INDEX
from fraud.core.features import VECTOR_NAMES
from fraud.core.vector import fill_row

_REQUIREMENTS: Final = ("mlflow", "onnx", "onnxruntime", "numpy")


def write_model_folder(folder: Path, model: bytes, serving: bytes) -> None:
    """Write `MLmodel`, environment files, `model.onnx` and `serving.json`; the last two with exactly the given bytes.

    The signature names the columns of the vector, as doubles. MLflow's pyfunc accepts a DataFrame with these columns in
    any order and passes one float32 tensor to ONNX Runtime, as serving does.
    """
    import pandas as pd  # noqa: PLC0415 - these take seconds to import

    onnx, flavor = importlib.import_module("onnx"), importlib.import_module("mlflow.onnx")
    models, types = importlib.import_module("mlflow.models"), importlib.import_module("mlflow.types")
    signature = models.ModelSignature(
        types.Schema([types.ColSpec("double", name) for name in VECTOR_NAMES]),
        types.Schema([types.ColSpec("float", "fraud_probability")]),
    )
    flavor.save_model(
        onnx.load_model_from_string(model), folder, signature=signature, pip_requirements=list(_REQUIREMENTS),
        input_example=pd.DataFrame([short_request_row()]), onnx_execution_providers=["CPUExecutionProvider"],
        save_as_external_data=False, onnx_session_options={"intra_op_num_threads": 1, "inter_op_num_threads": 1},
    )  # fmt: skip
    (folder / "model.onnx").write_bytes(model)
    (folder / "serving.json").write_bytes(serving)


def short_request_row() -> dict[str, float]:
    """The vector that serving computes for the six-field request of the documentation, which has no user_id."""
    row = np.empty(len(VECTOR_NAMES), dtype=np.float32)
    fill_row(
        row, amount=4999.99, hour=3, weekday=2, distance=850.5, category=CATEGORY_INDEX["electronics"],
        velocity_1h=12.0, avg_amount_7d=None, unique_merchants_30d=0,
    )  # fmt: skip
    return dict(zip(VECTOR_NAMES, row.astype(np.float64).tolist(), strict=True))
