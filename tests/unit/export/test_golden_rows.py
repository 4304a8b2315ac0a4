"""The rows of an export's self-test, for any declaration, and a few computed by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from tests.declaration_strategy import declarations

from fraud import declaration_file
from fraud.core.declaration import Declaration, parse
from fraud.core.plan import Plan
from fraud.export.golden_rows import golden_json
from fraud.export.payments import AT, Payment, Row, rows
from fraud.training.ladder.onnx_graph import INPUT, Graph

THREE = Plan(declaration_file.load(Path(__file__).resolve().parents[2] / "declarations/three.yaml"))


def model(columns: int) -> bytes:
    """The sigmoid of the first column over 1,000."""
    graph = Graph(columns)
    first = graph.node("Gather", INPUT, graph.constant(np.array(0)), axis=1)
    return graph.to_bytes(graph.sigmoid(graph.node("Div", first, graph.constant(np.float32(1_000)))))


def golden(plan: Plan, made: list[Row]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(golden_json(plan, model(len(plan.vector.names)), 0.6, made, {}, 0.0))[
        "rows"
    ]
    return found


@settings(max_examples=25, deadline=None)
@given(declarations())
def test_every_declaration_has_rows_and_equal_ones_each_time(declaration: Declaration) -> None:
    plan = Plan(declaration)
    if not plan.vector.names:
        return
    first, again = (golden(plan, rows(plan)) for _ in range(2))
    assert first == again
    assert len(first) >= 25
    assert [row["is_fraud"] for row in first] == [row["probability"] >= 0.6 for row in first]


def payment(number: int, seconds: int, **more: object) -> Payment:
    at = AT.replace(second=0, microsecond=0).timestamp() + seconds
    return {
        "transaction_id": f"t{number}", "user_id": "u", "merchant_id": "m", "amount": 10.0,
        "event_timestamp": f"{np.datetime64(round(at), 's')}Z",
    } | more  # fmt: skip


def features(*history: Payment) -> dict[str, float | None]:
    [row] = golden(THREE, [Row(payment(0, 0), list(history), None)])
    return {
        name: row["features"][name] for name in ("transaction_velocity_1h", "avg_amount_7d", "unique_merchants_30d")
    }


def test_windows_have_the_earlier_payments_of_the_user() -> None:
    found = features(
        payment(1, -7_200, amount=1.0, merchant_id="n"), payment(2, -3_600, amount=3.0), payment(3, -1, amount=5.0),
        payment(4, -1, user_id="other", amount=100.0), payment(5, 0, amount=100.0), payment(6, 60, amount=100.0),
    )  # fmt: skip
    assert found == {"transaction_velocity_1h": 2.0, "avg_amount_7d": 3.0, "unique_merchants_30d": 2.0}


def test_a_repeated_payment_counts_once_and_one_that_is_too_old_does_not() -> None:
    too_old = -40 * 86_400  # the user's history keeps 37 days
    found = features(payment(1, -60, amount=1.0), payment(1, -60, amount=9.0), payment(2, too_old, merchant_id="n"))
    assert found == {"transaction_velocity_1h": 1.0, "avg_amount_7d": 1.0, "unique_merchants_30d": 1.0}


def test_a_payment_that_is_in_the_history_has_only_the_events_before_it() -> None:
    found = features(payment(1, -60, amount=1.0), payment(0, 0), payment(2, -30, amount=9.0))
    assert found == {"transaction_velocity_1h": 1.0, "avg_amount_7d": 1.0, "unique_merchants_30d": 1.0}


def test_without_a_user_the_velocity_of_the_request_counts() -> None:
    short = {"amount": 10.0, "hour_of_day": 3, "day_of_week": 2, "transaction_velocity": 12.0}
    [row] = golden(THREE, [Row(short, None, None)])
    assert row["features"]["transaction_velocity_1h"] == 12.0
    assert (row["features"]["hour_of_day"], row["features"]["day_of_week"]) == (3, 2)


def test_daily_values_are_those_of_the_row_then_the_default_then_the_empty_ones() -> None:
    text = {
        "entities": {"merchant": {"id": "merchant_id"}},
        "features": [
            {"name": "amount", "kind": "request", "op": "column", "column": "amount"},
            {"name": "count", "kind": "daily", "entity": "merchant", "aggregate": "count", "days": 7},
            {"name": "mean", "kind": "daily", "entity": "merchant", "aggregate": "mean", "column": "amount", "days": 7},
        ],
    }
    plan = Plan(parse(text))
    own = {"merchant": {"count": 3.0, "mean": None}}
    made = [
        Row(payment(0, 0), [], own), Row(payment(1, 0), [], None),
        Row({"amount": 1.0, "hour_of_day": 1, "day_of_week": 1}, None, own),
    ]  # fmt: skip
    default = {"merchant": {"count": 0.0, "mean": 2.5}}
    with_default = json.loads(golden_json(plan, model(3), 0.6, made, default, 0.0))["rows"]
    values = [[row["features"][name] for name in ("count", "mean")] for row in with_default]
    assert values == [[3.0, None], [0.0, 2.5], [0.0, None]]
    assert golden(plan, made)[1]["features"]["mean"] is None
