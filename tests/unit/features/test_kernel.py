"""The compiled kernel and the point function of a request agree with a naive oracle, bit by bit."""

import os
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.oracle_windows import Event, Feature, window_values

from fraud.core.columns import StoredColumn, to_stored
from fraud.core.contract import US_PER_SECOND
from fraud.core.declaration_types import AGGREGATES as DECLARED
from fraud.core.declaration_types import WindowFeature, duration_text
from fraud.core.history import Layout
from fraud.core.windows import WindowSet
from fraud.features.engines import aggregates, kernel

HOUR, DAY = 3_600_000_000, 86_400_000_000
COLUMNS: Final = (
    StoredColumn("balance", "number", 4), StoredColumn("category", "category", 0), StoredColumn("flag", "flag", 0),
    StoredColumn("merchant", "id", 0),
)  # fmt: skip
TEXTS: Final = ("a", "b", "c")
BY_TYPE: Final[dict[str, list[int]]] = {}
for _index, _column in enumerate(COLUMNS):
    BY_TYPE.setdefault(_column.type, []).append(_index)


def kernel_windows(features: list[Feature]) -> list[kernel.Window]:
    return [
        kernel.Window(
            f.aggregate, f.column, f.window_us, f.divisor,
            int(np.array(to_stored(COLUMNS[f.column], f.value), dtype=np.uint64).view(np.int64))
            if f.aggregate == "share" else 0,
        )
        for f in features
    ]  # fmt: skip


