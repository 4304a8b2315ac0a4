"""Rows in, rows out: the same order and bits as one row at a time, rejections counted with their reason."""

import datetime as dt
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pytest
from onnx import TensorProto, helper

from fraud.core.plan import Plan
from fraud.declaration_file import load, load_of
from fraud.features.engines.arrow_vector import vectors
from fraud.scoring.onnx_session import OnnxModel
from fraud.scoring.scorer import SCHEMA, Scorer, input_schema, nullable

ROOT = Path(__file__).parents[3]
THREE = Plan(load(ROOT / "tests/declarations/three.yaml"))
SHIPPED = Plan(load_of(ROOT).resolved({"country": ("FR", "GB", "other")}))
INPUT = input_schema(THREE)
VECTOR_NAMES = THREE.vector.names
TUESDAY_3AM = dt.datetime(2026, 3, 3, 3, 30, tzinfo=dt.UTC)


def model(bias: float, *, probability: bool = True) -> bytes:
    """sigmoid(0.01 * amount + bias), or without the sigmoid a number that is no probability."""
    weights = np.zeros((len(VECTOR_NAMES), 1), np.float32)
    weights[VECTOR_NAMES.index("amount"), 0] = 0.01
    nodes = [
        helper.make_node("MatMul", ["features", "w"], ["z"]),
        helper.make_node("Add", ["z", "b"], ["s"]),
        helper.make_node("Sigmoid" if probability else "Identity", ["s"], ["p"]),
        helper.make_node("Reshape", ["p", "flat"], ["fraud_probability"]),
    ]
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, len(VECTOR_NAMES)])],
        [helper.make_tensor_value_info("fraud_probability", TensorProto.FLOAT, [None])],
        [
            helper.make_tensor("w", TensorProto.FLOAT, weights.shape, weights.ravel()),
            helper.make_tensor("b", TensorProto.FLOAT, [1], [bias]),
            helper.make_tensor("flat", TensorProto.INT64, [1], [-1]),
        ],
    )
    made: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return made.SerializeToString()


def rows(**columns: list[object]) -> pa.Table:
    """Three sound rows of `features`; the given columns replaced."""
    sound: dict[str, list[object]] = {
        "transaction_id": ["t1", "t2", "t3"],
        "user_id": ["u", "u", "v"],
        "event_timestamp": [TUESDAY_3AM] * 3,
        "merchant_category": ["travel", "grocery", "never heard of"],
        "amount": [100.0, 400.0, 700.0],
        "distance_from_home": [1.5, None, 3.0],
        "transaction_velocity_1h": [0.0, 1.0, 2.0],
        "avg_amount_7d": [50.0, None, 350.0],
        "unique_merchants_30d": [0, 1, 2],
    }
    given = {**sound, **columns}
    return pa.table({name: given[name] for name in INPUT.names}, schema=INPUT)


def scorer(threshold: float = 0.5, *, probability: bool = True) -> Scorer:
    return Scorer(OnnxModel(model(-4.0, probability=probability)), "7", THREE, threshold)


def test_the_columns_that_are_read_are_those_of_the_declaration() -> None:
    assert {field.name: str(field.type) for field in INPUT} == {
        "transaction_id": "string", "user_id": "string", "event_timestamp": "timestamp[us, tz=UTC]",
        "amount": "double", "distance_from_home": "double", "transaction_velocity_1h": "double",
        "avg_amount_7d": "double", "unique_merchants_30d": "int64", "merchant_category": "string",
    }  # fmt: skip
    assert nullable(THREE) == {"distance_from_home", "merchant_category", "avg_amount_7d"}
    shipped = input_schema(SHIPPED)
    assert (shipped.field("card_present").type, shipped.field("country").type) == (pa.bool_(), pa.string())
    assert set(SHIPPED.features) < set(shipped.names)
    assert "device_id" not in shipped.names


def test_vectors_are_those_of_the_request_path_bit_for_bit() -> None:
    by_request = np.zeros((3, len(VECTOR_NAMES)), np.float32)
    values = [
        (100.0, 1.5, "travel", 0.0, 50.0, 0),
        (400.0, None, "grocery", 1.0, None, 1),
        (700.0, 3.0, "x", 2.0, 350.0, 2),
    ]
    for out, (amount, distance, category, *features) in zip(by_request, values, strict=True):
        columns = {"amount": amount, "distance_from_home": distance, "merchant_category": category}
        THREE.vector.row(out, THREE.base_values(3, 1, columns, features))
    assert vectors(rows(), THREE).tobytes() == by_request.tobytes()


def test_rows_keep_their_order_and_carry_who_decided() -> None:
    scored, rejected = scorer().score(rows())
    assert scored.schema == SCHEMA
    assert scored["transaction_id"].to_pylist() == ["t1", "t2", "t3"]
    # The logistic function of -3, 0 and 3.
    assert scored["fraud_probability"].to_pylist() == pytest.approx([0.04742587, 0.5, 0.95257413], abs=1e-6)
    assert scored["is_fraud"].to_pylist() == [False, True, True]
    assert set(scored["model_version"].to_pylist()) == {"7"}
    assert set(scored["feature_hash"].to_pylist()) == {THREE.hash}
    assert rejected == Counter()


def test_the_threshold_is_compared_as_serving_compares_it() -> None:
    """float32(0.5) is 0.5: not at or above the next float64, which rounds to the same float32."""
    scored, _ = scorer(float(np.nextafter(0.5, 1.0))).score(rows())
    assert scored["is_fraud"].to_pylist() == [False, False, True]


@pytest.mark.parametrize(
    ("column", "values", "reason"),
    [
        ("amount", [100.0, None, 700.0], "amount is null"),
        ("amount", [100.0, float("nan"), 700.0], "amount is not finite"),
        ("avg_amount_7d", [50.0, float("inf"), 350.0], "avg_amount_7d is not finite"),
        ("user_id", ["u", None, "v"], "user_id is null"),
        ("transaction_velocity_1h", [0.0, None, 2.0], "transaction_velocity_1h is null"),
        ("unique_merchants_30d", [0, None, 2], "unique_merchants_30d is null"),
    ],
)
def test_a_row_that_cannot_be_scored_is_left_out_and_counted(column: str, values: list[object], reason: str) -> None:
    scored, rejected = scorer().score(rows(**{column: values}))
    assert scored["transaction_id"].to_pylist() == ["t1", "t3"]
    assert rejected == Counter({reason: 1})


def test_nulls_of_declared_columns_are_imputed() -> None:
    empty = rows(distance_from_home=[None] * 3, merchant_category=[None] * 3, avg_amount_7d=[None] * 3)
    scored, rejected = scorer().score(empty)
    assert (scored.num_rows, rejected) == (3, Counter())
    assert (vectors(empty, THREE)[:, VECTOR_NAMES.index("category_other")] == 1).all()


def test_a_row_with_two_faults_is_counted_once() -> None:
    scored, rejected = scorer().score(rows(amount=[None] * 3, user_id=[None, "u", "v"]))
    assert scored.num_rows == 0
    assert rejected == Counter({"user_id is null": 1, "amount is null": 2})


def test_a_day_without_rows_has_scores_without_rows() -> None:
    scored, rejected = scorer().score(INPUT.empty_table())
    assert scored.schema == SCHEMA
    assert (scored.num_rows, rejected) == (0, Counter())


def test_a_model_that_answers_no_probability_is_an_error_not_a_row() -> None:
    with pytest.raises(ValueError, match="version 7 returned a value that is not a probability"):
        scorer(probability=False).score(rows())
