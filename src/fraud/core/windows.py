"""The window features as code: a point function for one request. Its compiled batch form lives in `fraud.engines`."""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fraud.core.contract import UNITS_PER_USD, US_PER_SECOND
from fraud.core.features import RETENTION_US, WINDOW_FEATURES, WindowFeature

WindowValues = tuple[float | int | None, ...]
"""One value per WINDOW_FEATURES, in its order and dtypes; None is null."""


def _count(_events: NDArray[np.void], inside: NDArray[np.bool_], _at_us: int) -> float:
    return float(np.count_nonzero(inside))


def _sum(events: NDArray[np.void], inside: NDArray[np.bool_], _at_us: int) -> float:
    return float(events["units"][inside].sum()) / float(UNITS_PER_USD)


def _mean(events: NDArray[np.void], inside: NDArray[np.bool_], _at_us: int) -> float:
    units = events["units"][inside]
    return float(units.sum()) / float(len(units) * UNITS_PER_USD)


def _distinct(events: NDArray[np.void], inside: NDArray[np.bool_], _at_us: int) -> float:
    return len(set(events["merchant"][inside].tolist()))


def _seconds_since_last(events: NDArray[np.void], inside: NDArray[np.bool_], at_us: int) -> float:
    return float(at_us - int(events["event_us"][inside].max())) / float(US_PER_SECOND)


_AGGREGATIONS: Final[dict[str, Callable[[NDArray[np.void], NDArray[np.bool_], int], float]]] = {
    "count": _count,
    "sum": _sum,
    "mean": _mean,
    "distinct": _distinct,
    "seconds_since_last": _seconds_since_last,
}


def evaluate(
    events: NDArray[np.void], newest_us: int, at_us: int, features: tuple[WindowFeature, ...] = WINDOW_FEATURES
) -> WindowValues:
    """Window values of a transaction at `at_us` (us) over the user's known history.

    `events` is history.RECORD[n], n <= MAX_EVENTS, in any order; `newest_us` the latest event time known before this
    transaction (0 without history). Sums are over int64 and exact, so the result does not depend on the order of
    events: it is bitwise the batch engines' value.
    """
    times = np.ascontiguousarray(events["event_us"])
    before = times < at_us
    floor = newest_us - RETENTION_US
    values: list[float | int | None] = []
    for feature in features:
        inside = before & (times >= max(at_us - feature.window_us, floor))
        aggregate = _AGGREGATIONS[feature.aggregation]
        values.append(aggregate(events, inside, at_us) if inside.any() else feature.empty)
    return tuple(values)
