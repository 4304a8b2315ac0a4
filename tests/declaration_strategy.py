"""Hypothesis strategies: valid feature declarations, values of their columns, and histories of their entities."""

from typing import Any, Final

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from fraud.core.columns import number, to_stored
from fraud.core.declaration import Declaration, parse
from fraud.core.declaration_types import (
    AGGREGATES,
    BUILT_IN,
    DAILY_AGGREGATES,
    CategoryColumn,
    Column,
    FlagColumn,
    NumberColumn,
)
from fraud.core.history import Layout

WORDS: Final = ("other", "a", "b c", "Été", "no", "x_1")
WINDOWS: Final = ("90s", "15m", "1h", "36h", "7d", "30d", "90d")
DAY_US: Final = 86_400_000_000
_FEW: Final = st.integers(0, 64)
AT_US: Final = 1_767_268_800_000_000
"""2026-01-01T12:00:00Z."""


@st.composite
def written_declarations(draw: st.DrawFn, *, learn: bool = True, daily: bool = True, least: int = 0) -> dict[str, Any]:
    """A valid declaration as the YAML file has it: columns of every type, up to three entities, up to 16 lines.

    `learn`: whether category columns may be learnt at training. `daily`: whether there may be daily features. `least`:
    lines with window or daily features, at least.
    """
    columns: dict[str, Any] = {f"c{i}": draw(_columns(learn=learn)) for i in range(draw(st.integers(0, 6)))}
    types = {"user_id": "id", "merchant_id": "id", "amount": "number"}
    types |= {name: column["type"] for name, column in columns.items()}
    whole = {"amount"} | {name for name, column in columns.items() if "decimals" in column}
    ids = [name for name, kind in types.items() if kind == "id"]
    entities = {
        name: {"id": draw(st.sampled_from(ids))}
        | draw(
            st.fixed_dictionaries({}, optional={"max_events": st.sampled_from([8, 64, 1_024]), "keep": st.just("97d")})
        )
        for name in draw(
            st.lists(st.sampled_from(["user", "device", "terminal"]), unique=True, min_size=min(least, 1), max_size=3)
        )
    }
    lines = list[dict[str, Any]]()
    for i in range(draw(st.integers(least, 12))) if entities else ():
        kind = draw(st.sampled_from(["window", "daily"] if daily else ["window"]))
        rules = AGGREGATES if kind == "window" else DAILY_AGGREGATES
        usable = {
            aggregate: [n for n, t in types.items() if t in kinds and (t != "number" or n in whole)]
            for aggregate, kinds in rules.items()
        }
        aggregate = draw(st.sampled_from([a for a in rules if usable[a] or not rules[a]]))
        line = {
            "name": f"f{i}",
            "kind": kind,
            "entity": draw(st.sampled_from(sorted(entities))),
            "aggregate": aggregate,
        }
        if usable[aggregate]:
            line["column"] = draw(st.sampled_from(usable[aggregate]))
            column = columns.get(line["column"], {})
            if aggregate == "share" and column["type"] == "category":
                line["value"] = draw(st.sampled_from(column.get("values", WORDS)))
        field, spans = ("window", st.sampled_from(WINDOWS)) if kind == "window" else ("days", st.integers(1, 90))
        if draw(st.booleans()):
            line[field] = draw(spans)
        else:
            line[field] = draw(st.lists(spans, min_size=1, max_size=3, unique=True))
            line["name"] += f"_{{{field}}}"
        if aggregate == "fraud_rate":
            line |= draw(st.fixed_dictionaries({}, optional={"label_delay_days": st.integers(0, 60),
                                                             "strength": st.floats(0, 1e6)}))  # fmt: skip
        if aggregate in ("mean", "min", "max", "seconds_since_last", "share", "same_as_last", "fraud_rate"):
            line |= draw(_defaults())
        lines.append(line | draw(_groups()))
    lines += draw(_request_lines(columns, lines))
    lines = draw(st.permutations(lines))
    # `amount` is always among the request lines, so there is an input.
    written = {"columns": columns, "entities": entities, "features": lines}
    return written | draw(st.fixed_dictionaries({}, optional={"daily": st.just({"available_at": "05:30"})}))


def _groups() -> st.SearchStrategy[dict[str, Any]]:
    """At most four groups, so that there are never more than ten with those of columns."""
    return st.fixed_dictionaries({"group": st.sampled_from(["g0", "g1"])}, optional={"input": st.booleans()})


def _defaults() -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional={"default": st.floats(-1e15, 1e15)})


