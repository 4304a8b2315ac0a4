"""The feature declaration: what is refused, and what its hashes depend on."""

import copy
import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from tests.declaration_strategy import declarations, written_declarations

from fraud.core.declaration import Declaration, DeclarationError, parse
from fraud.core.plan import Plan

SMALL: dict[str, Any] = {
    "columns": {
        "kind": {"type": "category", "values": ["a", "other"], "description": "What is sold."},
        "country": {"type": "category", "learn": 3},
        "miles": {"type": "number", "unit": "miles", "min": 0, "max": 100, "simulate": "distance"},
        "phone": {"type": "id"},
    },
    "entities": {"user": {"id": "user_id"}, "device": {"id": "phone"}},
    "features": [
        {"name": "amount", "kind": "request", "op": "column", "column": "amount"},
        {"name": "miles", "kind": "request", "op": "column", "column": "miles"},
        {"name": "hour", "kind": "request", "op": "hour_of_day"},
        {"name": "mean_7d", "kind": "window", "entity": "user", "aggregate": "mean", "column": "amount",
         "window": "7d", "default": "amount"},
        {"name": "to_mean", "kind": "request", "op": "ratio", "of": "amount", "by": "mean_7d"},
        {"name": "share_a", "kind": "window", "entity": "user", "aggregate": "share", "column": "kind", "value": "a",
         "window": "1h"},
        {"name": "rate", "kind": "daily", "entity": "device", "aggregate": "fraud_rate", "days": 30},
        {"name": "kind", "kind": "request", "op": "column", "column": "kind"},
        {"name": "country", "kind": "request", "op": "column", "column": "country"},
    ],
}  # fmt: skip
Change = Callable[[dict[str, Any]], Any]


def changed(change: Change) -> dict[str, Any]:
    written = copy.deepcopy(SMALL)
    change(written)
    return written


def column(name: str, **keys: object) -> Change:
    return lambda written: written["columns"].setdefault(name, {}).update(keys)


def entity(name: str, **keys: object) -> Change:
    return lambda written: written["entities"].setdefault(name, {}).update(keys)


def feature(name: str, /, **keys: object) -> Change:
    """Change keys of a feature; a feature of another name is added at the end."""

    def change(written: dict[str, Any]) -> None:
        known = {line["name"]: line for line in written["features"]}
        if name not in known:
            written["features"].append({"name": name})
        known.get(name, written["features"][-1]).update(keys)

    return change


def request(name: str, /, **keys: object) -> Change:
    return feature(name, kind="request", **keys)


def differences(written: dict[str, Any]) -> None:
    """Nine features, each computed from the one before."""
    for i in range(9):
        request(f"d{i}", op="difference", of=f"d{i - 1}" if i else "amount", minus="amount")(written)


