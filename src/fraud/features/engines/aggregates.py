"""The aggregates of the kernel. Each is one function; to add one, write it here and list it in AGGREGATES.

An aggregate follows the moves of a window, event by event: what an entering event adds, what a leaving event takes
away, and the value. It is called as `aggregate(moves, column, window, memory, out)` for many consecutive events, with
`window` = (divisor, value) of `kernel.Window`, and writes one value per event to `out`.

Sums are int64 and a mean divides once, so the values have the same bits as those of `fraud.core.windows`.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fraud.features.engines.compiled import Floats, Ints, Places, compiled, inlined
from fraud.features.engines.moves import Moves


class Column(NamedTuple):
    """The aggregated column. Both arrays are by position; without a column they are empty."""

    values: Ints
    codes: Places
    """Equal if and only if the values are, within an entity; -1 for null. Only for aggregates in BY_CODE."""
    null: int


class Memory(NamedTuple):
    """The state of one aggregate between two calls. It is zero at the start of a block."""

    numbers: Ints
    """int64[2]"""
    counts: Places
    """Per code, for aggregates in BY_CODE; the heap of min and max."""
    flags: NDArray[np.uint8]
    """Per position, for min and max."""


@inlined
def _signed(move: int) -> tuple[int, int]:
    """(position, 1) of an entering event, (position, -1) of a leaving one."""
    return (move, 1) if move >= 0 else (~move, -1)


@compiled
def _count(moves: Moves, _column: Column, _window: tuple[int, int], _memory: Memory, out: Floats) -> None:
    for k in range(len(moves.ends)):
        out[k] = float(moves.size[k])


@compiled
def _sum(moves: Moves, column: Column, window: tuple[int, int], memory: Memory, out: Floats) -> None:
    total, at = memory.numbers[0], 0
    for k in range(len(moves.ends)):
        for move in moves.moves[at : moves.ends[k]]:
            position, sign = _signed(move)
            if column.values[position] != column.null:
                total += sign * column.values[position]
        at = moves.ends[k]
        out[k] = float(total) / float(window[0])
    memory.numbers[0] = total


@compiled
def _mean(moves: Moves, column: Column, window: tuple[int, int], memory: Memory, out: Floats) -> None:
    n, total, at = memory.numbers[0], memory.numbers[1], 0
    for k in range(len(moves.ends)):
        for move in moves.moves[at : moves.ends[k]]:
            position, sign = _signed(move)
            if column.values[position] != column.null:
                n += sign
                total += sign * column.values[position]
        at = moves.ends[k]
        out[k] = float(total) / float(n * window[0]) if n > 0 else np.nan
    memory.numbers[0], memory.numbers[1] = n, total


@compiled
def _share(moves: Moves, column: Column, window: tuple[int, int], memory: Memory, out: Floats) -> None:
    n, equal, at = memory.numbers[0], memory.numbers[1], 0
    for k in range(len(moves.ends)):
        for move in moves.moves[at : moves.ends[k]]:
            position, sign = _signed(move)
            if column.values[position] != column.null:
                n += sign
                equal += sign * (column.values[position] == window[1])
        at = moves.ends[k]
        out[k] = float(equal) / float(n) if n > 0 else np.nan
    memory.numbers[0], memory.numbers[1] = n, equal


@inlined
def _push(heap: Places, size: int, position: int, values: Ints, highest: int) -> None:
    """Add a position to a heap of `size` at heap[1:]. The highest value is first; the lowest with `highest` -1."""
    key, child = highest * values[position], size + 1
    while child > 1 and highest * values[heap[child >> 1]] < key:
        heap[child] = heap[child >> 1]
        child >>= 1
    heap[child] = position


@inlined
def _pop(heap: Places, size: int, values: Ints, highest: int) -> None:
    """Remove the first position of a heap of `size`."""
    position = heap[size]
    key, parent, child = highest * values[position], 1, 2
    while child < size:
        if child + 1 < size and highest * values[heap[child + 1]] > highest * values[heap[child]]:
            child += 1
        if highest * values[heap[child]] <= key:
            break
        heap[parent] = heap[child]
        parent, child = child, 2 * child
    heap[parent] = position


@inlined
def _extreme(moves: Moves, column: Column, divisor: int, highest: int, memory: Memory, out: Floats) -> None:
    """The maximum (`highest` 1) or minimum (-1) by a heap of positions.

    An event that left stays in the heap until it is the first one: late events and the bound make events leave in
    another order than they entered, which a monotonic queue cannot follow. The flag of a position is 0 (not in the
    heap), 1 (in the heap) or 3 (in the heap and in the window).
    """
    heap, flags, values = memory.counts, memory.flags, column.values
    size, inside, at = memory.numbers[0], memory.numbers[1], 0
    for k in range(len(moves.ends)):
        for move in moves.moves[at : moves.ends[k]]:
            position, sign = _signed(move)
            if values[position] != column.null:
                inside += sign
                if sign > 0 and flags[position] == 0:
                    _push(heap, size, position, values, highest)
                    size += 1
                flags[position] = 3 if sign > 0 else 1
        at = moves.ends[k]
        if inside == 0:
            for i in range(1, size + 1):
                flags[heap[i]] = 0
            size = 0
            out[k] = np.nan
            continue
        while flags[heap[1]] == 1:
            flags[heap[1]] = 0
            _pop(heap, size, values, highest)
            size -= 1
        out[k] = float(values[heap[1]]) / float(divisor)
    memory.numbers[0], memory.numbers[1] = size, inside


@compiled
def _min(moves: Moves, column: Column, window: tuple[int, int], memory: Memory, out: Floats) -> None:
    _extreme(moves, column, window[0], -1, memory, out)


@compiled
def _max(moves: Moves, column: Column, window: tuple[int, int], memory: Memory, out: Floats) -> None:
    _extreme(moves, column, window[0], 1, memory, out)


@compiled
def _distinct(moves: Moves, column: Column, _window: tuple[int, int], memory: Memory, out: Floats) -> None:
    different, at = memory.numbers[0], 0
    for k in range(len(moves.ends)):
        for move in moves.moves[at : moves.ends[k]]:
            position, sign = _signed(move)
            code = column.codes[position]
            if code >= 0:
                memory.counts[code] += sign
                different += sign * (memory.counts[code] == (sign + 1) // 2)
        at = moves.ends[k]
        out[k] = float(different)
    memory.numbers[0] = different


@compiled
def _matches(moves: Moves, column: Column, _window: tuple[int, int], memory: Memory, out: Floats) -> None:
    at = 0
    for k in range(len(moves.ends)):
        for move in moves.moves[at : moves.ends[k]]:
            position, sign = _signed(move)
            if column.codes[position] >= 0:
                memory.counts[column.codes[position]] += sign
        at = moves.ends[k]
        own = column.codes[moves.events[k]]
        out[k] = float(memory.counts[own]) if own >= 0 else 0.0


@compiled
def _seconds_since_last(moves: Moves, _column: Column, _window: tuple[int, int], _memory: Memory, out: Floats) -> None:
    for k in range(len(moves.ends)):
        since_us = moves.event_us[moves.events[k]] - moves.event_us[moves.last[k]]
        out[k] = float(since_us) / 1e6 if moves.last[k] >= 0 else np.nan


@compiled
def _same_as_last(moves: Moves, column: Column, _window: tuple[int, int], _memory: Memory, out: Floats) -> None:
    for k in range(len(moves.ends)):
        own, last = column.values[moves.events[k]], column.values[moves.last[k]]
        if moves.last[k] < 0 or column.null in (own, last):
            out[k] = np.nan
        else:
            out[k] = 1.0 if own == last else 0.0


AGGREGATES: Final[dict[str, Callable[..., None]]] = {
    "count": _count, "sum": _sum, "mean": _mean, "min": _min, "max": _max, "distinct": _distinct,
    "seconds_since_last": _seconds_since_last, "share": _share, "matches": _matches, "same_as_last": _same_as_last,
}  # fmt: skip
BY_CODE: Final = frozenset({"distinct", "matches"})
"""Aggregates that need `Column.codes`."""