def stored(events: list[Event]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """int64[len(COLUMNS), n] as histories store them."""
    out = np.empty((len(COLUMNS), len(events)), dtype=np.int64)
    for c, column in enumerate(COLUMNS):
        values = [to_stored(column, e.columns[c]) for e in events]
        if column.type == "number":  # the oracle's numbers are units
            values = [column.null if e.columns[c] is None else int(e.columns[c] or 0) for e in events]
        out[c] = np.array(values, dtype=np.int64 if column.type == "number" else np.uint64).view(np.int64)
    return out


NULLS: Final = np.array([column.null for column in COLUMNS], dtype=np.int64)


def compiled(
    entities: list[list[Event]], features: list[Feature], bound: int, keep_us: int, threads: int = 1
) -> list[list[float | None]]:
    """The kernel's values of all events. The rows of the entities are interleaved by time, as in the lake."""
    flat = [(g, i, e) for g, events in enumerate(entities) for i, e in enumerate(events)]
    rows = sorted(flat, key=lambda row: (row[2].at, row[2].ingested, row[1], row[0]))
    starts, order = kernel.group(np.array([g for g, _, _ in rows], dtype=np.int32), len(entities))
    events = [e for _, _, e in rows]
    at, ingested = (np.array([getattr(e, name) for e in events], dtype=np.int64) for name in ("at", "ingested"))
    out = kernel.compute(
        kernel_windows(features), starts, order, at, ingested, stored(events), NULLS, bound, keep_us, threads
    )  # fmt: skip
    of_row = {(g, i): column for (g, i, _), column in zip(rows, out.T, strict=True)}
    return [[None if np.isnan(v) else float(v) for v in of_row[g, i]] for g, i, _ in flat]


def at_request(events: list[Event], features: list[Feature], bound: int, keep_us: int) -> list[list[float | None]]:
    """What serving computes, event by event, in the order of ingestion."""
    layout = Layout("user", "user_id", COLUMNS, bound, keep_us)
    declared = [
        WindowFeature(
            name=f"f{i}", kind="window", entity="user", aggregate=f.aggregate, window=duration_text(f.window_us),
            column=None if f.column < 0 else COLUMNS[f.column].name,
            value=f.value if isinstance(f.value, str) else None,
        )
        for i, f in enumerate(features)
    ]  # fmt: skip
    windows = WindowSet(layout, declared)
    values: dict[int, list[float | None]] = {}
    records, newest = np.zeros(0, dtype=layout.record), 0
    columns = stored(events)
    for i in sorted(range(len(events)), key=lambda i: (events[i].ingested, i)):
        at = events[i].at
        own = columns[:, i].astype(np.int64)
        record = np.zeros(1, dtype=layout.record)
        record["event_us"] = at
        for c, column in enumerate(COLUMNS):
            record[column.name] = own[c : c + 1].view(np.uint64) if column.format == "Q" else own[c]
        own_values = [record[column.name][0].item() for column in COLUMNS]
        values[i] = windows.evaluate(records[-bound:], newest, at, own_values)
        if at >= newest - keep_us:
            records, newest = np.append(records, record), max(newest, at)
    return [values[i] for i in range(len(events))]


LENGTHS: Final = (1_000_000, HOUR, DAY, 7 * DAY, 30 * DAY)
EDGES: Final = sorted({w + d for w in (*LENGTHS, 37 * DAY) for d in (-1, 0, 1)} | {0, 1})
gaps = st.one_of(st.sampled_from(EDGES), st.integers(0, 3 * HOUR), st.integers(0, 50 * DAY))
delays = st.one_of(st.just(0), st.sampled_from(EDGES), st.integers(0, 3 * HOUR), st.integers(0, 60 * DAY))
numbers = st.one_of(st.none(), st.integers(-3, 3), st.integers(1, 10**13))
columns = st.tuples(
    numbers, st.sampled_from(TEXTS), st.sampled_from([True, False, None]), st.sampled_from([*TEXTS, "d", "e", None])
)


@st.composite
def one_feature(draw: st.DrawFn) -> Feature:
    aggregate = draw(st.sampled_from(sorted(aggregates.AGGREGATES)))
    types = DECLARED[aggregate]  # type: ignore[index]
    column = draw(st.sampled_from([c for t in types for c in BY_TYPE[t]])) if types else -1
    value: bool | str = True
    if aggregate == "share" and COLUMNS[column].type == "category":
        value = draw(st.sampled_from(TEXTS))
    divisor = COLUMNS[column].divisor if aggregate in ("sum", "mean", "min", "max") else 1
    return Feature(aggregate, column, draw(st.sampled_from(LENGTHS)), divisor, value)


@st.composite
def one_entity(draw: st.DrawFn, late: bool) -> list[Event]:
    at = draw(st.integers(1_500_000_000_000_000, 1_900_000_000_000_000))
    events = []
    for gap in draw(st.lists(gaps, min_size=1, max_size=14)):
        at += gap
        events.append(Event(at, at + (draw(delays) if late else 0), draw(columns)))
    return sorted(events, key=lambda e: (e.at, e.ingested))


features_ = st.lists(one_feature(), min_size=1, max_size=8)
bounds = st.sampled_from([1, 2, 3, 5, 1_024])
keeps = st.sampled_from([3 * DAY, 30 * DAY, 31 * DAY, 37 * DAY])
blocks = st.sampled_from([1, 2, 5, 16_384])
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


@pytest.mark.parametrize("late", [True, False], ids=["late", "in order"])
@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data(), features=features_, bound=bounds, keep_us=keeps, block=blocks)
def test_random_windows_of_random_logs_have_the_same_bits_everywhere(
    late: bool, data: st.DataObject, features: list[Feature], bound: int, keep_us: int, block: int
) -> None:
    entities = data.draw(st.lists(one_entity(late=late), min_size=1, max_size=4))
    oracle = [window_values(events, features, bound, keep_us) for events in entities]
    expected = [values[i] for values in oracle for i in range(len(values))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "BLOCK", block)
        assert compiled(entities, features, bound, keep_us) == expected
    assert [v for events in entities for v in at_request(events, features, bound, keep_us)] == expected
    compared.update(logs=1, entities=len(entities), values=len(features) * len(expected))


EVERY: Final = [
    Feature("count", -1, HOUR), Feature("count", -1, 30 * DAY), Feature("sum", 0, DAY, 10_000),
    Feature("mean", 0, 7 * DAY, 10_000), Feature("min", 0, 7 * DAY, 10_000), Feature("max", 0, 30 * DAY, 10_000),
    Feature("distinct", 3, 30 * DAY), Feature("matches", 3, 7 * DAY), Feature("seconds_since_last", -1, HOUR),
    Feature("share", 2, DAY), Feature("share", 1, 7 * DAY, value="b"), Feature("same_as_last", 3, 30 * DAY),
]  # fmt: skip