NAME = "a name: lower-case letters, digits and _, at most 63"
WRONG: dict[str, tuple[Change, str, str]] = {
    # label: change, path, a part of what is expected
    "unknown key": (feature("amount", colum="amount"), "features.0.colum", "a key that docs/features.md describes"),
    "unknown key of the file": (lambda w: w.update(feature=[]), "feature", "a key that docs/features.md describes"),
    "unknown key of a column": (column("miles", maximum=1), "columns.miles.maximum", "this one is unknown"),
    "unknown key of an entity": (entity("user", bound=1), "entities.user.bound", "this one is unknown"),
    "no features": (lambda w: w.pop("features"), "", "the key features"),
    "features of a mapping": (lambda w: w.update(features={}), "features", "a list"),
    "no kind": (lambda w: w["features"][0].pop("kind"), "features.0", "the key kind"),
    "unknown kind": (feature("amount", kind="windows"), "features.0.kind", "one of 'request', 'window', 'daily'"),
    "no op": (lambda w: w["features"][0].pop("op"), "features.0", "the key op"),
    "unknown op": (feature("amount", op="columns"), "features.0.op", "'column'"),
    "no window": (lambda w: w["features"][3].pop("window"), "features.3", "the key window"),
    "unknown column": (feature("amount", column="amounts"), "features.0.column", "one of user_id, merchant_id"),
    "unknown aggregated column": (feature("mean_7d", column="cost"), "features.3.column", "one of user_id"),
    "unknown entity": (feature("mean_7d", entity="card"), "features.3.entity", "one of user, device"),
    "unknown id column": (entity("device", id="imei"), "entities.device.id", "one of user_id, merchant_id, phone"),
    "an entity over a number": (entity("device", id="miles"), "entities.device.id", "a column of type id"),
    "unknown operand": (feature("to_mean", by="mean_8d"), "features.4.by", "the name of a feature"),
    "unknown default": (feature("mean_7d", default="amounts"), "features.3.default", "a number, or the name"),
    "a category as operand": (feature("to_mean", by="kind"), "features.4.by", "a feature that is a number"),
    "a category as default": (feature("mean_7d", default="kind"), "features.3.default", "a number, or the name"),
    "missing of a derived feature": (request("x", op="missing", of="to_mean"), "features.9.of", "a column, window"),
    "cycle of two": (feature("mean_7d", default="to_mean"), "features.3", "no cycle"),
    "cycle of one": (request("x", op="ratio", of="x", by="amount"), "features.9", "no cycle"),
    "a long chain": (differences, "features.16", "at most 8 features that are computed one after another"),
    "name twice": (request("to_mean", name="amount"), "features.4.name", "each name once"),
    "name twice by expansion": (
        feature("n_{window}", kind="window", entity="user", aggregate="count", window=["24h", "1d"]),
        "features.9.name", "each name once",
    ),
    "a name of the platform": (request("degraded", op="day_in", days=[1]), "features.9.name", "the platform's own"),
    "a name of the log": (request("sequence_user", op="day_in", days=[1]), "features.9.name", "the platform's own"),
    "hour_of_day for a window": (
        feature("hour_of_day", kind="window", entity="user", aggregate="count", window="1d"),
        "features.9.name", "the platform's own",
    ),
    "a column's name": (request("phone", op="day_in", days=[1]), "features.9.name", "this one is a column's"),
    "an input's name": (request("kind_a", op="day_in", days=[1]), "features.7.name", "the beginning of kind_a"),
    "a possible input's name": (request("country_x", op="day_in", days=[1]), "features.8.name", "country_<value>"),
    "a column of the platform": (column("dt", type="id"), "columns.dt", "the platform's own"),
    "a column of the contract": (column("amount", type="id"), "columns.amount", "the platform's own"),
    "a bad name": (request("Amount", op="day_in", days=[1]), "features.9.name", NAME),
    "a bad column name": (column("a-b", type="id"), "columns.a-b", NAME),
    "a long name": (request("a" * 64, op="day_in", days=[1]), "features.9.name", "at most 63"),
    "{} without several": (feature("amount", name="x{window}"), "features.0.name", "a name without {}"),
    "several without {}": (feature("mean_7d", window=["1d", "7d"]), "features.3.name", "{window} once"),
    "the other {}": (feature("mean_7d", window=["1d"], name="x{days}"), "features.3.name", "{window} once"),
    "hour twice": (request("hour_2", op="hour_of_day"), "features.2.op", "one feature with op hour_of_day"),
    "column twice": (request("again", op="column", column="miles"), "features.1.column", "one feature of a column"),
    "an id as input": (request("phone", op="column", column="phone"), "features.9.column", "number, flag or category"),
    "an operand of another op": (feature("amount", by="miles"), "features.0.by", "no key by with op column"),
    "no operand": (request("x", op="ratio", of="amount"), "features.9", "the key by with op ratio"),
    "no column": (lambda w: w["features"][3].pop("column"), "features.3", "the key column"),
    "a column for count": (feature("mean_7d", aggregate="count"), "features.3.column", "no column: count has none"),
    "mean of a category": (feature("mean_7d", column="kind"), "features.3.column", "a column of type number"),
    "mean without decimals": (feature("mean_7d", column="miles"), "features.3.column", "with decimals"),
    "share without value": (lambda w: w["features"][5].pop("value"), "features.5", "the key value"),
    "share of no value": (feature("share_a", value="b"), "features.5.value", "one of a, other"),
    "value of a mean": (feature("mean_7d", value="a"), "features.3.value", "share of a category"),
    "default of a count": (
        feature("n", kind="window", entity="user", aggregate="count", window="1d", default=1.0),
        "features.9.default", "no default",
    ),
    "default of a category": (feature("kind", default=1.0), "features.7.default", "no default"),
    "default of the amount": (feature("amount", default=1.0), "features.0.default", "no default"),
    "default as text": (feature("miles", default="1.0"), "features.1.default", NAME),
    "default as a flag": (feature("miles", default=True), "features.1.default", "a valid number"),
    "default nan": (feature("miles", default=float("nan")), "features.1.default", "a finite number"),
    "default inf": (feature("miles", default=float("inf")), "features.1.default", "a finite number"),
    "default too large": (feature("miles", default=1e16), "features.1.default", "less than or equal to"),
    "a huge integer": (feature("miles", default=10**400), "features.1.default", "at most 64 bits"),
    "window as a number": (feature("mean_7d", window=7), "features.3.window", "a duration such as"),
    "window of nothing": (feature("mean_7d", window="0d"), "features.3.window", "a duration such as"),
    "window with a space": (feature("mean_7d", window="7 d"), "features.3.window", "a duration such as"),
    "second of two windows": (
        feature("mean_7d", window=["1d", "1w"], name="x_{window}"), "features.3.window.1", "a duration such as"
    ),
    "window too long": (feature("mean_7d", window="91d"), "features.3.window", "at most 90d"),
    "no windows": (feature("mean_7d", window=[]), "features.3.window", "at least 1 item"),
    "too many windows": (
        feature("mean_7d", window=[f"{i}h" for i in range(1, 18)], name="x_{window}"), "features.3.window",
        "at most 16 items",
    ),
    "too many days": (feature("rate", days=91), "features.6.days", "less than or equal to 90"),
    "days as text": (feature("rate", days="30"), "features.6.days", "a valid integer"),
    "strength below 0": (feature("rate", strength=-1), "features.6.strength", "greater than or equal to 0"),
    "strength of a count": (
        feature("rate", aggregate="count", strength=1.0), "features.6.strength", "only fraud_rate"
    ),
    "delay of a count": (
        feature("rate", aggregate="count", label_delay_days=1), "features.6.label_delay_days", "only fraud_rate"
    ),
    "hour 24": (request("x", op="hour_between", first=24, until=3), "features.9.first", "less than or equal to 23"),
    "weekday 7": (request("x", op="day_in", days=[7]), "features.9.days.0", "less than or equal to 6"),
    "max_events too small": (entity("user", max_events=7), "entities.user.max_events", "greater than or equal to 8"),
    "max_events too large": (entity("user", max_events=4_097), "entities.user.max_events", "equal to 4096"),
    "max_events as text": (entity("user", max_events="64"), "entities.user.max_events", "a valid integer"),
    "keep below a window": (entity("user", keep="6d"), "entities.user.keep", "at least the longest window"),
    "keep too long": (entity("user", keep="181d"), "entities.user.keep", "at most 180d"),
    "available_at": (lambda w: w.update(daily={"available_at": "3:00"}), "daily.available_at", 'such as "03:00"'),
    "available_at as YAML reads it": (lambda w: w.update(daily={"available_at": 180}), "daily.available_at", '"03:00"'),
    "unknown type": (column("x", type="text"), "columns.x.type", "one of 'number', 'flag', 'category', 'id'"),
    "no type": (column("x", unit="m"), "columns.x", "the key type"),
    "no unit": (column("x", type="number", min=0, max=1), "columns.x", "the key unit"),
    "min above max": (column("miles", min=100), "columns.miles.max", "a number above min (100)"),
    "bounds too large": (column("miles", max=1e16), "columns.miles.max", "less than or equal to"),
    "bounds with too many digits": (column("miles", max=1e12, decimals=4), "columns.miles.max", "at most 1.1259e+11"),
    "a bound between units": (column("miles", max=9.55, decimals=1), "columns.miles.max", "at most 1 decimals"),
    "decimals": (column("miles", decimals=7), "columns.miles.decimals", "less than or equal to 6"),
    "no values": (column("x", type="category"), "columns.x", "the key values (a closed list) or learn"),
    "values and learn": (column("kind", learn=2), "columns.kind", "values or learn, not both"),
    "a value twice": (column("kind", values=["a", "a", "other"]), "columns.kind.values", "each value once"),
    "unknown is no value": (column("kind", unknown="none of these"), "columns.kind.unknown", "one of the values: a"),
    "a word for null": (column("kind", values=["NaN", "other"]), "columns.kind.values.0", "not a word for null"),
    "a value with a space": (column("kind", values=[" a", "other"]), "columns.kind.values.0", "surrounding spaces"),
    "YAML's no": (column("kind", values=[False, "other"]), "columns.kind.values.0", "a valid string"),
    "a key that is no text": (lambda w: w["columns"].update({1: {"type": "id"}}), "columns", "a key that is text"),
    "a date": (column("kind", description=date(2026, 1, 1)), "columns.kind.description", "text"),
    "thirteen groups": (
        lambda w: w.update(features=[
            {"name": f"n{i}", "kind": "window", "entity": "user", "aggregate": "count", "window": "1d",
             "group": f"g{i}"} for i in range(13)
        ]),
        "features", "at most 12 groups",
    ),
    "no inputs": (
        lambda w: w.update(features=[{**w["features"][0], "input": False}]), "features", "1 to 1024 inputs",
    ),
    "too many features": (
        lambda w: w.update(features=[
            {"name": f"n{i}_{{window}}", "kind": "window", "entity": "user", "aggregate": "count",
             "window": [f"{h}h" for h in range(1, 17)]} for i in range(17)
        ]),
        "features", "at most 256 features",
    ),
}  # fmt: skip


