"""The window features as code: a point function for one request. Its compiled batch form lives in `fraud.engines`."""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fraud.core.contract import UNITS_PER_USD, US_PER_SECOND
from fraud.core.features import RETENTION_US, WINDOW_FEATURES, WindowFeature

WindowValues = tuple[float | int | None, ...]
"""One value per WINDOW_FEATURES, in its order and dtypes; None is null."""


def _count(inside: NDArray[np.void], _at_us: int) -> float:
    return float(len(inside))


def _sum(inside: NDArray[np.void], _at_us: int) -> float:
    return float(inside["units"].sum()) / float(UNITS_PER_USD)


def _mean(inside: NDArray[np.void], _at_us: int) -> float:
    return float(inside["units"].sum()) / float(len(inside) * UNITS_PER_USD)


def _distinct(inside: NDArray[np.void], _at_us: int) -> float:
    merchants = np.sort(inside["merchant"])
    return int(np.count_nonzero(merchants[1:] != merchants[:-1])) + 1


def _seconds_since_last(inside: NDArray[np.void], at_us: int) -> float:
    return float(at_us - int(inside["event_us"][-1])) / float(US_PER_SECOND)


_AGGREGATIONS: Final[dict[str, Callable[[NDArray[np.void], int], float]]] = {
    "count": _count,
    "sum": _sum,
    "mean": _mean,
    "distinct": _distinct,
    "seconds_since_last": _seconds_since_last,
}
"""Of a window that is not empty: history.RECORD[n] in order of event time, and the transaction's own time."""


def evaluate(
    events: NDArray[np.void], newest_us: int, at_us: int, features: tuple[WindowFeature, ...] = WINDOW_FEATURES
) -> WindowValues:
    """Window values of a transaction at `at_us` (us) over the user's known history.

    `events` is history.RECORD[n], n <= MAX_EVENTS, in any order; `newest_us` the latest event time known before this
    transaction (0 without history). Sums are over int64 and exact, so the result does not depend on the order of
    events: it is bitwise the batch engines' value.
    """
    times = events["event_us"].copy()
    if (times[1:] < times[:-1]).any():
        # Learned of out of order. In order, every window is a slice, which costs half of what a mask does.
        events = events[np.argsort(times, kind="stable")]
        times = events["event_us"].copy()
    end = times.searchsorted(at_us)
    times = times[:end]
    floor = newest_us - RETENTION_US
    values: list[float | int | None] = []
    for feature in features:
        start = times.searchsorted(max(at_us - feature.window_us, floor))
        aggregate = _AGGREGATIONS[feature.aggregation]
        values.append(aggregate(events[start:end], at_us) if start < end else feature.empty)
    return tuple(values)
