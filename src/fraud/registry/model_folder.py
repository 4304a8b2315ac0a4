"""Write a version's model folder in MLflow's layout: ONNX file, signature with named inputs, input example."""

import importlib
from pathlib import Path
from typing import Final

import numpy as np

from fraud.core import short_request
from fraud.core.declaration_types import CategoryColumn, NumberColumn
from fraud.core.plan import Plan

_REQUIREMENTS: Final = ("mlflow", "onnx", "onnxruntime", "numpy")


def write_model_folder(folder: Path, model: bytes, serving: bytes, plan: Plan) -> None:
    """Write `MLmodel`, environment files, `model.onnx` and `serving.json`; the last two with exactly the given bytes.

    The signature names the columns of the vector, as doubles. MLflow's pyfunc accepts a DataFrame with these columns in
    any order and passes one float32 tensor to ONNX Runtime, as serving does.
    """
    import pandas as pd  # noqa: PLC0415 - these take seconds to import

    onnx, flavor = importlib.import_module("onnx"), importlib.import_module("mlflow.onnx")
    models, types = importlib.import_module("mlflow.models"), importlib.import_module("mlflow.types")
    signature = models.ModelSignature(
        types.Schema([types.ColSpec("double", name) for name in plan.vector.names]),
        types.Schema([types.ColSpec("float", "fraud_probability")]),
    )
    flavor.save_model(
        onnx.load_model_from_string(model), folder, signature=signature, pip_requirements=list(_REQUIREMENTS),
        input_example=pd.DataFrame([short_request_row(plan)]), onnx_execution_providers=["CPUExecutionProvider"],
        save_as_external_data=False, onnx_session_options={"intra_op_num_threads": 1, "inter_op_num_threads": 1},
    )  # fmt: skip
    (folder / "model.onnx").write_bytes(model)
    (folder / "serving.json").write_bytes(serving)


def short_request_row(plan: Plan) -> dict[str, float]:
    """The vector that serving computes for the six-field request of the documentation, which has no user_id.

    Declared columns that the request does not have are null.
    """
    given: dict[str, object] = {"amount": 4999.99, short_request.CATEGORY: "electronics", short_request.DISTANCE: 850.5}
    types = {short_request.CATEGORY: CategoryColumn, short_request.DISTANCE: NumberColumn}
    columns: dict[str, object] = dict.fromkeys(plan.columns)
    declared = plan.declaration.columns
    columns |= {
        name: value for name, value in given.items() if name not in types or isinstance(declared.get(name), types[name])
    }
    features = list(plan.empty)
    if short_request.VELOCITY_FEATURE in plan.features:
        features[plan.features.index(short_request.VELOCITY_FEATURE)] = 12.0
    row = np.empty(len(plan.vector.names), dtype=np.float32)
    plan.vector.row(row, plan.base_values(3, 2, columns, features))
    return dict(zip(plan.vector.names, row.astype(np.float64).tolist(), strict=True))