def test_the_small_declaration_is_valid() -> None:
    assert parse(SMALL).to_learn == ("country",)


@pytest.mark.parametrize("label", WRONG)
def test_a_wrong_declaration_has_the_path_of_its_error(label: str) -> None:
    change, path, expected = WRONG[label]
    with pytest.raises(DeclarationError) as caught:
        parse(changed(change))
    assert ".".join(map(str, caught.value.path)) == path
    assert expected in caught.value.expected


@pytest.mark.parametrize("written", [None, [], "features", 3, {}])
def test_something_else_is_no_declaration(written: object) -> None:
    with pytest.raises(DeclarationError):
        parse(written)


def test_deep_nesting_is_refused() -> None:
    deep: Any = "x"
    for _ in range(3_000):
        deep = [deep]
    with pytest.raises(DeclarationError, match="at most 16 levels"):
        parse({"features": deep})


def test_a_line_with_several_windows_becomes_several_features() -> None:
    found = parse(changed(feature("mean_7d", name="mean_{window}", window=["24h", "90m", "120m"])) | {
        "features": [{"name": "mean_{window}", "kind": "window", "entity": "user", "aggregate": "mean",
                      "column": "amount", "window": ["24h", "90m", "120m"]}]})  # fmt: skip
    assert [(f.name, f.window) for f in found.windows()] == [
        ("mean_1d", 86_400_000_000), ("mean_90m", 5_400_000_000), ("mean_2h", 7_200_000_000),
    ]  # fmt: skip


