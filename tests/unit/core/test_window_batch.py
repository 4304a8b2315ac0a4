"""The window features of many transactions at once: equal to those of each transaction, bit for bit."""

import struct
from collections.abc import Sequence

import numpy as np
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.declaration_strategy import AT_US as AT
from tests.declaration_strategy import column_values, declarations, histories
from tests.unit.core.test_windows import THREE

from fraud.core import window_batch
from fraud.core.columns import to_stored
from fraud.core.contract import US_PER_DAY, US_PER_HOUR
from fraud.core.plan import window_sets
from fraud.core.window_batch import WindowTable
from fraud.core.windows import WindowSet

Case = tuple[bytes, int, int, list[int]]
"""Records of a history, newest event time, time of the transaction, its own stored integers."""


def of_three(*events: tuple[int, int, int], at_us: int = AT) -> Case:
    """A transaction at `at_us` after events (time, units of amount, merchant)."""
    records = np.array(list(events), dtype=THREE.layout.record)
    return records.tobytes(), int(records["event_us"].max(initial=0)), at_us, [0, 0]


@st.composite
def batches(draw: st.DrawFn) -> tuple[WindowSet, list[Case]]:
    declaration = draw(declarations(daily=False, least=1))
    found, cases = draw(st.sampled_from(window_sets(declaration))), list[Case]()
    for _ in range(draw(st.integers(1, 8))):
        events = draw(histories(found.layout, declaration, st.integers(0, 40)))
        newest_us = int(events["event_us"].max(initial=0)) + draw(st.integers(0, 100 * US_PER_DAY)) * bool(len(events))
        own = [to_stored(c, draw(column_values(declaration, c.name))) for c in found.layout.columns]
        cases.append((events.tobytes(), newest_us, AT + draw(st.integers(-US_PER_HOUR, US_PER_HOUR)), own))
    return found, cases


def evaluated(found: WindowSet, cases: Sequence[Case]) -> list[list[float | None]]:
    """By transaction; None is null."""
    columns = WindowTable(found).evaluate(*zip(*cases, strict=True))
    assert columns.shape == (len(found.names), len(cases))
    assert columns.dtype == np.float64
    return [[None if np.isnan(value) else value for value in row] for row in columns.T.tolist()]


def bits(values: Sequence[float | None]) -> list[bytes | None]:
    return [None if value is None else struct.pack("<d", value) for value in values]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(batches())
@example((THREE, [of_three()]))
def test_many_transactions_have_the_values_of_each(batch: tuple[WindowSet, list[Case]]) -> None:
    found, cases = batch
    for values, case in zip(evaluated(found, cases), cases, strict=True):
        assert bits(values) == bits(found.evaluate_records(*case))


def test_three_transactions_by_hand() -> None:
    """A history out of order, one without events, one whose only event is at the time of the transaction."""
    cases = [
        of_three((AT - US_PER_HOUR, 10_000, 1), (AT - 8 * US_PER_DAY, 50_000, 2), (AT - 1, 20_000, 1)),
        of_three(),
        of_three((AT, 70_000, 2)),
    ]
    assert evaluated(THREE, cases) == [[2.0, 1.5, 2.0], [0.0, None, 0.0], [0.0, None, 0.0]]


def test_events_out_of_order_and_centuries_apart_are_sorted() -> None:
    """Their times do not fit into one sort key with the number of the history."""
    cases = [of_three((AT - 1, 20_000, 1), (-(2**62), 70_000, 2), (AT - 2, 10_000, 3))] * 5
    assert evaluated(THREE, cases) == [[2.0, 1.5, 2.0]] * 5


def test_sums_over_many_long_histories_do_not_overflow() -> None:
    """The sum over all of them is above 2**63; that of each is not."""
    case = of_three(*((AT - 1 - i, 10_000_000_000_000 - 1, 1 + i) for i in range(1_000)))
    assert evaluated(THREE, [case] * 1_000) == [[1_000.0, (10_000_000_000_000 - 1) / 10_000, 1_000.0]] * 1_000


def test_values_of_two_histories_with_the_same_sort_key_are_distinguished() -> None:
    """Their 64-bit hashes differ, and so do the histories, but not what the values are sorted by."""
    first, twin = 12_345, 12_345 ^ int(window_batch._MIX)
    cases = [
        of_three((AT - 5, 10_000, first), (AT - 4, 10_000, 7), (AT - 3, 10_000, first)),
        of_three((AT - 5, 10_000, twin), (AT - 4, 10_000, first), (AT - 3, 10_000, twin)),
    ]
    assert [values[2] for values in evaluated(THREE, cases)] == [2.0, 2.0]
