"""The window features of one transaction, from the histories of its entities.

`fraud.features.engines` computes the same features in batch. Definition of a window of length *w* of transaction *e* at
time *t* (docs/features.md): it contains the events of the entity's history at e (`fraud.core.history`) with
`max(t - w, newest - keep) <= event time < t`. *newest* is the latest event time of all the entity's events with a lower
sequence than e. An event at the same microsecond is not included. Nulls of the aggregated column are skipped.

Sums are over integers and distinct counts over 64-bit hashes, so the order of evaluation does not change a value. A
mean divides once: `float(sum) / float(count * divisor)`.
"""

import struct
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
_FEW: Final = 64
"""Up to this many events, tuples are faster than numpy arrays."""


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


def _share_value(feature: WindowFeature, column: StoredColumn) -> int:
    """The stored value whose share is the feature's value."""
    return 1 if feature.value is None else to_stored(column, feature.value)


def _share(feature: WindowFeature, column: StoredColumn) -> Aggregate:
    null, value = column.null, _share_value(feature, column)

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
    "share": _share,
    "matches": _matches,
}
"""Aggregates of a column's values inside the window, of numpy arrays; `_FewEvents` has those of tuples. Other
aggregates need the event times or the last event only."""


class _Slices:
    """The features that are computed from the values of a column inside a window.

    Features of one column and one window length share a slice.
    """

    def __init__(self) -> None:
        self.of: list[tuple[int, int]] = []
        """(column, window length) of each slice."""
        self.many: list[tuple[int, int, int, Aggregate]] = []
        """Position of the feature, slice, column, aggregate of an array."""
        self.nullable: dict[int, tuple[int, list[int]]] = {}
        """Number column -> its stored null, which is removed before the aggregates, and the column's slices."""
        self.few: dict[str, list[tuple[int, int, Any]]] = {name: [] for name in _OF_COLUMN}
        """Aggregate -> (position, slice, what else it needs) of its features."""

    def add(self, position: int, feature: WindowFeature, at: tuple[int, int], column: StoredColumn) -> None:
        """Add a feature of the column and window length `at`."""
        if at not in self.of:
            self.of.append(at)
            if column.type == "number":
                self.nullable.setdefault(at[0], (column.null, []))[1].append(len(self.of) - 1)
        of, name = self.of.index(at), feature.aggregate
        self.many.append((position, of, at[0], _OF_COLUMN[name](feature, column)))
        more: dict[str, Any] = {
            "sum": float(column.divisor), "mean": column.divisor, "min": float(column.divisor),
            "max": float(column.divisor), "distinct": column.null, "matches": (at[0], column.null),
        }  # fmt: skip
        self.few[name].append(
            (position, of, (_share_value(feature, column), column.null) if name == "share" else more[name])
        )


