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

from fraud.core.columns import StoredColumn, to_stored
from fraud.core.contract import US_PER_SECOND
from fraud.core.declaration_types import WindowFeature
from fraud.core.history import EVENT_US, Layout

Array = NDArray[np.integer[Any]]
Aggregate = Callable[[Array, int], float | None]
"""Value of the non-empty slice of a column inside the window, without its null numbers; the second argument is the
transaction's own value."""
_FEW: Final = 200
"""Up to this many events, lists are faster than numpy arrays."""


def _sum(_feature: WindowFeature, column: StoredColumn) -> Aggregate:
    divisor = float(column.divisor)
    return lambda inside, _own: float(int(inside.sum())) / divisor


def _mean(_feature: WindowFeature, column: StoredColumn) -> Aggregate:
    divisor = column.divisor
    return lambda inside, _own: float(int(inside.sum())) / float(len(inside) * divisor)


def _min(_feature: WindowFeature, column: StoredColumn) -> Aggregate:
    divisor = float(column.divisor)
    return lambda inside, _own: float(int(inside.min())) / divisor


def _max(_feature: WindowFeature, column: StoredColumn) -> Aggregate:
    divisor = float(column.divisor)
    return lambda inside, _own: float(int(inside.max())) / divisor


def _distinct(_feature: WindowFeature, column: StoredColumn) -> Aggregate:
    null = column.null
    return lambda inside, _own: float(len({*np.unique(inside).tolist(), null}) - 1)


def share_value(feature: WindowFeature, column: StoredColumn) -> int:
    """The stored value whose share is the feature's value."""
    return 1 if feature.value is None else to_stored(column, feature.value)


def _share(feature: WindowFeature, column: StoredColumn) -> Aggregate:
    null, value = column.null, share_value(feature, column)

    def of_array(inside: Array, _own: int) -> float | None:
        present = len(inside) - int(np.count_nonzero(inside == null))
        return float(np.count_nonzero(inside == value)) / float(present) if present else None

    return of_array


def _matches(_feature: WindowFeature, column: StoredColumn) -> Aggregate:
    null = column.null
    return lambda inside, own: 0.0 if own == null else float(np.count_nonzero(inside == own))


_OF_COLUMN: Final[dict[str, Callable[[WindowFeature, StoredColumn], Aggregate]]] = {
    "sum": _sum,
    "mean": _mean,
    "min": _min,
    "max": _max,
    "distinct": _distinct,
    "matches": _matches,
    "share": _share,
}
"""Aggregates of a column's values inside the window, of numpy arrays; `WindowSet._add_few` has those of lists, in this
order. Other aggregates need the event times or the last event only."""


def _parameters(feature: WindowFeature, column: StoredColumn, at: int) -> Any:  # noqa: ANN401 - as the aggregate needs
    """What `WindowSet._add_few` needs for a feature of the column at index `at`, besides its slice."""
    if feature.aggregate == "mean":
        return column.divisor
    if feature.aggregate in ("sum", "min", "max"):
        return float(column.divisor)
    if feature.aggregate == "distinct":
        return column.null
    return (at if feature.aggregate == "matches" else share_value(feature, column)), column.null


def _sorted_times(events: NDArray[np.void], *, few: bool) -> tuple[Any, bool]:
    """The event times in ascending order, and whether the events have this order."""
    if few:
        in_order = events[EVENT_US].tolist()
        times = sorted(in_order)
        return times, times == in_order
    array = events[EVENT_US].copy()
    ordered = not (array[1:] < array[:-1]).any()
    if not ordered:
        array.sort()
    return array, ordered


