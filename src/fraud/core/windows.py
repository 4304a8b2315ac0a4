"""The window features of one request. `fraud.features.engines` computes the same features in batch."""

from bisect import bisect_left
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fraud.core.contract import UNITS_PER_USD, US_PER_SECOND
from fraud.core.features import RETENTION_US, WINDOW_FEATURES, WindowFeature

WindowValues = tuple[float | int | None, ...]
"""One value per WINDOW_FEATURES, in its order and dtypes; None is null."""


Column = list[int] | NDArray[np.integer[Any]]


class _Events(NamedTuple):
    """A user's history before a transaction, in order of event time."""

    times: Column
    units: Column
    merchants: Column


def _count(_events: _Events, start: int, end: int, _at_us: int) -> float:
    return float(end - start)


def _sum(events: _Events, start: int, end: int, _at_us: int) -> float:
    return float(_total(events.units[start:end])) / float(UNITS_PER_USD)


def _mean(events: _Events, start: int, end: int, _at_us: int) -> float:
    return float(_total(events.units[start:end])) / float((end - start) * UNITS_PER_USD)


def _distinct(events: _Events, start: int, end: int, _at_us: int) -> float:
    inside = events.merchants[start:end]
    if isinstance(inside, list):
        return len(set(inside))
    merchants = np.sort(inside)
    return int(np.count_nonzero(merchants[1:] != merchants[:-1])) + 1


def _seconds_since_last(events: _Events, _start: int, end: int, at_us: int) -> float:
    return float(at_us - int(events.times[end - 1])) / float(US_PER_SECOND)


def _total(units: Column) -> int:
    return sum(units) if isinstance(units, list) else int(units.sum())


_AGGREGATIONS: Final[dict[str, Callable[[_Events, int, int, int], float]]] = {
    "count": _count,
    "sum": _sum,
    "mean": _mean,
    "distinct": _distinct,
    "seconds_since_last": _seconds_since_last,
}
"""Functions of the events [start, end), at least one, and the transaction's own time."""
_FEW: Final = 64
"""Up to this many events, plain lists are faster than numpy arrays."""


def evaluate(
    events: NDArray[np.void], newest_us: int, at_us: int, features: tuple[WindowFeature, ...] = WINDOW_FEATURES
) -> WindowValues:
    """Window values of a transaction at `at_us` (us), computed from the user's history.

    `events` is history.RECORD[n], n <= MAX_EVENTS, in any order. `newest_us` is the latest event time of the history (0
    without one). Sums are over integers, so the result does not depend on the order of the events and has the same bits
    as the batch engines' value.
    """
    ordered = _few_in_order(events) if len(events) <= _FEW else _many_in_order(events)
    end = bisect_left(ordered.times, at_us)
    floor = newest_us - RETENTION_US
    values: list[float | int | None] = []
    for feature in features:
        start = bisect_left(ordered.times, max(at_us - feature.window_us, floor), 0, end)
        aggregate = _AGGREGATIONS[feature.aggregation]
        values.append(aggregate(ordered, start, end, at_us) if start < end else feature.empty)
    return tuple(values)


def _few_in_order(events: NDArray[np.void]) -> _Events:
    times, units, merchants = events["event_us"].tolist(), events["units"].tolist(), events["merchant"].tolist()
    ordered = sorted(times)
    if ordered != times:
        # Some events were late. Sorted by event time, every window is a slice.
        order = sorted(range(len(times)), key=times.__getitem__)
        units, merchants = [units[i] for i in order], [merchants[i] for i in order]
    return _Events(ordered, units, merchants)


def _many_in_order(events: NDArray[np.void]) -> _Events:
    times = events["event_us"].copy()
    if (times[1:] < times[:-1]).any():
        events = events[np.argsort(times, kind="stable")]
        times = events["event_us"].copy()
    return _Events(times, events["units"], events["merchant"])
