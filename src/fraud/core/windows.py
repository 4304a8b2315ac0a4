"""The window features of one transaction, from the histories of its entities.

`fraud.features.engines` computes the same features in batch. Definition of a window of length *w* of transaction *e* at
time *t* (docs/features.md): it contains the events of the entity's history at e (`fraud.core.history`) with
`max(t - w, newest - keep) <= event time < t`. *newest* is the latest event time of all the entity's events with a lower
sequence than e. An event at the same microsecond is not included. Nulls of the aggregated column are skipped.

Sums are over integers and distinct counts over 64-bit hashes, so the order of evaluation does not change a value. A
mean divides once: `float(sum) / float(count * divisor)`.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fraud.core.columns import to_stored
from fraud.core.contract import US_PER_SECOND
from fraud.core.declaration_types import WindowFeature
from fraud.core.history import EVENT_US, Layout

Values = list[Any] | NDArray[np.integer[Any]]
"""A stored column of the history, in order of event time."""
_FEW: Final = 64
"""Up to this many events, plain lists are faster than numpy arrays."""


class Window:
    """One aggregate of the events from `start` until `end`, at least one, of a transaction at `at_us`.

    `column` is the stored column, `null` its null, `divisor` its units per 1, `own` the transaction's stored value.
    """

    __slots__ = ("aggregate", "column", "divisor", "empty", "null", "value", "window_us")

    def __init__(self, feature: WindowFeature, layout: Layout) -> None:
        names = [column.name for column in layout.columns]
        self.column = names.index(feature.column) if feature.column is not None else -1
        stored = layout.columns[self.column] if feature.column is not None else None
        self.null = stored.null if stored else 0
        self.divisor = stored.divisor if stored else 1
        self.value = 1 if feature.value is None or stored is None else to_stored(stored, feature.value)
        self.window_us, self.empty = feature.window_us, feature.empty
        self.aggregate = _AGGREGATES[feature.aggregate]


def _count(_window: Window, _times: Values, _values: Values, start: int, end: int, _at_us: int, _own: int) -> float:
    return float(end - start)


def _sum(window: Window, _times: Values, values: Values, start: int, end: int, _at_us: int, _own: int) -> float:
    return float(_total(_present(window, values, start, end))) / float(window.divisor)


def _mean(window: Window, _times: Values, values: Values, start: int, end: int, _at_us: int, _own: int) -> float | None:
    inside = _present(window, values, start, end)
    return float(_total(inside)) / float(len(inside) * window.divisor) if len(inside) else None


def _min(window: Window, _times: Values, values: Values, start: int, end: int, _at_us: int, _own: int) -> float | None:
    inside = _present(window, values, start, end)
    return float(int(min(inside))) / float(window.divisor) if len(inside) else None


def _max(window: Window, _times: Values, values: Values, start: int, end: int, _at_us: int, _own: int) -> float | None:
    inside = _present(window, values, start, end)
    return float(int(max(inside))) / float(window.divisor) if len(inside) else None


def _distinct(window: Window, _times: Values, values: Values, start: int, end: int, _at_us: int, _own: int) -> float:
    inside = values[start:end]
    different = set(inside) if isinstance(inside, list) else set(np.unique(inside).tolist())
    return float(len(different) - (window.null in different))


def _since_last(_window: Window, times: Values, _values: Values, _start: int, end: int, at_us: int, _own: int) -> float:
    return float(at_us - int(times[end - 1])) / float(US_PER_SECOND)


def _share(
    window: Window, _times: Values, values: Values, start: int, end: int, _at_us: int, _own: int
) -> float | None:
    inside = values[start:end]
    present = len(inside) - _occurrences(inside, window.null)
    return float(_occurrences(inside, window.value)) / float(present) if present else None


def _matches(window: Window, _times: Values, values: Values, start: int, end: int, _at_us: int, own: int) -> float:
    return 0.0 if own == window.null else float(_occurrences(values[start:end], own))


def _same_as_last(
    window: Window, _times: Values, values: Values, _start: int, end: int, _at_us: int, own: int
) -> float | None:
    last = int(values[end - 1])
    return None if window.null in (own, last) else float(own == last)


_AGGREGATES: Final[dict[str, Callable[[Window, Values, Values, int, int, int, int], float | None]]] = {
    "count": _count,
    "sum": _sum,
    "mean": _mean,
    "min": _min,
    "max": _max,
    "distinct": _distinct,
    "seconds_since_last": _since_last,
    "share": _share,
    "matches": _matches,
    "same_as_last": _same_as_last,
}


def _present(window: Window, values: Values, start: int, end: int) -> Values:
    inside = values[start:end]
    if isinstance(inside, list):
        return [value for value in inside if value != window.null] if window.null in inside else inside
    present: NDArray[np.integer[Any]] = inside[inside != window.null]
    return present


def _total(inside: Values) -> int:
    return sum(inside) if isinstance(inside, list) else int(inside.sum())


def _occurrences(inside: Values, value: int) -> int:
    return inside.count(value) if isinstance(inside, list) else int(np.count_nonzero(inside == value))


class WindowSet:
    """The window features of one entity. `names` are in declared order."""

    def __init__(self, layout: Layout, features: Sequence[WindowFeature]) -> None:
        self.layout = layout
        self.names = tuple(feature.name for feature in features)
        self.empty = tuple(feature.empty for feature in features)
        self._windows = tuple(Window(feature, layout) for feature in features)
        self._lengths = tuple(sorted({window.window_us for window in self._windows}))
        self._columns = tuple(column.name for column in layout.columns)

    def evaluate(self, events: NDArray[np.void], newest_us: int, at_us: int, own: Sequence[int]) -> list[float | None]:
        """Values of a transaction at `at_us` (us), in the order of `names`; None is null.

        `events` is Layout.record[n], n <= max_events, in order of sequence. `newest_us` is the latest event time of the
        history (0 without one). `own` has the transaction's stored integers in the order of the layout's columns.
        """
        if not len(events):
            return list(self.empty)
        times, columns = self._few(events) if len(events) <= _FEW else self._many(events)
        end = bisect_left(times, at_us)
        floor = newest_us - self.layout.keep_us
        starts = {us: bisect_left(times, max(at_us - us, floor), 0, end) for us in self._lengths}
        values: list[float | None] = []
        for window in self._windows:
            start, i = starts[window.window_us], window.column
            values.append(
                window.aggregate(window, times, columns[i], start, end, at_us, own[i] if i >= 0 else 0)
                if start < end else window.empty
            )  # fmt: skip
        return values

    def _few(self, events: NDArray[np.void]) -> tuple[Values, list[Values]]:
        times = events[EVENT_US].tolist()
        columns = [events[name].tolist() for name in self._columns]
        ordered = sorted(times)
        if ordered != times:
            # Some events were late. Sorted by event time, every window is a slice. The sort is stable, so that of
            # events at one microsecond the one with the higher sequence is last.
            order = sorted(range(len(times)), key=times.__getitem__)
            columns = [[column[i] for i in order] for column in columns]
        return ordered, [*columns, []]

    def _many(self, events: NDArray[np.void]) -> tuple[Values, list[Values]]:
        times = events[EVENT_US].copy()
        if (times[1:] < times[:-1]).any():
            events = events[np.argsort(times, kind="stable")]
            times = events[EVENT_US].copy()
        return times, [*(events[name] for name in self._columns), times[:0]]
