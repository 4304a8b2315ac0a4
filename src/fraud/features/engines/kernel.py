"""The window features of many entities in batch: any set of windows, in one pass per entity.

`fraud.core.windows` defines the values and computes them for one transaction. The kernel has no names of columns or
features: it reads stored integers and returns numbers.

Events are processed in order of ingestion, entity by entity. For each length of window, `follow` records which events
enter and leave the window from one event to the next, and every aggregate of that window follows these moves
(`fraud.features.engines.aggregates`). A late event is a step back of the window and a step forward again, so there is
one code path for every order of ingestion. If nothing is late, each event enters and leaves once.

Memory per thread does not depend on the number of different ids, because ids are numbered within each entity: about
200 bytes per event of a block, and 5 to 8 more for each aggregate that counts ids or has a minimum or maximum. A block
has BLOCK events, or those of one entity that has more.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fraud.features.engines.aggregates import AGGREGATES, BY_CODE, Column, Memory
from fraud.features.engines.compiled import Floats, Ints, Places, compiled
from fraud.features.engines.moves import Block, Moves, follow, remember

BLOCK: Final = 16_384
"""Events that are processed at once: entities are put together until they have this many."""


class Window(NamedTuple):
    """One window feature."""

    aggregate: str
    """A key of AGGREGATES."""
    column: int
    """Index into `columns`; -1 for an aggregate without a column."""
    window_us: int
    divisor: int = 1
    """Units per 1 of the column, for sum, mean, min and max."""
    value: int = 0
    """The stored value whose share is computed."""


@compiled
def group(codes: NDArray[np.int32], groups: int) -> tuple[Ints, Ints]:
    """Stable counting sort: (starts int64[g + 1], order int64[n]); group i is order[starts[i]:starts[i + 1]].

    `codes` are from 0 to `groups`. A row with the code -1, of no entity, becomes a group of its own after these.
    """
    starts = np.zeros(groups + 1 + np.count_nonzero(codes < 0), dtype=np.int64)
    for code in codes:
        if code >= 0:
            starts[code + 1] += 1
    starts[groups + 1 :] = 1
    for g in range(len(starts) - 1):
        starts[g + 1] += starts[g]
    free = starts[:-1].copy()
    order = np.empty(len(codes), dtype=np.int64)
    single = groups
    for i in range(len(codes)):
        g = codes[i]
        if g < 0:
            g, single = single, single + 1
        order[free[g]] = i
        free[g] += 1
    return starts, order


@compiled
def _number(values: Ints, null: int, starts: Ints, table: Places, codes: Places) -> None:
    """Number the different values of each entity from 0, in order of position; -1 for null.

    `table` is a hash table with open addressing: int32[a power of two, at least twice the events of an entity].
    """
    for g in range(len(starts) - 1):
        a, b = starts[g], starts[g + 1]
        bits = 2
        while 1 << bits < 2 * (b - a):
            bits += 1
        table[: 1 << bits] = -1
        found, mask, shift = 0, (1 << bits) - 1, np.uint64(64 - bits)
        for i in range(a, b):
            if values[i] == null:
                codes[i] = -1
                continue
            slot = np.int64((np.uint64(values[i]) * np.uint64(0x9E3779B97F4A7C15)) >> shift)
            while table[slot] >= 0 and values[table[slot]] != values[i]:
                slot = (slot + 1) & mask
            if table[slot] < 0:
                table[slot], codes[i] = i, found
                found += 1
            else:
                codes[i] = codes[table[slot]]


@compiled
def _gather(order: Ints, source: Ints, out: Ints) -> None:
    for i in range(len(order)):
        out[i] = source[order[i]]


@compiled
def _scatter(values: Floats, events: Places, rows: Ints, places: Ints, out: Floats) -> None:
    """Write float64[windows, events] to out[places[row]] of the events' rows; a place of -1 is not written."""
    for k in range(len(events)):
        place = places[rows[events[k]]]
        if place >= 0:
            for f in range(len(values)):
                out[place, f] = values[f, k]


