"""The compiled kernel, its loops uncompiled, the request's point function and a naive oracle agree to the last bit."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud.core import history, windows
from fraud.core.contract import US_PER_DAY, US_PER_HOUR, US_PER_SECOND
from fraud.core.features import RETENTION_US, WINDOW_FEATURES, WindowFeature
from fraud.features.engines import kernel

EVERY_AGGREGATION = (
    *WINDOW_FEATURES,
    WindowFeature("total_30d", "sum", "amount", 30 * US_PER_DAY, "float64", 0.0),
    WindowFeature("seconds_since_last_7d", "seconds_since_last", "event_timestamp", 7 * US_PER_DAY, "float64", None),
)
HOUR, DAY = 3_600_000_000, 86_400_000_000


@dataclass(frozen=True)
class Event:
    at: int
    learned: int
    units: int
    merchant: int


def oracle(events: list[Event], bound: int) -> list[tuple[float | None, ...]]:
    """The definition of docs/features.md, word by word, O(n^2): 1 h count, 7 d mean, 30 d distinct, 30 d sum, 7 d gap.

    `events` are one user's, sorted by (at, learned); those with the same ingestion time keep their order.
    """
    order = sorted(range(len(events)), key=lambda i: (events[i].learned, i))
    values: dict[int, tuple[float | None, ...]] = {}
    taken: list[Event] = []
    for i in order:
        e, known = events[i], taken[-bound:]
        newest = max((x.at for x in taken), default=0)
        if e.at >= newest - 37 * DAY:
            taken.append(e)
        recent = [x for x in known if x.at < e.at and x.at >= newest - 37 * DAY]
        hour, week, month = ([x for x in recent if e.at - x.at <= length] for length in (HOUR, 7 * DAY, 30 * DAY))
        values[i] = (
            float(len(hour)),
            float(sum(x.units for x in week)) / float(len(week) * 10_000) if week else None,
            float(len({x.merchant for x in month})),
            float(sum(x.units for x in month)) / 10_000.0,
            (e.at - max(x.at for x in week)) / 1_000_000 if week else None,
        )
    return [values[i] for i in range(len(events))]


def compiled(users: list[list[Event]], bound: int) -> list[tuple[float | None, ...]]:
    flat = [event for events in users for event in events]
    starts = np.cumsum([0, *(len(events) for events in users)])
    columns = [np.array([getattr(e, name) for e in flat], dtype=np.int64) for name in ("at", "learned", "units")]
    merchant = np.array([e.merchant for e in flat], dtype=np.int32)
    out = kernel.compute(starts, *columns, merchant, 8, features=EVERY_AGGREGATION, bound=bound)
    return [tuple(None if np.isnan(v) else float(v) for v in row) for row in out.T]


def interpreted(events: list[Event], bound: int) -> list[tuple[float | None, ...]]:
    """The definition's own loop as Python runs it, without the compiler."""
    columns = [np.array([getattr(e, name) for e in events], dtype=np.int64) for name in ("at", "learned", "units")]
    merchant = np.array([e.merchant for e in events], dtype=np.int32)
    rows = []
    divisors = {"mean": 10_000, "sum": 10_000, "seconds_since_last": 1_000_000}
    for f, kind in zip(EVERY_AGGREGATION, (0, 2, 3, 1, 4), strict=True):
        out = np.empty(len(events))
        empty = np.nan if f.empty is None else f.empty
        kernel.define.py_func(  # type: ignore[attr-defined]
            kind, divisors.get(f.aggregation, 1), f.window_us, empty, bound, RETENTION_US, *columns, merchant,
            np.full(8, -1), 0, out,
        )  # fmt: skip
        rows.append(out)
    return [tuple(None if np.isnan(v) else float(v) for v in row) for row in np.array(rows).T]


def at_request(events: list[Event], bound: int) -> list[tuple[float | None, ...]]:
    """What serving would have computed, event by event, in the order of learning."""
    values: dict[int, tuple[float | None, ...]] = {}
    records = np.zeros(0, dtype=history.RECORD)
    newest = 0
    for i in sorted(range(len(events)), key=lambda i: (events[i].learned, i)):
        e = events[i]
        point = windows.evaluate(records[-bound:], newest, e.at, EVERY_AGGREGATION)
        values[i] = tuple(None if v is None else float(v) for v in point)
        if e.at < newest - RETENTION_US:
            continue
        records = np.append(records, np.array([(e.at, e.units, e.merchant)], dtype=history.RECORD))
        newest = max(newest, e.at)
    return [values[i] for i in range(len(events))]


