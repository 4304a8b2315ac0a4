"""A model folder as MLflow's users open it: named inputs, any column order, and nothing that is unpickled."""

from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray
from onnx import TensorProto

from fraud import declaration_file
from fraud.core.declaration import parse
from fraud.core.plan import Plan
from fraud.registry.model_folder import short_request_row, write_model_folder
from fraud.training.ladder.onnx_graph import INPUT, Graph

PLAN = Plan(declaration_file.load(Path(__file__).resolve().parents[2] / "declarations/three.yaml"))
NAMES = PLAN.vector.names
WEIGHTS = np.linspace(-0.01, 0.01, len(NAMES))
"""Every column weighs otherwise, so a permutation cannot go unnoticed."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    graph = Graph(len(NAMES))
    wide = graph.node("Cast", INPUT, to=TensorProto.DOUBLE)
    product = graph.node("MatMul", wide, graph.constant(WEIGHTS.reshape(-1, 1)))
    path = tmp_path_factory.mktemp("model") / "model"
    write_model_folder(path, graph.to_bytes(graph.node("Sigmoid", product)), b"{}", PLAN)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> mlflow.pyfunc.PyFuncModel:
    return mlflow.pyfunc.load_model(str(folder))


def by_hand(frame: pd.DataFrame) -> NDArray[np.float64]:
    values = frame[list(NAMES)].to_numpy(np.float64)
    return np.asarray(1 / (1 + np.exp(-values @ WEIGHTS)))


def test_the_signature_names_the_vector(model: mlflow.pyfunc.PyFuncModel) -> None:
    assert model.metadata.get_input_schema().input_names() == list(NAMES)
    assert model.metadata.get_output_schema().input_names() == ["fraud_probability"]


def test_columns_are_found_by_name_in_any_order(model: mlflow.pyfunc.PyFuncModel) -> None:
    random = np.random.default_rng(4)
    frame = pd.DataFrame(random.uniform(0, 50, (40, len(NAMES))), columns=list(NAMES))
    shuffled = frame[list(random.permutation(NAMES))]
    for rows in (frame, shuffled, shuffled.astype(np.float32)):
        answers = model.predict(rows)["fraud_probability"]
        assert answers.to_numpy() == pytest.approx(by_hand(frame), abs=1e-6)


def test_a_missing_column_is_named(model: mlflow.pyfunc.PyFuncModel) -> None:
    frame = pd.DataFrame(np.ones((1, len(NAMES))), columns=list(NAMES)).drop(columns="amount")
    with pytest.raises(MlflowException, match="amount"):
        model.predict(frame)


def test_the_input_example_is_the_short_request_as_a_vector(model: mlflow.pyfunc.PyFuncModel) -> None:
    """The request of docs/serving.md. Without a user: its own velocity, its amount as the average, no merchants."""
    example = model.input_example
    stated = {
        "amount": 4999.99, "hour_of_day": 3.0, "day_of_week": 2.0, "distance_from_home": 850.5,
        "transaction_velocity_1h": 12.0, "avg_amount_7d": 4999.99, "amount_to_avg_7d": 1.0, "no_history_7d": 1.0,
        "category_electronics": 1.0,
    }  # fmt: skip
    assert example.iloc[0].to_dict() == pytest.approx({name: stated.get(name, 0.0) for name in NAMES})
    assert model.predict(example)["fraud_probability"].to_numpy() == pytest.approx(by_hand(example), abs=1e-6)


def test_what_the_folder_holds_is_data(folder: Path) -> None:
    """No pickle and no code: what loads it is MLflow's own ONNX flavor."""
    files = {path.name for path in folder.rglob("*") if path.is_file()}
    assert files == {
        "MLmodel", "conda.yaml", "python_env.yaml", "requirements.txt", "model.onnx", "serving.json",
        "input_example.json", "serving_input_example.json",
    }  # fmt: skip
    assert "loader_module: mlflow.onnx" in (folder / "MLmodel").read_text()


def test_the_example_of_a_declaration_without_the_columns_of_the_short_request_has_its_amount_and_time() -> None:
    declared = parse(
        {
            "columns": {"merchant_category": {"type": "number", "unit": "code", "min": 0, "max": 9},
                        "terminal": {"type": "flag"}},
            "features": [
                {"name": "amount", "kind": "request", "op": "column", "column": "amount"},
                {"name": "hour", "kind": "request", "op": "hour_of_day"},
                {"name": "code", "kind": "request", "op": "column", "column": "merchant_category", "default": -1.0},
                {"name": "terminal", "kind": "request", "op": "column", "column": "terminal", "default": 0.5},
            ],
        }
    )  # fmt: skip
    example = short_request_row(Plan(declared))
    assert example == {"amount": pytest.approx(4999.99), "hour": 3.0, "code": -1.0, "terminal": 0.5}
