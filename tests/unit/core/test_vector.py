"""The vector: by hand, and the forms for one and for many transactions with the same bits."""

from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.declaration_strategy import declarations, values

from fraud.core.declaration import Declaration, parse
from fraud.core.plan import Plan

COLUMNS = {
    "kind": {"type": "category", "values": ["a", "b", "other"]},
    "miles": {"type": "number", "unit": "miles", "min": 0, "max": 100},
    "present": {"type": "flag"},
}
FEATURES = [
    {"name": "miles", "kind": "request", "op": "column", "column": "miles", "default": 7.0},
    {"name": "hour", "kind": "request", "op": "hour_of_day"},
    {"name": "weekday", "kind": "request", "op": "day_of_week"},
    {"name": "night", "kind": "request", "op": "hour_between", "first": 22, "until": 6},
    {"name": "morning", "kind": "request", "op": "hour_between", "first": 6, "until": 12},
    {"name": "weekend", "kind": "request", "op": "day_in", "days": [6, 5]},
    {"name": "present", "kind": "request", "op": "column", "column": "present"},
    {"name": "no_present", "kind": "request", "op": "missing", "of": "present"},
    {"name": "mean", "kind": "window", "entity": "user", "aggregate": "mean", "column": "amount", "window": "7d",
     "default": "miles"},
    {"name": "to_mean", "kind": "request", "op": "ratio", "of": "miles", "by": "mean", "default": -1.0},
    {"name": "above", "kind": "request", "op": "difference", "of": "to_mean", "minus": "present"},
    {"name": "hidden", "kind": "window", "entity": "user", "aggregate": "count", "window": "1h", "input": False},
    {"name": "kind", "kind": "request", "op": "column", "column": "kind"},
]  # fmt: skip
PLAN = Plan(parse({"columns": COLUMNS, "entities": {"user": {"id": "user_id"}}, "features": FEATURES}))


def vector(hour: int, weekday: int, columns: dict[str, Any], features: list[float | None]) -> dict[str, float]:
    """Name -> value, for features that are not 0."""
    out = np.full(len(PLAN.vector.names), 9.0, dtype=np.float32)
    PLAN.vector.row(out, PLAN.base_values(hour, weekday, columns, features))
    return {name: value for name, value in zip(PLAN.vector.names, out.tolist(), strict=True) if value}


def test_the_names_are_in_declared_order_with_a_column_per_category() -> None:
    assert PLAN.vector.names == (
        "miles", "hour", "weekday", "night", "morning", "weekend", "present", "no_present", "mean", "to_mean", "above",
        "kind_a", "kind_b", "kind_other",
    )  # fmt: skip


def test_a_transaction_with_every_value() -> None:
    found = vector(23, 6, {"kind": "b", "miles": 12.5, "present": True}, [5.0, 3.0])
    assert found == {
        "miles": 12.5, "hour": 23.0, "weekday": 6.0, "night": 1.0, "weekend": 1.0, "present": 1.0, "mean": 5.0,
        "to_mean": 2.5, "above": 1.5, "kind_b": 1.0,
    }  # fmt: skip


def test_a_transaction_of_nulls_has_the_defaults() -> None:
    """The mean becomes miles, which became 7."""
    found = vector(6, 0, {"kind": "other", "miles": None, "present": None}, [None, 0.0])
    assert found == {
        "miles": 7.0, "hour": 6.0, "morning": 1.0, "no_present": 1.0, "mean": 7.0, "to_mean": 1.0, "above": 1.0,
        "kind_other": 1.0,
    }  # fmt: skip


def test_a_ratio_without_a_finite_quotient_has_its_default() -> None:
    for mean in (0.0, 5e-324):
        found = vector(0, 0, {"kind": "a", "miles": 1.0, "present": False}, [mean, 0.0])
        assert (found["to_mean"], found["above"]) == (-1.0, -1.0)


def test_an_unknown_category_is_the_unknown_value() -> None:
    found = vector(0, 0, {"kind": "never seen", "miles": 0.0, "present": False}, [0.0, 0.0])
    assert found["kind_other"] == 1.0


def test_groups_and_categories_of_the_inputs() -> None:
    groups = {i.name: (i.group, i.categories) for i in PLAN.vector.inputs}
    assert groups["hour_of_day"] == ("time", ())
    assert groups["mean"] == ("user", ())
    assert groups["kind"] == ("kind", ("a", "b", "other"))


@st.composite
def rows(draw: st.DrawFn) -> tuple[Plan, list[list[float | int | None]]]:
    """A plan and the base values of up to five transactions."""
    declaration: Declaration = draw(declarations())
    plan, found = Plan(declaration), list[list[float | int | None]]()
    amounts = st.integers(1, 10**13).map(lambda units: units / 10_000)
    numbers = st.sampled_from([0.0, 1.0, 1e-4, 1e18]) | st.floats(-1e18, 1e18)
    for _ in range(draw(st.integers(1, 5))):
        columns = {name: draw(values(column)) for name, column in declaration.columns.items()}
        given_values = [draw(numbers if empty is not None else st.none() | numbers) for empty in plan.empty]
        columns |= {"amount": draw(amounts)}
        found.append(plan.base_values(draw(st.integers(0, 23)), draw(st.integers(0, 6)), columns, given_values))
    return plan, found


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows())
def test_one_transaction_and_many_have_the_same_bits(case: tuple[Plan, list[list[float | int | None]]]) -> None:
    plan, found = case
    table = plan.vector.table([np.array(column, dtype=np.float64) for column in zip(*found, strict=True)])
    out = np.empty(len(plan.vector.names), dtype=np.float32)
    for row, expected in zip(found, table, strict=True):
        plan.vector.row(out, row)
        assert out.tobytes() == expected.tobytes()
        assert np.isfinite(out).all()