class _Worker:
    """Computes block after block with the same arrays. `longest` is the number of events of the largest block."""

    def __init__(self, windows: Sequence[Window], nulls: Ints, longest: int, bound: int, keep_us: int) -> None:
        self.windows, self.nulls, self.bound, self.keep_us = windows, nulls, min(bound, longest), keep_us
        self.lengths = {us: [f for f, w in enumerate(windows) if w.window_us == us] for us in _lengths(windows)}
        self.used = sorted({w.column for w in windows if w.column >= 0})
        self.coded = sorted({w.column for w in windows if w.aggregate in BY_CODE})
        self.event_us, self.ingested, self.newest = (np.empty(longest, dtype=np.int64) for _ in range(3))
        self.sequence, self.members, self.events, self.rank = (np.empty(longest, dtype=np.int32) for _ in range(4))
        self.values = {c: np.empty(longest, dtype=np.int64) for c in self.used}
        self.codes = {c: np.empty(longest if c in self.coded else 0, dtype=np.int32) for c in self.used}
        self.table = np.empty(4 << (longest - 1).bit_length() if self.coded else 0, dtype=np.int32)
        self.moves = np.empty(2 * BLOCK + 2 * self.bound + 2, dtype=np.int32)
        self.ends, self.size, self.last = (np.empty(min(BLOCK, longest), dtype=np.int32) for _ in range(3))
        self.memories = [_memory(w.aggregate, longest) for w in windows]
        self.out = np.empty((len(windows), min(BLOCK, longest)))

    def compute(
        self, starts: Ints, order: Ints, event_us: Ints, ingested: Ints, columns: Sequence[Ints], places: Ints,
        out: Floats,
    ) -> None:  # fmt: skip
        """The values of the entities whose rows are order[starts[g]:starts[g + 1]], to out[places[row]]."""
        n, first = int(starts[-1] - starts[0]), int(starts[0])
        rows = order[first : first + n]
        _gather(rows, event_us, self.event_us)
        _gather(rows, ingested, self.ingested)
        block = Block(
            starts - first, np.empty(len(starts) - 1, dtype=np.bool_), self.event_us[:n], self.sequence[:n],
            self.members[:n], self.events[:n], self.rank[:n], self.newest[:n],
        )  # fmt: skip
        remember(block, self.ingested, self.keep_us)
        for c in self.used:
            _gather(rows, columns[c], self.values[c])
        for c in self.coded:
            _number(self.values[c], self.nulls[c], block.starts, self.table, self.codes[c])
        for memory in self.memories:
            for array in memory:
                array[:] = 0
        cursors = {us: np.zeros(5, dtype=np.int64) for us in self.lengths}
        for k in range(0, n, BLOCK):
            until = min(k + BLOCK, n)
            for us in self.lengths:
                self._aggregate(block, us, k, until, cursors[us])
            _scatter(self.out, block.events[k:until], rows, places, out)

    def _aggregate(self, block: Block, window_us: int, since: int, until: int, cursor: Ints) -> None:
        """Values of the events `since` to `until` for the windows of one length, to `self.out`."""
        k = since
        while k < until:
            room = Moves(self.moves, self.ends, block.events, self.size, self.last, block.event_us)
            n = follow(block, window_us, self.bound, self.keep_us, until, cursor, room)
            moves = Moves(
                self.moves, self.ends[:n], block.events[k : k + n], self.size[:n], self.last[:n], block.event_us
            )
            for f in self.lengths[window_us]:
                window, out = self.windows[f], self.out[f, k - since : k - since + n]
                AGGREGATES[window.aggregate](
                    moves, self._column(window.column), (window.divisor, window.value), self.memories[f], out
                )
            k += n

    def _column(self, column: int) -> Column:
        if column < 0:
            return Column(self.event_us[:0], self.events[:0], 0)
        return Column(self.values[column], self.codes[column], int(self.nulls[column]))


def _memory(aggregate: str, longest: int) -> Memory:
    coded, extreme = aggregate in BY_CODE, aggregate in ("min", "max")
    return Memory(
        np.zeros(2, dtype=np.int64),
        np.zeros(longest + 1 if coded or extreme else 0, dtype=np.int32),
        np.zeros(longest if extreme else 0, dtype=np.uint8),
    )


def _lengths(windows: Sequence[Window]) -> list[int]:
    return sorted({window.window_us for window in windows})


def _blocks(starts: Ints) -> Iterator[Ints]:
    """`starts` of consecutive entities with BLOCK events together, or of one entity with more."""
    g = 0
    while g < len(starts) - 1:
        end = max(g + 1, int(np.searchsorted(starts, starts[g] + BLOCK, side="right")) - 1)
        yield starts[g : end + 1]
        g = end


def compute(
    windows: Sequence[Window], starts: Ints, order: Ints, event_us: Ints, ingested: Ints, columns: Sequence[Ints],
    nulls: Ints, bound: int, keep_us: int, threads: int = 1, requested: NDArray[np.bool_] | None = None,
) -> Floats:  # fmt: skip
    """Window values of every row, or of the `requested` ones in their order: float64[len(windows), n], null as NaN.

    Rows are sorted by (event_us, ingested, tie-break); entity g has the rows order[starts[g]:starts[g + 1]], in this
    order, and each row belongs to one entity (`group`). `ingested` orders the history: the sequence, or
    created_timestamp in us. Events with equal values keep their order.

    `columns`, each int64[n], have stored integers (`fraud.core.columns`; a 64-bit hash as the int64 of the same bits),
    and `nulls` int64[c] the stored integer of a null. `bound` and `keep_us` are max_events and keep of the entity.
    """
    places = np.arange(len(event_us)) if requested is None else np.where(requested, np.cumsum(requested) - 1, -1)
    out = np.empty((len(event_us) if requested is None else np.count_nonzero(requested), len(windows)))
    blocks = [block for block in _blocks(starts) if block[0] < block[-1]]

    def compute_every(first: int) -> None:
        own = blocks[first::threads]
        longest = max((int(block[-1] - block[0]) for block in own), default=1)
        worker = _Worker(windows, nulls, longest, bound, keep_us)
        for block in own:
            worker.compute(block, order, event_us, ingested, columns, places, out)

    if blocks and windows:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(compute_every, range(threads)))
    return out.T