class WindowSet:
    """The window features of one entity. `names` are in declared order."""

    def __init__(self, layout: Layout, features: Sequence[WindowFeature]) -> None:
        self.layout, self.features = layout, tuple(features)
        self.names = tuple(feature.name for feature in features)
        self.empty = tuple(feature.empty for feature in features)
        self.lengths = lengths = tuple(sorted({feature.window_us for feature in features}))
        self._counts: list[tuple[int, int]] = []
        self._since_last: list[tuple[int, int]] = []
        self._same_as_last: list[tuple[int, int, int, StoredColumn]] = []
        names = [column.name for column in layout.columns]
        of_values: list[tuple[int, WindowFeature, tuple[int, int]]] = []
        for position, feature in enumerate(features):
            length = lengths.index(feature.window_us)
            if feature.aggregate == "count":
                self._counts.append((position, length))
            elif feature.aggregate == "seconds_since_last":
                self._since_last.append((position, length))
            else:
                at = names.index(feature.column or "")
                if feature.aggregate == "same_as_last":
                    self._same_as_last.append((position, length, at, layout.columns[at]))
                else:
                    of_values.append((position, feature, (at, length)))
        # Features of one column and one window length share a slice: (column, length).
        slices = sorted({of for *_, of in of_values})
        self._columns = [
            (column.name, column.null if column.type == "number" else None, [w for c, w in slices if c == at])
            for at, column in enumerate(layout.columns)
            if any(c == at for c, _ in slices)
        ]
        """Name of a column, its null if nulls are removed before the aggregates, and the lengths of its slices."""
        self._of_values = tuple(
            tuple(
                (position, slices.index(of), _parameters(feature, layout.columns[of[0]], of[0]))
                for position, feature, of in of_values
                if feature.aggregate == aggregate
            )
            for aggregate in _OF_COLUMN
        )
        """Per aggregate: (position, slice, parameters) of its features."""
        self._of_arrays = [
            (position, slices.index(of), of[0], _OF_COLUMN[feature.aggregate](feature, layout.columns[of[0]]))
            for position, feature, of in of_values
        ]
        """Position of a feature, slice, column, aggregate of an array."""

    def evaluate(self, events: NDArray[np.void], newest_us: int, at_us: int, own: Sequence[int]) -> list[float | None]:
        """Values of a transaction at `at_us` (us), in the order of `names`; None is null.

        `events` is Layout.record[n], n <= max_events, in order of sequence. `newest_us` is the latest event time of the
        history (0 without one). `own` has the transaction's stored integers in the order of the layout's columns.
        """
        values = list(self.empty)
        few = len(events) <= _FEW
        times, ordered = _sorted_times(events, few=few)
        end = bisect_left(times, at_us)
        first = bisect_left(times, max(at_us - self.lengths[-1], newest_us - self.layout.keep_us), 0, end)
        if first == end:
            return values
        # The sort is stable, so that of events at one microsecond the one with the higher sequence is last.
        events = events[first:end] if ordered else events.take(events[EVENT_US].argsort(kind="stable")[first:end])
        size = end - first
        starts = [bisect_left(times, at_us - us, first, end) - first for us in self.lengths]
        for position, length in self._counts:
            values[position] = float(size - starts[length])
        for position, length in self._since_last:
            if starts[length] < size:
                values[position] = float(at_us - int(times[end - 1])) / float(US_PER_SECOND)
        for position, length, at, column in self._same_as_last:
            if starts[length] < size:
                last, null = events[column.name].item(-1), column.null
                values[position] = None if null in (own[at], last) else float(own[at] == last)
        inside = self._inside(events, starts, few=few)
        if few:
            self._add_few(values, inside, own)
        else:
            self._add_many(values, inside, own)
        return values

    def evaluate_records(self, records: bytes, newest_us: int, at_us: int, own: Sequence[int]) -> list[float | None]:
        """`evaluate`, with the events as the store has them: `Layout.packer` of each, one after the other."""
        if not records:
            return list(self.empty)
        return self.evaluate(np.frombuffer(records, self.layout.record), newest_us, at_us, own)

    def _inside(self, events: NDArray[np.void], starts: Sequence[int], *, few: bool) -> list[Any]:
        """The values of each slice, without null numbers: lists of `few` events, otherwise arrays."""
        inside: list[Any] = []
        for name, null, lengths in self._columns:
            column = events[name].tolist() if few else events[name]
            has_null = null is not None and null in column
            for length in lengths:
                values = column[starts[length] :]
                if has_null:
                    values = [value for value in values if value != null] if few else values[values != null]
                inside.append(values)
        return inside

    def _add_many(self, values: list[float | None], insides: Sequence[Array], own: Sequence[int]) -> None:
        """As `_add_few`, from arrays."""
        for position, i, column, aggregate in self._of_arrays:
            if len(insides[i]):
                values[position] = aggregate(insides[i], own[column])

    def _add_few(self, values: list[float | None], insides: Sequence[Sequence[int]], own: Sequence[int]) -> None:
        """Set the features of `_of_values` from their slices. One loop per aggregate: calls cost more than that.

        A feature whose slice is empty keeps the value that it has without events.
        """
        sums, means, mins, maxs, distincts, matches, shares = self._of_values
        for position, i, divisor in sums:
            values[position] = float(sum(insides[i])) / divisor
        for position, i, divisor in means:
            if inside := insides[i]:
                values[position] = float(sum(inside)) / float(len(inside) * divisor)
        for position, i, divisor in mins:
            if inside := insides[i]:
                values[position] = float(min(inside)) / divisor
        for position, i, divisor in maxs:
            if inside := insides[i]:
                values[position] = float(max(inside)) / divisor
        for position, i, null in distincts:
            values[position] = float(len({*insides[i], null}) - 1)
        for position, i, (column, null) in matches:
            if own[column] != null:
                values[position] = float(insides[i].count(own[column]))
        for position, i, (value, null) in shares:
            inside = insides[i]
            present = len(inside) - inside.count(null)
            if present:
                values[position] = float(inside.count(value)) / float(present)
