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
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fraud.core.columns import StoredColumn, to_stored
from fraud.core.contract import US_PER_SECOND
from fraud.core.declaration_types import BUILT_IN, WindowFeature
from fraud.core.history import EVENT_US, Layout

Values = list[Any] | NDArray[np.integer[Any]]
"""A stored column of the history, in order of event time."""
Aggregate = Callable[[Any, int], float | None]
"""Value of the non-empty slice of a column inside the window; the second argument is the transaction's own value."""
_FEW: Final = 64
"""Up to this many events, plain lists are faster than numpy arrays."""


class _Aggregates(NamedTuple):
    """One aggregate, for a list and for a numpy array."""

    few: Aggregate
    many: Aggregate


def _sum(_feature: WindowFeature, column: StoredColumn) -> _Aggregates:
    divisor = float(column.divisor)
    return _Aggregates(
        lambda inside, _own: float(sum(inside)) / divisor, lambda inside, _own: float(int(inside.sum())) / divisor
    )


def _mean(_feature: WindowFeature, column: StoredColumn) -> _Aggregates:
    divisor = column.divisor
    return _Aggregates(
        lambda inside, _own: float(sum(inside)) / float(len(inside) * divisor) if inside else None,
        lambda inside, _own: float(int(inside.sum())) / float(len(inside) * divisor) if len(inside) else None,
    )


def _min(_feature: WindowFeature, column: StoredColumn) -> _Aggregates:
    divisor = float(column.divisor)
    return _Aggregates(
        lambda inside, _own: float(min(inside)) / divisor if inside else None,
        lambda inside, _own: float(int(inside.min())) / divisor if len(inside) else None,
    )


def _max(_feature: WindowFeature, column: StoredColumn) -> _Aggregates:
    divisor = float(column.divisor)
    return _Aggregates(
        lambda inside, _own: float(max(inside)) / divisor if inside else None,
        lambda inside, _own: float(int(inside.max())) / divisor if len(inside) else None,
    )


def _distinct(_feature: WindowFeature, column: StoredColumn) -> _Aggregates:
    null = column.null
    return _Aggregates(
        lambda inside, _own: float(len(different := set(inside)) - (null in different)),
        lambda inside, _own: float(len(different := set(np.unique(inside).tolist())) - (null in different)),
    )


def _share(feature: WindowFeature, column: StoredColumn) -> _Aggregates:
    null, value = column.null, 1 if feature.value is None else to_stored(column, feature.value)

    def of_array(inside: NDArray[np.integer[Any]], _own: int) -> float | None:
        present = len(inside) - int(np.count_nonzero(inside == null))
        return float(np.count_nonzero(inside == value)) / float(present) if present else None

    return _Aggregates(
        lambda inside, _own: (
            float(inside.count(value)) / float(present) if (present := len(inside) - inside.count(null)) else None
        ),
        of_array,
    )


def _matches(_feature: WindowFeature, column: StoredColumn) -> _Aggregates:
    null = column.null
    return _Aggregates(
        lambda inside, own: 0.0 if own == null else float(inside.count(own)),
        lambda inside, own: 0.0 if own == null else float(np.count_nonzero(inside == own)),
    )


_OF_COLUMN: Final[dict[str, Callable[[WindowFeature, StoredColumn], _Aggregates]]] = {
    "sum": _sum,
    "mean": _mean,
    "min": _min,
    "max": _max,
    "distinct": _distinct,
    "share": _share,
    "matches": _matches,
}
"""Aggregates of a column's values inside the window. The other ones need the event times or the last event only."""


class _Slice(NamedTuple):
    """The aggregates of one column over one window length; they share the slice of the column."""

    column: int
    length: int
    null: int | None
    """Stored null that is removed before the aggregates; None if there is none to remove."""
    members: list[tuple[int, Aggregate, Aggregate]]
    """Position of the feature, aggregate of a list, aggregate of an array."""


