"""The window features of many transactions at once: the values of `WindowSet.evaluate`, bit for bit.

The events of all histories lie one after the other in one array, in order of time within each history. A window is then
a slice that ends where its history's part ends, and an aggregate over it is a difference of running sums.
"""

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fraud.core.columns import StoredColumn
from fraud.core.contract import US_PER_SECOND
from fraud.core.history import EVENT_US
from fraud.core.vector import Floats
from fraud.core.windows import WindowSet, share_value

Ints = NDArray[np.int64]
Some = NDArray[np.bool_]
_MIX: Final = np.uint64(0x9E3779B97F4A7C15)
"""Odd: so products of it with different histories differ."""
_LARGEST: Final = np.iinfo(np.int64).max


class _Windows:
    """The events inside the longest window of each of n histories."""

    def __init__(self, windows: WindowSet, records: Sequence[bytes], newest_us: Ints, at_us: Ints) -> None:
        layout, self.at_us = windows.layout, at_us
        sizes = np.fromiter(map(len, records), np.int64, len(records)) // layout.record.itemsize
        events = np.frombuffer(b"".join(records), layout.record)
        history = np.repeat(np.arange(len(records)), sizes)
        times = np.ascontiguousarray(events[EVENT_US])
        if ((times[1:] < times[:-1]) & (history[1:] == history[:-1])).any():
            order = _order(history, times)
            # `take` and `compress` copy whole records; an index in brackets copies them field by field.
            events, times = events.take(order), times.take(order)
        first_us = np.maximum(at_us - windows.lengths[-1], newest_us - layout.keep_us)
        inside = (times >= first_us[history]) & (times < at_us[history])
        if not inside.all():
            events, history, times = events.compress(inside), history[inside], times[inside]
            sizes = np.bincount(history, minlength=len(records))
        self.events, self.history, self.times = events, history, times
        self.ends: Ints = np.cumsum(sizes)
        age_us = at_us[history] - times
        self.sizes = [
            sizes if us == windows.lengths[-1] else np.bincount(history[age_us <= us], minlength=len(records))
            for us in windows.lengths
        ]
        """Per length, ascending: the number of events in each window, int64[n]."""
        self.starts = [self.ends - of for of in self.sizes]

    def sum(self, running: Ints, length: int) -> Ints:
        """The sum over each window, from `_running`: int64[n]."""
        found: Ints = running[self.ends] - running[self.starts[length]]
        return found

    def last(self, of: NDArray[Any]) -> NDArray[Any]:
        """The last value of each history; any value for an empty one."""
        found: NDArray[Any] = of[np.maximum(self.ends, 1) - 1]
        return found

    def last_of_equal(self, values: NDArray[np.uint64]) -> Some:
        """Whether an event is the last one in its history with its value: those in a window are its distinct values."""
        key = values ^ (self.history.astype(np.uint64) * _MIX)
        order = np.argsort(key, kind="stable")
        key, sorted_ = key[order], values[order]
        new = np.append(True, key[1:] != key[:-1])
        if (~new[1:] & (sorted_[1:] != sorted_[:-1])).any():  # two histories' values have the same key
            order = np.lexsort((values, self.history))
            sorted_, history = values[order], self.history[order]
            new = np.append(True, (sorted_[1:] != sorted_[:-1]) | (history[1:] != history[:-1]))
        found = np.zeros(len(values), dtype=np.bool_)
        found[np.maximum.reduceat(order, np.flatnonzero(new))] = True
        return found


class _Column:
    """A column of the events inside the longest window, and what several aggregates of it need."""

    def __init__(self, windows: _Windows, column: StoredColumn, own: Callable[[], NDArray[Any]]) -> None:
        self.windows, self.column, self._own = windows, column, own
        self.values = np.ascontiguousarray(windows.events[column.name])
        self._null = self.values == column.null
        self.has_null = bool(self._null.any())

    @cached_property
    def own(self) -> NDArray[Any]:
        """The transactions' stored values."""
        return self._own()

    @cached_property
    def _sums(self) -> Ints:
        return _running(np.where(self._null, 0, self.values) if self.has_null else self.values)

    @cached_property
    def _present(self) -> Ints:
        return _running(~self._null)

    @cached_property
    def _distinct(self) -> Ints:
        return _running(self.windows.last_of_equal(self.values) & ~self._null)

    def present(self, length: int) -> Ints:
        """The number of values that are not null in each window."""
        return self.windows.sum(self._present, length) if self.has_null else self.windows.sizes[length]

    def sum(self, length: int) -> Ints:
        """The sum of each window, in stored integers."""
        return self.windows.sum(self._sums, length)

    def distinct(self, length: int) -> Ints:
        """The number of distinct values in each window."""
        return self.windows.sum(self._distinct, length)

    def equal(self, value: int | NDArray[Any], length: int) -> Ints:
        """The number of events in each window whose value is `value`, or that of their transaction."""
        if not isinstance(value, int):
            value = value[self.windows.history]
        return self.windows.sum(_running(self.values == value), length)

    def extreme(self, ufunc: np.ufunc, null: int, length: int) -> Ints:
        """Minimum or maximum of each window with `null` for nulls; any value for an empty one."""
        values = np.where(self._null, null, self.values) if self.has_null else self.values
        bounds = np.column_stack((self.windows.starts[length], self.windows.ends)).ravel()
        # A bound may be the number of events, so one more value is needed; it is in no window.
        found: Ints = ufunc.reduceat(np.append(values, 0), bounds)[::2]
        return found