@st.composite
def _request_lines(draw: st.DrawFn, columns: dict[str, Any], given: list[dict[str, Any]]) -> list[dict[str, Any]]:
    lines = [
        {"name": name, "kind": "request", "op": "column", "column": name, "group": "g2"}
        | (draw(_defaults()) if name != "amount" and columns[name]["type"] != "category" else {})
        for name in ["amount", *columns]
        if name == "amount" or (columns[name]["type"] != "id" and draw(st.booleans()))
    ]
    lines += [{"name": op, "kind": "request", "op": op} for op in ("hour_of_day", "day_of_week") if draw(st.booleans())]
    if draw(st.booleans()):
        lines.append({"name": "at_hours", "kind": "request", "op": "hour_between", "first": draw(st.integers(0, 23)),
                      "until": draw(st.integers(0, 24))})  # fmt: skip
    if draw(st.booleans()):
        days = draw(st.lists(st.integers(0, 6), min_size=1, max_size=7))
        lines.append({"name": "on_days", "kind": "request", "op": "day_in", "days": days})
    categories = {name for name, column in columns.items() if column["type"] == "category"}
    base = [
        line["name"] for line in [*given, *lines] if line.get("column") not in categories or line["kind"] != "request"
    ]
    base = [name for name in base if "{" not in name]
    numbers, missing = list(base), [n for n in base if n not in ("at_hours", "on_days")]
    for i in range(draw(st.integers(0, 5))):
        op = draw(st.sampled_from(["missing", "ratio", "difference"]))
        line: dict[str, Any] = {"name": f"d{i}", "kind": "request", "op": op}
        if op == "missing":
            line["of"] = draw(st.sampled_from(missing))
        else:
            second = "by" if op == "ratio" else "minus"
            line |= {"of": draw(st.sampled_from(numbers)), second: draw(st.sampled_from(numbers))}
            if op == "ratio":
                line |= draw(st.fixed_dictionaries(
                    {}, optional={"default": st.one_of(st.floats(-1e15, 1e15), st.sampled_from(numbers))}))  # fmt: skip
        lines.append(line)
        numbers.append(line["name"])
    return lines


@st.composite
def _columns(draw: st.DrawFn, *, learn: bool) -> dict[str, Any]:
    kind = draw(st.sampled_from(["number", "flag", "category", "id"]))
    if kind == "number":
        low, high = sorted(draw(st.lists(st.integers(-(10**6), 10**6), min_size=2, max_size=2, unique=True)))
        written = {"type": kind, "unit": "miles", "min": float(low), "max": high}
        return written | draw(st.fixed_dictionaries({}, optional={"decimals": st.integers(0, 6)}))
    if kind != "category":
        return {"type": kind}
    if learn and draw(st.booleans()):
        return {"type": kind, "learn": draw(st.integers(1, 4))}
    values = draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=5, unique=True))
    return {"type": kind, "values": values, "unknown": draw(st.sampled_from(values))}


def declarations(*, daily: bool = True, least: int = 0) -> st.SearchStrategy[Declaration]:
    """Declarations as model versions have them: with the lists of learnt columns filled in."""
    return written_declarations(daily=daily, least=least).map(parse).flatmap(_resolved)


@st.composite
def _resolved(draw: st.DrawFn, found: Declaration) -> Declaration:
    words = st.lists(st.sampled_from(WORDS[1:]), unique=True, max_size=4)
    return found.resolved({name: tuple(sorted(["other", *draw(words)])) for name in found.to_learn})


def values(column: Column) -> st.SearchStrategy[float | str | bool | None]:
    """Checked values of a column, as `columns.number` and `columns.category` return them; None is null."""
    if isinstance(column, NumberColumn):
        within = st.floats(column.min, column.max).map(lambda value: number(column, value))
        return st.none() | within | st.sampled_from([column.min, column.max])
    if isinstance(column, FlagColumn):
        return st.sampled_from([None, False, True])
    if isinstance(column, CategoryColumn):
        return st.sampled_from(WORDS if column.learn is not None else column.values or WORDS)
    return st.sampled_from([None, "", "id-1", "id-2", "ID-1"]).map(lambda text: text or None)


def column_values(declaration: Declaration, name: str) -> st.SearchStrategy[float | str | bool | None]:
    """Checked values of a declared or built-in column. The built-in ones are never null."""
    if name == "amount":
        return st.integers(1, 10**13).map(lambda units: units / 10_000)
    found = values(declaration.column(name))
    return found.filter(lambda value: value is not None) if name in BUILT_IN else found


@st.composite
def histories(
    draw: st.DrawFn, layout: Layout, declaration: Declaration, size: st.SearchStrategy[int] = _FEW
) -> NDArray[np.void]:
    """Events of an entity in order of sequence: Layout.record[n], n <= max_events, in any order of event time.

    Many event times are equal, equal to AT_US, or exactly one of WINDOWS before it.
    """
    count = min(draw(size), layout.max_events)
    lengths = [90, 900, 3_600, 129_600, 604_800, 2_592_000, 7_776_000]
    edges = st.tuples(st.sampled_from([0, *lengths]), st.integers(-1, 1)).map(lambda t: t[0] * 1_000_000 + t[1])
    before = edges | st.integers(-DAY_US, 100 * DAY_US)
    # Long histories repeat a short draw: hypothesis draws thousands of values slowly.
    short = draw(st.lists(st.tuples(before, *(_stored(layout, declaration, i) for i in range(len(layout.columns)))),
                          min_size=min(count, 20), max_size=min(count, 64)))  # fmt: skip
    events = np.zeros(count, dtype=layout.record)
    if not count:
        return events
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    chosen = np.arange(count) if count <= len(short) else rng.integers(0, len(short), count)
    events[:] = np.array([(AT_US - row[0], *row[1:]) for row in short], dtype=layout.record)[chosen]
    if count > len(short):
        events["event_us"] -= rng.integers(0, 2, count) * rng.integers(0, 40 * DAY_US, count)
    return events


def _stored(layout: Layout, declaration: Declaration, i: int) -> st.SearchStrategy[int]:
    column = layout.columns[i]
    return column_values(declaration, column.name).map(lambda value: to_stored(column, value))