class WindowSet:
    """The window features of one entity. `names` are in declared order."""

    def __init__(self, layout: Layout, features: Sequence[WindowFeature]) -> None:
        self.layout = layout
        self.names = tuple(feature.name for feature in features)
        self.empty = tuple(feature.empty for feature in features)
        self._lengths = tuple(sorted({feature.window_us for feature in features}))
        self._columns = tuple(column.name for column in layout.columns)
        self._counts: list[tuple[int, int]] = []
        self._since_last: list[tuple[int, int]] = []
        self._same_as_last: list[tuple[int, int, int, int]] = []
        slices: dict[tuple[int, int], _Slice] = {}
        for position, feature in enumerate(features):
            length = self._lengths.index(feature.window_us)
            if feature.aggregate == "count":
                self._counts.append((position, length))
                continue
            if feature.aggregate == "seconds_since_last":
                self._since_last.append((position, length))
                continue
            at = self._columns.index(feature.column or "")
            column = layout.columns[at]
            if feature.aggregate == "same_as_last":
                self._same_as_last.append((position, length, at, column.null))
                continue
            null = column.null if column.type == "number" and column.name not in BUILT_IN else None
            of = slices.setdefault((at, length), _Slice(at, length, null, []))
            of.members.append((position, *_OF_COLUMN[feature.aggregate](feature, column)))
        self._slices = tuple(slices.values())
        self._read = _Reader(layout, sorted({of.column for of in self._slices}))

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
        few = len(records) <= _FEW * self.layout.packer.size
        times, columns, order = self._read.few(records) if few else self._read.many(records)
        end = bisect_left(times, at_us)
        longest = at_us - newest_us + self.layout.keep_us
        starts = [bisect_left(times, at_us - min(us, longest), 0, end) for us in self._lengths]
        for position, length in self._counts:
            values[position] = float(end - starts[length])
        for column, length, null, members in self._slices:
            start = starts[length]
            if start >= end:
                continue
            inside = columns[column][start:end]
            if null is not None:
                inside = [value for value in inside if value != null] if few else inside[inside != null]
            mine = own[column]
            for position, of_list, of_array in members:
                values[position] = of_list(inside, mine) if few else of_array(inside, mine)
        for position, length in self._since_last:
            if starts[length] < end:
                values[position] = float(at_us - int(times[end - 1])) / float(US_PER_SECOND)
        for position, length, column, null in self._same_as_last:
            if starts[length] < end:
                last = self._read.value(records, end - 1 if order is None else int(order[end - 1]), column)
                values[position] = None if null in (own[column], last) else float(own[column] == last)
        return values


class _Reader:
    """Reads event times and whole columns of stored records, ordered by event time.

    The sort is stable, so that of events at one microsecond the one with the higher sequence is last.
    """

    def __init__(self, layout: Layout, whole: Sequence[int]) -> None:
        self._record, self._whole, self._size = layout.record, tuple(whole), layout.packer.size
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

    def few(self, records: bytes) -> tuple[Values, list[Any], Any]:
        """Event times, columns (None for those that are not read as a whole) and, unless it is 0..n-1, the order."""
        n = len(records) // self._size
        unpacker = self._of_length[n]
        if unpacker is None:
            unpacker = self._of_length[n] = struct.Struct("<" + self._format * n)
        flat, width = unpacker.unpack(records), 1 + len(self._whole)
        times = list(flat[::width])
        columns: list[Any] = [None] * len(self._names)
        for i, column in enumerate(self._whole, 1):
            columns[column] = list(flat[i::width])
        ordered = sorted(times)
        if ordered == times:
            return times, columns, None
        order = sorted(range(n), key=times.__getitem__)
        for column in self._whole:
            columns[column] = [columns[column][i] for i in order]
        return ordered, columns, order

    def many(self, records: bytes) -> tuple[Values, list[Any], Any]:
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