class WindowSet:
    """The window features of one entity. `names` are in declared order."""

    def __init__(self, layout: Layout, features: Sequence[WindowFeature]) -> None:
        self.layout = layout
        self.names = tuple(feature.name for feature in features)
        self.empty = tuple(feature.empty for feature in features)
        self._lengths = tuple(sorted({feature.window_us for feature in features}))
        self._counts: list[tuple[int, int]] = []
        self._since_last: list[tuple[int, int]] = []
        self._same_as_last: list[tuple[int, int, int, int]] = []
        self._slices = slices = _Slices()
        names = [column.name for column in layout.columns]
        for position, feature in enumerate(features):
            length = self._lengths.index(feature.window_us)
            if feature.aggregate == "count":
                self._counts.append((position, length))
                continue
            if feature.aggregate == "seconds_since_last":
                self._since_last.append((position, length))
                continue
            at = names.index(feature.column or "")
            column = layout.columns[at]
            if feature.aggregate == "same_as_last":
                self._same_as_last.append((position, length, at, column.null))
                continue
            slices.add(position, feature, (at, length), column)
        self._few_bytes = _FEW * layout.packer.size
        self._few = tuple(
            tuple(slices.few[name]) for name in ("sum", "mean", "min", "max", "distinct", "matches", "share")
        )
        self._nullable = tuple((column, null, of) for column, (null, of) in slices.nullable.items())
        self._read = _Reader(layout, sorted({column for column, _ in slices.of}))

    def evaluate(self, events: NDArray[np.void], newest_us: int, at_us: int, own: Sequence[int]) -> list[float | None]:
        """Values of a transaction at `at_us` (us), in the order of `names`; None is null.

        `events` is Layout.record[n], n <= max_events, in order of sequence. `newest_us` is the latest event time of the
        history (0 without one). `own` has the transaction's stored integers in the order of the layout's columns.
        """
        return self.evaluate_records(events.tobytes(), newest_us, at_us, own)

    def evaluate_records(self, records: bytes, newest_us: int, at_us: int, own: Sequence[int]) -> list[float | None]:
        """`evaluate`, with the events as the store has them: `Layout.packer` of each, one after the other."""
        values = list(self.empty)
        if not records:
            return values
        few = len(records) <= self._few_bytes
        times, columns, order = self._read.few(records) if few else self._read.many(records)
        end = len(times) if times[-1] < at_us else bisect_left(times, at_us)
        oldest = newest_us - self.layout.keep_us
        oldest_at = 0 if oldest <= times[0] else bisect_left(times, oldest, 0, end)
        starts = [bisect_left(times, at_us - us, oldest_at, end) for us in self._lengths]
        if starts[-1] >= end:  # the longest window has no event
            return values
        for position, length in self._counts:
            values[position] = float(end - starts[length])
        if few:
            self._add_few(values, self._inside(columns, starts, end), own)
        else:
            self._add_many(values, self._inside(columns, starts, end), own)
        for position, length in self._since_last:
            if starts[length] < end:
                values[position] = float(at_us - int(times[end - 1])) / float(US_PER_SECOND)
        for position, length, column, null in self._same_as_last:
            if starts[length] < end:
                last = self._read.value(records, end - 1 if order is None else int(order[end - 1]), column)
                values[position] = None if null in (own[column], last) else float(own[column] == last)
        return values

    def _inside(self, columns: Sequence[Any], starts: Sequence[int], end: int) -> list[Any]:
        """The values of each slice, without null numbers."""
        inside = [columns[column][starts[length] : end] for column, length in self._slices.of]
        for column, null, of in self._nullable:
            if null in columns[column]:
                for i in of:
                    values = inside[i]
                    inside[i] = (
                        tuple(v for v in values if v != null) if type(values) is tuple else values[values != null]
                    )
        return inside

    def _add_many(self, values: list[float | None], inside: Sequence[Array], own: Sequence[int]) -> None:
        """Set the values of the features of `_slices` from numpy arrays; as `_add_few`."""
        for position, i, column, aggregate in self._slices.many:
            if len(inside[i]):
                values[position] = aggregate(inside[i], own[column])

    def _add_few(self, values: list[float | None], insides: Sequence[Sequence[int]], own: Sequence[int]) -> None:
        """Set the values of the features of `_slices` from tuples. One loop per aggregate: calls cost more than that.

        A feature whose slice is empty keeps the value that it has without events.
        """
        sums, means, mins, maxs, distincts, matches, shares = self._few
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


class _Reader:
    """Reads event times and whole columns of stored records, ordered by event time.

    The sort is stable, so that of events at one microsecond the one with the higher sequence is last.
    """

    def __init__(self, layout: Layout, whole: Sequence[int]) -> None:
        self._record, self._whole, self._size = layout.record, tuple(whole), layout.packer.size
        self._placed = tuple(enumerate(self._whole, 1))
        self._names = [column.name for column in layout.columns]
        # A record's format for `struct`: columns that are not read as a whole are padding.
        self._format = "q" + "".join(
            c.format if i in whole else f"{struct.calcsize('<' + c.format)}x" for i, c in enumerate(layout.columns)
        )
        self._of_length: list[struct.Struct | None] = [None] * (_FEW + 1)
        offsets = [
            struct.calcsize("<q" + "".join(c.format for c in layout.columns[:i])) for i in range(len(self._names))
        ]
        self._one = [
            (struct.Struct("<" + column.format).unpack_from, offset)
            for column, offset in zip(layout.columns, offsets, strict=True)
        ]

    def value(self, records: bytes, index: int, column: int) -> int:
        """The stored integer of one event."""
        unpack, offset = self._one[column]
        found: int = unpack(records, index * self._size + offset)[0]
        return found

    def few(self, records: bytes) -> tuple[Sequence[int], list[Any], Any]:
        """Event times, columns (None for those that are not read as a whole) and, unless it is 0..n-1, the order."""
        n = len(records) // self._size
        unpacker = self._of_length[n]
        if unpacker is None:
            unpacker = self._of_length[n] = struct.Struct("<" + self._format * n)
        flat, width = unpacker.unpack(records), 1 + len(self._whole)
        times = flat[::width]
        columns: list[Any] = [None] * len(self._names)
        for i, column in self._placed:
            columns[column] = flat[i::width]
        ordered = sorted(times)
        if ordered == [*times]:
            return times, columns, None
        order = sorted(range(n), key=times.__getitem__)
        for column in self._whole:
            columns[column] = tuple([columns[column][i] for i in order])
        return ordered, columns, order

    def many(self, records: bytes) -> tuple[Any, list[Any], Any]:
        """The same as numpy arrays."""
        events = np.frombuffer(records, dtype=self._record)
        times: NDArray[np.int64] = events[EVENT_US].copy()
        order = None
        if (times[1:] < times[:-1]).any():
            order = np.argsort(times, kind="stable")
            events = events[order]
            times = events[EVENT_US].copy()
        columns: list[Any] = [None] * len(self._names)
        for column in self._whole:
            columns[column] = events[self._names[column]]
        return times, columns, order