EDGES = [0, 1, HOUR - 1, HOUR, HOUR + 1, 7 * DAY - 1, 7 * DAY, 7 * DAY + 1, 30 * DAY - 1, 30 * DAY, 30 * DAY + 1,
         37 * DAY - 1, 37 * DAY, 37 * DAY + 1]  # fmt: skip
gaps = st.one_of(st.sampled_from(EDGES), st.integers(0, 3 * HOUR), st.integers(0, 50 * DAY))
delays = st.one_of(st.just(0), st.sampled_from(EDGES), st.integers(0, 60 * DAY))


@st.composite
def users(draw: st.DrawFn, late: bool) -> list[Event]:
    at = draw(st.integers(1_500_000_000_000_000, 1_900_000_000_000_000))
    events = []
    for gap in draw(st.lists(gaps, min_size=1, max_size=14)):
        at += gap
        learned = at + (draw(delays) if late else 0)
        events.append(Event(at, learned, draw(st.integers(1, 10_000_000_000_000)), draw(st.integers(0, 7))))
    return sorted(events, key=lambda e: (e.at, e.learned))


bounds = st.sampled_from([1, 2, 3, 5, 1_024])
EXAMPLES = int(os.environ.get("PROPERTY_EXAMPLES", "300"))
compared: Counter[str] = Counter()


@pytest.fixture(scope="module", autouse=True)
def _print_what_was_compared(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(
            "\nwindows against the oracle, all bits equal: "
            + ", ".join(f"{n:,} {what}" for what, n in compared.items())
        )


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(users(late=True), min_size=1, max_size=4), bounds)
def test_late_and_tied_events_give_the_same_bits_everywhere(some_users: list[list[Event]], bound: int) -> None:
    expected = [value for events in some_users for value in oracle(events, bound)]
    assert compiled(some_users, bound) == expected
    assert [v for events in some_users for v in interpreted(events, bound)] == expected
    assert [v for events in some_users for v in at_request(events, bound)] == expected
    compared.update(logs=1, users=len(some_users), values=len(EVERY_AGGREGATION) * len(expected))


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(users(late=False), min_size=1, max_size=4), bounds)
def test_events_in_order_give_the_same_bits_everywhere(some_users: list[list[Event]], bound: int) -> None:
    expected = [value for events in some_users for value in oracle(events, bound)]
    assert compiled(some_users, bound) == expected
    assert [v for events in some_users for v in at_request(events, bound)] == expected
    compared.update(logs=1, users=len(some_users), values=len(EVERY_AGGREGATION) * len(expected))


def one_user(*times: datetime) -> list[Event]:
    stamps = [int(t.timestamp()) * US_PER_SECOND for t in times]
    return [Event(t, t, 10_000 * (i + 1), i) for i, t in enumerate(stamps)]


def test_a_clock_change_and_a_leap_day_are_ordinary_hours_and_days_in_utc() -> None:
    summer_time = one_user(datetime(2024, 3, 31, 0, 30, tzinfo=UTC), datetime(2024, 3, 31, 1, 30, tzinfo=UTC))
    leap_day = one_user(datetime(2024, 2, 22, 12, tzinfo=UTC), datetime(2024, 2, 29, 12, tzinfo=UTC))
    assert compiled([summer_time], 1_024)[1][:3] == (1.0, 1.0, 1.0)
    assert compiled([leap_day], 1_024)[1][:3] == (0.0, 1.0, 1.0)


def test_a_single_event_has_no_history() -> None:
    assert compiled([one_user(datetime(2026, 1, 1, tzinfo=UTC))], 1_024) == [(0.0, None, 0.0, 0.0, None)]


@pytest.mark.parametrize("late", [False, True])
def test_a_user_with_a_hundred_thousand_events_sees_the_last_1024_known(late: bool) -> None:
    n = 100_000
    at = 1_700_000_000_000_000 + np.arange(n) * (30 * US_PER_DAY // n)
    learned = at.copy()
    if late:
        learned[5] = learned[-1] + 1
    units, merchant = np.full(n, 20_000), (np.arange(n) % 2_000).astype(np.int32)
    out = kernel.compute(np.array([0, n]), at, learned, units, merchant, 2_000)
    assert out[:, -1].tolist() == [float(US_PER_HOUR * n // (30 * US_PER_DAY)), 2.0, 1_024.0]
    assert out[:, 1_025].tolist() == [138.0, 2.0, 1_024.0]
    assert out[2, 1_000] == (999.0 if late else 1_000.0)


def test_events_are_grouped_by_user_in_their_order() -> None:
    starts, order = kernel.group(np.array([2, 0, 2, 1, 0], dtype=np.int32), 4)
    assert starts.tolist() == [0, 2, 3, 5, 5]
    assert order.tolist() == [1, 4, 3, 0, 2]