def test_defaults_of_an_entity() -> None:
    user, device = parse(SMALL).entities["user"], parse(SMALL).entities["device"]
    assert (user.max_events, user.keep) == (1_024, 14 * 86_400_000_000)
    assert (device.max_events, device.keep) == (None, None)  # it has no windows


# What the hashes depend on


def reordered(written: Any) -> Any:  # noqa: ANN401 - any part of a declaration
    """The same content with the keys of every mapping in reverse."""
    if isinstance(written, dict):
        return {key: reordered(written[key]) for key in reversed(written)}
    return [reordered(item) for item in written] if isinstance(written, list) else written


SAME: dict[str, Change] = {
    "description of a column": column("kind", description="Another text."),
    "description of a feature": feature("amount", description="Text."),
    "role in the simulator": column("miles", simulate="place"),
    "an integer for a float": column("miles", min=0.0, max=100.0),
    "a default that is written": feature("amount", default=0.0, input=True),
    "default bounds that are written": entity("user", max_events=1_024, keep="14d"),
    "another unit of a duration": feature("mean_7d", window="168h"),
    "default time of snapshots": lambda w: w.update(daily={"available_at": "03:00"}),
    "default unknown": column("kind", unknown="other"),
}
DIFFERENT: dict[str, tuple[Change, bool]] = {
    # label: change, whether stored values change
    "type": (column("miles", decimals=2), True),
    "bounds": (column("miles", max=99), True),
    "unit": (column("miles", unit="km"), True),
    "values": (column("kind", values=["other", "a"]), True),
    "learn": (column("country", learn=4), True),
    "unknown": (column("country", unknown="elsewhere"), True),
    "new column": (column("x", type="flag"), True),
    "id of an entity": (entity("device", id="merchant_id"), True),
    "max_events": (entity("user", max_events=64), True),
    "keep": (entity("user", keep="15d"), True),
    "available_at": (lambda w: w.update(daily={"available_at": "04:00"}), True),
    "window": (feature("mean_7d", window="8d"), True),
    "aggregate": (feature("mean_7d", aggregate="max"), True),
    "value": (feature("share_a", value="other"), True),
    "days": (feature("rate", days=7), True),
    "label delay": (feature("rate", label_delay_days=8), True),
    "strength": (feature("rate", strength=1), True),
    "name": (feature("rate", name="rate_30d"), True),
    "default": (feature("mean_7d", default=1), False),
    "default of a column": (feature("miles", default=1), False),
    "group": (feature("mean_7d", group="spending"), False),
    "input": (feature("mean_7d", input=False), False),
    "new request feature": (request("weekend", op="day_in", days=[5, 6]), False),
    "operands": (feature("to_mean", of="miles"), False),
    "order": (lambda w: w["features"].reverse(), False),
}