def _sum(of: _Column, length: int, _value: int) -> tuple[Floats, Some | None]:
    return of.sum(length) / float(of.column.divisor), None


def _mean(of: _Column, length: int, _value: int) -> tuple[Floats, Some | None]:
    count = of.present(length)
    return of.sum(length) / np.maximum(count * of.column.divisor, 1), count > 0


def _min(of: _Column, length: int, _value: int) -> tuple[Floats, Some | None]:
    least = of.extreme(np.minimum, np.iinfo(np.int64).max, length)
    return least / float(of.column.divisor), of.present(length) > 0


def _max(of: _Column, length: int, _value: int) -> tuple[Floats, Some | None]:
    greatest = of.extreme(np.maximum, np.iinfo(np.int64).min, length)
    return greatest / float(of.column.divisor), of.present(length) > 0


def _distinct(of: _Column, length: int, _value: int) -> tuple[Floats, Some | None]:
    return of.distinct(length).astype(np.float64), None


def _matches(of: _Column, length: int, _value: int) -> tuple[Floats, Some | None]:
    return of.equal(of.own, length).astype(np.float64), of.own != of.column.null


def _share(of: _Column, length: int, value: int) -> tuple[Floats, Some | None]:
    present = of.present(length)
    return of.equal(value, length) / np.maximum(present, 1), present > 0


def _same_as_last(of: _Column, length: int, _value: int) -> tuple[Floats, Some | None]:
    last, null = of.windows.last(of.values), of.column.null
    known = (of.windows.sizes[length] > 0) & (last != null) & (of.own != null)
    return (last == of.own).astype(np.float64), known


_OF_COLUMN: Final[dict[str, Callable[[_Column, int, int], tuple[Floats, Some | None]]]] = {
    "sum": _sum,
    "mean": _mean,
    "min": _min,
    "max": _max,
    "distinct": _distinct,
    "matches": _matches,
    "share": _share,
    "same_as_last": _same_as_last,
}
"""Aggregate -> the values of n transactions for a window length, and which of them hold; the others are as without
events."""


class WindowTable:
    """Computes a `WindowSet` for many transactions."""

    def __init__(self, windows: WindowSet) -> None:
        self.names: Final = windows.names
        self._windows = windows
        self._empty = np.array(windows.empty, dtype=np.float64).reshape(-1, 1)
        lengths, features = windows.lengths, list(enumerate(windows.features))
        self._counts = [(i, lengths.index(f.window_us)) for i, f in features if f.aggregate == "count"]
        self._since_last = [(i, lengths.index(f.window_us)) for i, f in features if f.aggregate == "seconds_since_last"]
        self._columns = [
            (at, column, [
                (i, lengths.index(f.window_us), _OF_COLUMN[f.aggregate],
                 share_value(f, column) if f.aggregate == "share" else 0)
                for i, f in features if f.column == column.name
            ])
            for at, column in enumerate(windows.layout.columns)
        ]  # fmt: skip
        """Position of a column in the layout, the column, and of each of its features: the position, the window's
        length, the aggregate, the value of a share."""

    def evaluate(
        self, records: Sequence[bytes], newest_us: Sequence[int], at_us: Sequence[int], own: Sequence[Sequence[int]]
    ) -> Floats:
        """`WindowSet.evaluate_records` of n transactions: float64[len(names), n]; NaN is null."""
        values = np.repeat(self._empty, len(records), axis=1)
        windows = _Windows(self._windows, records, np.array(newest_us, dtype=np.int64), np.array(at_us, dtype=np.int64))
        if not len(windows.events):
            return values
        for i, length in self._counts:
            values[i] = windows.sizes[length]
        for i, length in self._since_last:
            seconds = (windows.at_us - windows.last(windows.times)).astype(np.float64) / float(US_PER_SECOND)
            np.copyto(values[i], seconds, where=windows.sizes[length] > 0)
        for at, stored, features in self._columns:
            column = _Column(windows, stored, partial(_values_at, own, at, windows.events.dtype[stored.name]))
            for i, length, aggregate, value in features:
                found, where = aggregate(column, length, value)
                np.copyto(values[i], found, where=True if where is None else where)
        return values


def _values_at(own: Sequence[Sequence[int]], at: int, kind: np.dtype[Any]) -> NDArray[Any]:
    return np.array([of[at] for of in own], dtype=kind)


def _running(of: NDArray[Any]) -> Ints:
    """The sum of the first 0, 1, ... values: int64[len + 1]. It may overflow; differences of it are right."""
    found = np.zeros(len(of) + 1, dtype=np.int64)
    np.cumsum(of, out=found[1:])
    return found


def _order(history: Ints, times: Ints) -> Ints:
    """The order of events by history and time; of equal times, in order of sequence. `history` is ascending."""
    oldest_us = int(times.min())
    span_us = int(times.max()) - oldest_us + 1
    if span_us > _LARGEST // (int(history[-1]) + 1):
        return np.lexsort((times, history))
    # One key is sorted several times faster than two, the more so as most of it is sorted already.
    return np.argsort(history * span_us + (times - oldest_us), kind="stable")
