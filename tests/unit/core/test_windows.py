"""The window features of one transaction: cases by hand, and any declaration against the definition."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.declaration_strategy import AT_US as AT
from tests.declaration_strategy import column_values, declarations, histories

from fraud.core.columns import NO_NUMBER, text_hash, to_stored
from fraud.core.contract import US_PER_DAY, US_PER_HOUR
from fraud.core.declaration import Declaration, parse
from fraud.core.plan import window_sets
from fraud.core.windows import WindowSet


def declared(*lines: dict[str, object]) -> WindowSet:
    features = [{"name": f"f{i}", "kind": "window", "entity": "user"} | line for i, line in enumerate(lines)]
    (only,) = window_sets(
        parse(
            {
                "columns": {
                    "country": {"type": "category", "values": ["de", "fr", "other"]},
                    "present": {"type": "flag"},
                    "miles": {"type": "number", "unit": "miles", "min": -5, "max": 100, "decimals": 1},
                },
                "entities": {"user": {"id": "user_id", "keep": "37d"}},
                "features": [*features, {"name": "amount", "kind": "request", "op": "column", "column": "amount"}],
            }
        )
    )
    return only


THREE = declared(
    {"aggregate": "count", "window": "1h"},
    {"aggregate": "mean", "column": "amount", "window": "7d"},
    {"aggregate": "distinct", "column": "merchant_id", "window": "30d"},
)


def three(*rows: tuple[int, int, int], newest: int = AT) -> list[float | None]:
    """Values of THREE over events (time, units of amount, merchant)."""
    return THREE.evaluate(np.array(list(rows), dtype=THREE.layout.record), newest, AT, (0, 0))


def test_without_history_counts_are_zero_and_the_mean_is_null() -> None:
    assert three(newest=0) == [0.0, None, 0]


def test_a_window_holds_its_first_microsecond_and_not_the_event_s_own() -> None:
    assert three((AT - US_PER_HOUR, 10_000, 1), (AT, 70_000, 2)) == [1.0, 1.0, 1]
    assert three((AT - US_PER_HOUR - 1, 10_000, 1), (AT + 1, 70_000, 2), newest=AT + 1) == [0.0, 1.0, 1]


def test_the_mean_is_over_seven_days_and_merchants_over_thirty() -> None:
    found = three(
        (AT - 31 * US_PER_DAY, 990_000, 4), (AT - 8 * US_PER_DAY, 550_000, 3), (AT - 2 * US_PER_DAY, 10_001, 2),
        (AT - US_PER_DAY, 20_000, 1), (AT - US_PER_DAY, 30_000, 2),
    )  # fmt: skip
    assert found == [0.0, 60_001 / 30_000, 3]


def test_an_event_eight_days_behind_the_newest_has_a_shorter_month() -> None:
    """newest - 37 days is 29 days before the event: older events may have been dropped."""
    rows = (AT - 29 * US_PER_DAY, 10_000, 1), (AT - 29 * US_PER_DAY - 1, 10_000, 2)
    assert three(*rows, newest=AT + 7 * US_PER_DAY)[2] == 2
    assert three(*rows, newest=AT + 8 * US_PER_DAY)[2] == 1


def test_a_sum_beyond_the_doubles_integers_is_still_exact() -> None:
    rows = [(AT - 1 - i, 10_000_000_000_000 - 1, i) for i in range(1_024)]
    assert three(*rows)[1] == (10_000_000_000_000 - 1) / 10_000


@pytest.mark.parametrize("more", [0, 300], ids=["lists", "arrays"])
def test_every_aggregate_by_hand(more: int) -> None:
    """Four events within a day: one has nulls, two are at the same time. `more` older ones are in no window."""
    found = declared(
        {"aggregate": "count", "window": "1d"},
        {"aggregate": "sum", "column": "miles", "window": "1d"},
        {"aggregate": "mean", "column": "miles", "window": "1d"},
        {"aggregate": "min", "column": "miles", "window": "1d"},
        {"aggregate": "max", "column": "miles", "window": "1d"},
        {"aggregate": "distinct", "column": "country", "window": "1d"},
        {"aggregate": "seconds_since_last", "window": "1d"},
        {"aggregate": "share", "column": "present", "window": "1d"},
        {"aggregate": "share", "column": "country", "value": "de", "window": "1d"},
        {"aggregate": "matches", "column": "merchant_id", "window": "1d"},
        {"aggregate": "same_as_last", "column": "country", "window": "1d"},
    )
    assert [c.name for c in found.layout.columns] == ["country", "merchant_id", "miles", "present"]
    germany = text_hash("de")
    rows = [(AT - 2 * US_PER_DAY, 9, 9, 999, 1)] * more + [
        (AT - 1_500_000, germany, 7, 25, 1),
        (AT - 1_500_000, 5, 7, -12, 0),
        (AT - US_PER_HOUR, germany, 8, 30, 2),
        (AT - US_PER_DAY, 5, 2, NO_NUMBER, 1),
    ]
    events = np.array(rows, dtype=found.layout.record)
    values_ = found.evaluate(events, AT, AT, (5, 7, 0, 0))
    assert values_ == [4.0, 4.3, 43 / 30, -1.2, 3.0, 2.0, 1.5, 2 / 3, 0.5, 2.0, 1.0]
    assert found.evaluate(events, AT, AT, (germany, 3, 0, 0))[-2:] == [0.0, 0.0]  # a new merchant
    assert found.evaluate(events, AT, AT, (0, 0, 0, 0))[-1] is None


def test_aggregates_of_nulls_only_are_null_or_zero() -> None:
    found = declared(
        {"aggregate": "sum", "column": "miles", "window": "1d"},
        {"aggregate": "mean", "column": "miles", "window": "1d"},
        {"aggregate": "max", "column": "miles", "window": "1d"},
        {"aggregate": "share", "column": "present", "window": "1d"},
        {"aggregate": "same_as_last", "column": "present", "window": "1d"},
    )
    for count in (1, 100):
        events = np.array([(AT - 1, NO_NUMBER, 2)] * count, dtype=found.layout.record)
        assert found.evaluate(events, AT, AT, (0, 1)) == [0.0, None, None, None, None]


def defined(
    declaration: Declaration, found: WindowSet, events: NDArray[np.void], newest: int, own: list[int]
) -> list[float | None]:
    """The definition in docs/features.md, with Python's integers and no order but that of time and sequence."""
    expected = list[float | None]()
    names = [column.name for column in found.layout.columns]
    for feature in declaration.windows(found.layout.entity):
        i = names.index(feature.column) if feature.column else None
        first = max(AT - feature.window_us, newest - found.layout.keep_us)
        inside = sorted(
            (int(event["event_us"]), sequence, None if i is None else int(event[i + 1]))
            for sequence, event in enumerate(events)
            if first <= event["event_us"] < AT
        )
        stored = None if i is None else found.layout.columns[i]
        given = [value for _, _, value in inside if stored is None or value != stored.null]
        scale = 10**stored.decimals if stored else 1
        mine = None if i is None or stored is None or own[i] == stored.null else own[i]
        match feature.aggregate:
            case "count":
                value = float(len(inside))
            case "sum":
                value = float(sum(given)) / float(scale)
            case "mean":
                value = float(sum(given)) / float(len(given) * scale) if given else None
            case "min" | "max":
                chosen = {"min": min, "max": max}[feature.aggregate](given) if given else None
                value = None if chosen is None else float(chosen) / float(scale)
            case "distinct":
                value = float(len(set(given)))
            case "seconds_since_last":
                value = float(AT - inside[-1][0]) / 1e6 if inside else None
            case "share":
                counted = 1 if feature.value is None else text_hash(feature.value)
                value = float(given.count(counted)) / float(len(given)) if given else None
            case "matches":
                value = 0.0 if mine is None else float(given.count(mine))
            case "same_as_last":
                last = inside[-1][2] if inside else None
                null = mine is None or stored is None or last in (None, stored.null)
                value = None if null else float(last == mine)
        expected.append(value)
    return expected