def long_log(n: int, late: float, seed: int) -> list[Event]:
    """One entity over 30 days, a tenth of the events at the microsecond of the one before; nulls in every column."""
    rng = np.random.default_rng(seed)
    at = np.sort(rng.integers(0, 30 * DAY, n))
    at = np.where(rng.random(n) < 0.1, np.roll(at, 1), at)
    at = 1_700_000_000_000_000 + np.sort(at)
    # A few are ingested much later, most within a minute.
    delay = np.where(rng.random(n) < 0.2, rng.integers(0, 40 * DAY, n), rng.integers(0, 60_000_000, n))
    ingested = at + np.where(rng.random(n) < late, delay, 0)
    numbers = rng.integers(-5, 10**9, n).tolist()
    events = [
        Event(
            int(at[i]), int(ingested[i]),
            (None if numbers[i] % 9 == 0 else numbers[i], TEXTS[numbers[i] % 3],
             [True, False, None][numbers[i] % 7 % 3], None if numbers[i] % 11 == 0 else f"m{numbers[i] % 700}"),
        )
        for i in range(n)
    ]  # fmt: skip
    return sorted(events, key=lambda e: (e.at, e.ingested))


@pytest.mark.parametrize(
    ("n", "late", "bound"), [(100_000, 0.0, 1_024), (40_000, 0.02, 1_024), (40_000, 0.6, 100), (10_000, 0.3, 10**6)]
)
def test_an_entity_with_many_events_has_the_values_of_the_oracle(n: int, late: float, bound: int) -> None:
    """More events than a block, and than the bound; compared on samples."""
    events = long_log(n, late, seed=n + bound)
    samples = {0, 1, bound % n, n // 2, n - 1, *np.random.default_rng(1).integers(0, n, 150).tolist()}
    expected = window_values(events, EVERY, bound, 20 * DAY, only=samples)
    found = compiled([events], EVERY, bound, 20 * DAY)
    assert {i: found[i] for i in samples} == expected
    compared.update(logs=1, entities=1, values=len(EVERY) * len(samples))


def test_threads_do_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "BLOCK", 64)
    entities = [long_log(50 + i, 0.3, seed=i) for i in range(40)]
    assert compiled(entities, EVERY, 30, 31 * DAY, threads=3) == compiled(entities, EVERY, 30, 31 * DAY)


def one_user(*times: datetime) -> list[Event]:
    stamps = [int(t.timestamp()) * US_PER_SECOND for t in times]
    return [Event(t, t, (10_000 * (i + 1), "a", True, f"m{i}")) for i, t in enumerate(stamps)]


BY_HAND: Final = [Feature("count", -1, HOUR), Feature("mean", 0, 7 * DAY, 10_000), Feature("distinct", 3, 30 * DAY)]


def test_a_clock_change_and_a_leap_day_are_ordinary_hours_and_days_in_utc() -> None:
    summer_time = one_user(datetime(2024, 3, 31, 0, 30, tzinfo=UTC), datetime(2024, 3, 31, 1, 30, tzinfo=UTC))
    leap_day = one_user(datetime(2024, 2, 22, 12, tzinfo=UTC), datetime(2024, 2, 29, 12, tzinfo=UTC))
    assert compiled([summer_time], BY_HAND, 1_024, 37 * DAY)[1] == [1.0, 1.0, 1.0]
    assert compiled([leap_day], BY_HAND, 1_024, 37 * DAY)[1] == [0.0, 1.0, 1.0]


def test_an_event_without_history_has_the_empty_values() -> None:
    only = one_user(datetime(2026, 1, 1, tzinfo=UTC))
    expected = [0.0, 0.0, 0.0, None, None, None, 0.0, 0.0, None, None, None, None]
    assert compiled([only], EVERY, 1_024, 37 * DAY) == [expected]


def test_values_by_hand() -> None:
    """Four events one hour apart: 1, 3 and a null amount, then the event whose values are computed."""
    rows = [(1, "x"), (3, "y"), (None, "x"), (9, "x")]
    start = 1_700_000_000_000_000
    events = [
        Event(start + i * HOUR, start + i * HOUR, (units and 10_000 * units, "b", i == 1, merchant))
        for i, (units, merchant) in enumerate(rows)
    ]
    expected = [1.0, 3.0, 4.0, 2.0, 1.0, 3.0, 2.0, 2.0, 3_600.0, 1 / 3, 1.0, 1.0]
    assert compiled([events], EVERY, 1_024, 37 * DAY)[3] == expected


def test_rows_are_grouped_in_their_order_and_a_row_without_entity_is_alone() -> None:
    starts, order = kernel.group(np.array([2, 0, -1, 2, 1, 0, -1], dtype=np.int32), 4)
    assert starts.tolist() == [0, 2, 3, 5, 5, 6, 7]
    assert order.tolist() == [1, 5, 4, 0, 3, 2, 6]


def test_every_declared_aggregate_is_in_the_kernel() -> None:
    assert set(aggregates.AGGREGATES) == set(DECLARED)
