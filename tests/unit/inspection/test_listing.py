"""The table of a declaration, and the differences between two."""

import copy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from tests.declaration_strategy import declarations

from fraud.core.declaration import Declaration, parse
from fraud.core.plan import Plan
from fraud.inspection.listing import Differences, compared, listed

WRITTEN: dict[str, Any] = {
    "columns": {
        "kind": {"type": "category", "values": ["a", "b", "other"]},
        "country": {"type": "category", "learn": 2},
        "phone": {"type": "id"},
    },
    "entities": {"user": {"id": "user_id", "keep": "37d"}, "merchant": {"id": "merchant_id"}},
    "features": [
        {"name": "amount", "kind": "request", "op": "column", "column": "amount"},
        {"name": "mean_7d", "kind": "window", "entity": "user", "aggregate": "mean", "column": "amount",
         "window": "7d", "default": "amount", "group": "spending"},
        {"name": "share_a_1d", "kind": "window", "entity": "user", "aggregate": "share", "column": "kind", "value": "a",
         "window": "1d", "default": 0.5, "input": False},
        {"name": "to_mean", "kind": "request", "op": "ratio", "of": "amount", "by": "mean_7d"},
        {"name": "rate_30d", "kind": "daily", "entity": "merchant", "aggregate": "fraud_rate", "days": 30},
        {"name": "kind", "kind": "request", "op": "column", "column": "kind"},
        {"name": "country", "kind": "request", "op": "column", "column": "country"},
    ],
}  # fmt: skip


def changed(**features: dict[str, Any] | None) -> Declaration:
    """WRITTEN with keys of features changed, features removed (None) or added at the end."""
    written = copy.deepcopy(WRITTEN)
    lines = {line["name"]: line for line in written["features"]}
    for name, keys in features.items():
        lines[name] = {**lines.get(name, {"name": name}), **keys} if keys is not None else None
    written["features"] = [line for line in lines.values() if line is not None]
    return parse(written)


def differences(other: Declaration) -> Differences:
    return compared(("first", parse(WRITTEN)), ("second", other))


def test_the_table_has_every_feature_with_its_parts() -> None:
    found = listed("features.yaml", parse(WRITTEN))
    rows = {row.name: tuple(row.model_dump(exclude={"name"}).values()) for row in found.features}
    assert rows == {
        "amount": ("request", "", "column amount", "", "float64", "", "amount", 1),
        "mean_7d": ("window", "user", "mean of amount", "7d", "float64", "amount", "spending", 1),
        "share_a_1d": ("window", "user", "share of kind = a", "1d", "float64", "0.500", "user", 0),
        "to_mean": ("request", "", "amount / mean_7d", "", "float64", "0", "", 1),
        "rate_30d": ("daily", "merchant", "fraud_rate", "30 d, labels after 7 d", "float64", "0", "merchant", 1),
        "kind": ("request", "", "column kind", "", "category", "", "kind", 3),
        "country": ("request", "", "column country", "", "category", "", "country", 1),
    }
    assert found.inputs == 8
    text = found.as_text()
    assert "user: user_id; the last 1,024 events of 37d" in text
    assert "country: category, the 2 most frequent values" in text


def test_the_same_declaration_has_no_differences() -> None:
    found = differences(parse(WRITTEN))
    assert found.same
    assert found.as_text() == "first and second have the same features"


def test_another_default_needs_no_build() -> None:
    found = differences(changed(share_a_1d={"default": 0.25}))
    assert [(c.name, c.keys) for c in found.changed["features"]] == [("share_a_1d", {"default": (0.5, 0.25)})]
    assert found.work == ("train a version with the new inputs: fraud train",)
    assert "~ share_a_1d  default: 0.5 -> 0.25" in found.as_text()


def test_a_window_over_a_stored_column_needs_a_build_and_no_load() -> None:
    new = {"kind": "window", "entity": "user", "aggregate": "max", "column": "amount", "window": "1d"}
    found = differences(changed(max_1d=new))
    assert found.added["features"] == found.added["inputs"] == ("max_1d",)
    assert [line.split(":")[0] for line in found.work] == ["build", "train a version with the new inputs"]


def test_another_stored_column_needs_a_load() -> None:
    new = {"kind": "window", "entity": "user", "aggregate": "distinct", "column": "phone", "window": "1d"}
    found = differences(changed(phones_1d=new))
    layout = Plan(changed(phones_1d=new)).windows[0].layout
    old = Plan(parse(WRITTEN)).windows[0].layout
    assert f"load: history of user ({layout.id}), 32 bytes per event: fraud materialize" in found.work
    assert f"kept until no alias needs it: history of user ({old.id})" in found.work


def test_another_daily_feature_needs_a_table() -> None:
    found = differences(changed(rate_30d={"strength": 1.0}))
    steps = [line.split(" (")[0] for line in found.work]
    assert steps == [
        "build: daily table of merchant", "build: the feature values of every day", "load: daily table of merchant",
        "kept until no alias needs it: daily table of merchant", "train a version with the new inputs: fraud train",
    ]  # fmt: skip


def test_a_removed_feature_and_another_order() -> None:
    written = copy.deepcopy(WRITTEN)
    written["features"] = list(reversed(written["features"][:3])) + written["features"][4:]
    found = differences(parse(written))
    assert (found.removed["features"], found.removed["inputs"], found.reordered) == (("to_mean",), ("to_mean",), True)


def test_learnt_lists_are_compared_as_inputs() -> None:
    one, two = (parse(WRITTEN).resolved({"country": values}) for values in (("de", "other"), ("fr", "other")))
    found = compared(("1", one), ("2", two))
    assert not found.same
    assert (found.added["inputs"], found.removed["inputs"]) == (("country_fr",), ("country_de",))
    assert not any(found.changed.values())
    assert found.work == ()


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(declarations(), declarations())
def test_any_two_declarations_can_be_compared(one: Declaration, other: Declaration) -> None:
    found = compared(("one", one), ("other", other))
    back = compared(("other", other), ("one", one))
    assert found.added == back.removed
    assert found.as_text()
    assert len(listed("one", one).features) == len(one.features)
    assert sum(row.inputs for row in listed("one", one).features) == len(Plan(one).vector.names)


@pytest.mark.parametrize("name", ["production", "3"])
def test_the_names_of_the_two_are_in_the_text(name: str) -> None:
    text = compared((name, parse(WRITTEN)), ("features.yaml", changed(to_mean=None))).as_text()
    assert text.startswith(f"from {name} to features.yaml\n")