@st.composite
def cases(draw: st.DrawFn, size: st.SearchStrategy[int]) -> tuple[Declaration, WindowSet, NDArray[np.void], dict]:
    declaration = draw(declarations(daily=False, least=1))
    found = draw(st.sampled_from(window_sets(declaration)))
    own = {c.name: draw(column_values(declaration, c.name)) for c in found.layout.columns}
    return declaration, found, draw(histories(found.layout, declaration, size)), own


def check(case: tuple[Declaration, WindowSet, NDArray[np.void], dict], behind_us: int) -> None:
    declaration, found, events, own = case
    newest = int(events["event_us"].max(initial=0)) + (behind_us if len(events) else 0)
    stored = [to_stored(c, own[c.name]) for c in found.layout.columns]
    expected = defined(declaration, found, events, newest, stored)
    assert found.evaluate(events, newest, AT, stored) == expected


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases(st.integers(0, 64)), st.integers(0, 100 * US_PER_DAY))
def test_any_declaration_equals_the_definition(case: tuple, behind_us: int) -> None:
    check(case, behind_us)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases(st.integers(60, 400)), st.integers(0, 40 * US_PER_DAY))
def test_a_long_history_equals_the_definition(case: tuple, behind_us: int) -> None:
    check(case, behind_us)