@pytest.mark.parametrize("label", SAME)
def test_texts_and_spelling_do_not_change_the_hashes(label: str) -> None:
    same, found = parse(SMALL), parse(changed(SAME[label]))
    assert (found.hash, found.stored_hash) == (same.hash, same.stored_hash)
    assert found.canonical() == same.canonical()


@pytest.mark.parametrize("label", DIFFERENT)
def test_every_change_of_the_meaning_changes_the_hash(label: str) -> None:
    change, stored = DIFFERENT[label]
    same, found = parse(SMALL), parse(changed(change))
    assert found.hash != same.hash
    assert (found.stored_hash != same.stored_hash) == stored


def test_comments_whitespace_and_the_order_of_keys_do_not_change_the_hash() -> None:
    text = Path("feature_repo/features.yaml").read_text()
    shipped = parse(yaml.safe_load(text))
    without = parse(yaml.safe_load("\n".join(line for line in text.splitlines() if not line.strip().startswith("#"))))
    flow = parse(yaml.safe_load(yaml.safe_dump(yaml.safe_load(text), default_flow_style=True, width=1_000)))
    assert shipped.hash == without.hash == flow.hash == parse(reordered(yaml.safe_load(text))).hash


def test_the_days_of_a_week_are_a_set() -> None:
    one, two = (parse(changed(request("x", op="day_in", days=days))) for days in ([6, 5], [5, 6, 5]))
    assert one.hash == two.hash


def test_learnt_lists_do_not_change_the_hashes_and_travel_with_the_canonical_form() -> None:
    found = parse(SMALL)
    learnt = found.resolved({"country": ("DE", "San Marino", "other")})
    assert (learnt.hash, learnt.stored_hash) == (found.hash, found.stored_hash)
    read = parse(json.loads(learnt.canonical()), learnt=True)
    assert Plan(read).vector.names[-3:] == ("country_DE", "country_San Marino", "country_other")
    with pytest.raises(DeclarationError, match="values or learn, not both"):
        parse(json.loads(learnt.canonical()))


def test_layouts_of_different_closed_lists_are_different() -> None:
    """A text that one list has and the other has not is stored as different integers."""
    one, two = (
        Plan(parse(changed(c))).windows[0].layout.id
        for c in (lambda _: None, column("kind", values=["a", "b", "other"]))
    )
    assert one != two
    described = Plan(parse(changed(SAME["description of a column"]))).windows[0].layout.id
    assert described == one


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(declarations())
def test_the_canonical_form_of_any_declaration_reads_back(found: Declaration) -> None:
    read = parse(json.loads(found.canonical()), learnt=True)
    assert read.canonical() == found.canonical()
    assert (read.hash, read.stored_hash) == (found.hash, found.stored_hash)
    assert Plan(read).vector.names == Plan(found).vector.names


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(written_declarations())
def test_the_order_of_keys_of_any_declaration_does_not_matter(written: dict[str, Any]) -> None:
    assert parse(reordered(written)).canonical() == parse(written).canonical()
