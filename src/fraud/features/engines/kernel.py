"""The window features of many entities in batch: any set of windows, in one pass per entity.

`fraud.core.windows` defines the values and computes them for one transaction. The kernel has no names of columns or
features: it reads stored integers and returns numbers.

Events are taken in order of ingestion, entity by entity. For each length of window, `_follow` records which events
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

from fraud.features.engines.aggregates import AGGREGATES, BY_CODE, Column, Memory, Moves
from fraud.features.engines.compiled import Floats, Ints, Places, compiled

BLOCK: Final = 16_384
"""Events that are processed at once: entities are put together until they have this many."""


class Window(NamedTuple):
    """One window feature."""

    aggregate: str
    """A key of AGGREGATES."""
    column: int
    """Row of `columns`; -1 for an aggregate without a column."""
    window_us: int
    divisor: int = 1
    """Units per 1 of the column, for sum, mean, min and max."""
    value: int = 0
    """The stored value whose share is computed."""


class _Block(NamedTuple):
    """The events of some entities. Positions number them by entity, then (event_us, ingested, tie-break)."""

    starts: Ints
    """int64[entities + 1], positions."""
    in_order: NDArray[np.bool_]
    """Per entity: events were ingested in order of their positions."""
    event_us: Ints
    """By position, like `sequence`."""
    sequence: Places
    """Place in the history of the entity; -1 for an event that was too late for it."""
    members: Places
    """Inverse of `sequence`: position of the event with sequence s of the entity that starts at a, at a + s."""
    events: Places
    """Positions in order of ingestion, entity by entity. The next two have this order."""
    rank: Places
    """Number of events in the history before."""
    newest: Ints
    """Latest event time before."""


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
def _remember(block: _Block, ingested: Ints, keep_us: int) -> None:
    """Fill `sequence`, `members`, `events`, `rank` and `newest`, as docs/features.md defines the history."""
    for g in range(len(block.starts) - 1):
        a, b = block.starts[g], block.starts[g + 1]
        block.in_order[g] = True
        for i in range(a + 1, b):
            block.in_order[g] &= ingested[i - 1] <= ingested[i]
        if block.in_order[g]:
            block.events[a:b] = np.arange(a, b)
        else:
            block.events[a:b] = a + np.argsort(ingested[a:b], kind="mergesort")
        count, latest = 0, np.int64(0)
        for k in range(a, b):
            i = block.events[k]
            block.rank[k], block.newest[k], block.sequence[i] = count, latest, -1
            if block.event_us[i] >= latest - keep_us:
                block.sequence[i], block.members[a + count] = count, i
                count, latest = count + 1, max(latest, block.event_us[i])


@compiled
def _lower(event_us: Ints, a: int, b: int, near: int, time: int) -> int:
    """The first position from a to b with an event time of at least `time`; b for none. Fast if it is close to `near`.

    `event_us[a:b]` is sorted, and a <= near <= b.
    """
    low, high, step = near, near, 1
    while low > a and event_us[low - 1] >= time:
        high = low - 1
        low, step = max(a, low - step), 2 * step
    step = 1
    while high < b and event_us[high] < time:
        low = high + 1
        high, step = min(b, high + step), 2 * step
    while low < high:
        middle = (low + high) // 2
        if event_us[middle] < time:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def _change(
    block: _Block, a: int, first: int, rank: int, old: tuple[int, int], new: tuple[int, int], moves: Places, used: int,
    size: int,
) -> tuple[int, int]:  # fmt: skip
    """Record the moves that turn the window over the positions `old` into the one over `new`.

    Members are events with a sequence from `first` to `rank`. Returns the number of used `moves`, which grows by at most
    the number of members, and the number of members in the window, which was `size`.
    """
    leaving = ((old[0], min(old[1], new[0])), (max(old[0], new[1]), old[1]))
    entering = ((new[0], min(new[1], old[0])), (max(new[0], old[1]), new[1]))
    crossed = 0
    for since, until in leaving:
        crossed += max(0, until - since)
    for since, until in entering:
        crossed += max(0, until - since)
    if crossed <= rank - first:
        for since, until in leaving:
            for position in range(since, until):
                if first <= block.sequence[position] < rank:
                    moves[used] = ~position
                    used, size = used + 1, size - 1
        for since, until in entering:
            for position in range(since, until):
                if first <= block.sequence[position] < rank:
                    moves[used] = position
                    used, size = used + 1, size + 1
        return used, size
    for s in range(a + first, a + rank):
        position = block.members[s]
        leaves, enters = old[0] <= position < old[1], new[0] <= position < new[1]
        if leaves and not enters:
            moves[used] = ~position
            used, size = used + 1, size - 1
        elif enters and not leaves:
            moves[used] = position
            used, size = used + 1, size + 1
    return used, size


@compiled
def _follow(block: _Block, window_us: int, bound: int, keep_us: int, until: int, cursor: Ints, moves: Moves) -> int:
    """Record the moves of a window at the events from cursor[0] to `until`. Returns the number of events.

    It ends early when the room in `moves`, at least 2 * `bound` + 2, may not be enough for another event. `cursor`
    int64[5] is where the next call continues: event, entity, window (two positions) and number of events in it.
    """
    start, g, low, high, size = cursor
    k, used = start, 0
    while k < until and used + 2 * bound + 2 <= len(moves.moves):
        if k == block.starts[g + 1]:
            if size > 0:
                a, rank = block.starts[g], block.rank[k - 1]
                used, size = _change(
                    block, a, max(0, rank - bound), rank, (low, high), (k, k), moves.moves, used, size
                )  # fmt: skip
            low, high = k, k
            while k == block.starts[g + 1]:
                g += 1
        a, b, rank = block.starts[g], block.starts[g + 1], block.rank[k]
        first, time = max(0, rank - bound), block.event_us[block.events[k]]
        since = min(max(time - window_us, block.newest[k] - keep_us), time)
        if block.in_order[g]:
            new_high, new_low = high, max(low, a + first)
            while block.event_us[new_high] < time:
                new_high += 1
            while new_low < new_high and block.event_us[new_low] < since:
                new_low += 1
            new_low = min(new_low, new_high)
            for position in range(low, min(new_low, high)):
                moves.moves[used] = ~position
                used += 1
            for position in range(max(high, new_low), new_high):
                moves.moves[used] = position
                used += 1
            low, high = new_low, new_high
            size, last = high - low, high - 1 if high > low else -1
        else:
            if k > a and rank > block.rank[k - 1]:  # the event before joined the history, and may displace another
                position = block.members[a + rank - 1]
                if low <= position < high:
                    moves.moves[used] = position
                    used, size = used + 1, size + 1
                if first > 0:
                    position = block.members[a + first - 1]
                    if low <= position < high:
                        moves.moves[used] = ~position
                        used, size = used + 1, size - 1
            window = _lower(block.event_us, a, b, low, since), _lower(block.event_us, a, b, high, time)
            used, size = _change(block, a, first, rank, (low, high), window, moves.moves, used, size)
            low, high = window
            last = high - 1 if size > 0 else -1
            while last >= low and not first <= block.sequence[last] < rank:
                last -= 1
        moves.ends[k - start], moves.size[k - start], moves.last[k - start] = used, size, last
        k += 1
    cursor[0], cursor[1], cursor[2], cursor[3], cursor[4] = k, g, low, high, size
    return k - start


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
def _scatter(values: Floats, events: Places, order: Ints, out: Floats) -> None:
    """Write float64[windows, events] into the rows of the events: out float64[n, windows]."""
    for k in range(len(events)):
        row = order[events[k]]
        for f in range(len(values)):
            out[row, f] = values[f, k]


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

    def compute(self, starts: Ints, order: Ints, event_us: Ints, ingested: Ints, columns: Ints, out: Floats) -> None:
        """The values of the entities whose rows are order[starts[g]:starts[g + 1]], to their rows of `out`."""
        n, first = int(starts[-1] - starts[0]), int(starts[0])
        rows = order[first : first + n]
        _gather(rows, event_us, self.event_us)
        _gather(rows, ingested, self.ingested)
        block = _Block(
            starts - first, np.empty(len(starts) - 1, dtype=np.bool_), self.event_us[:n], self.sequence[:n], self.members[:n], self.events[:n], self.rank[:n],
            self.newest[:n],
        )  # fmt: skip
        _remember(block, self.ingested, self.keep_us)
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
            _scatter(self.out, block.events[k:until], rows, out)

    def _aggregate(self, block: _Block, window_us: int, since: int, until: int, cursor: Ints) -> None:
        """Values of the events `since` to `until` for the windows of one length, to `self.out`."""
        k = since
        while k < until:
            room = Moves(self.moves, self.ends, block.events, self.size, self.last, block.event_us)
            n = _follow(block, window_us, self.bound, self.keep_us, until, cursor, room)
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
    windows: Sequence[Window], starts: Ints, order: Ints, event_us: Ints, ingested: Ints, columns: Ints, nulls: Ints,
    bound: int, keep_us: int, threads: int = 1,
) -> Floats:  # fmt: skip
    """Window values of every row: float64[len(windows), n], null as NaN.

    Rows are sorted by (event_us, ingested, tie-break); entity g has the rows order[starts[g]:starts[g + 1]], in this
    order. Each row belongs to one entity, as `group` returns it. `ingested` orders the history: the sequence, or
    created_timestamp in us. Events with equal values keep their order.

    `columns` int64[c, n] has stored integers (`fraud.core.columns`; a 64-bit hash as the int64 of the same bits), and
    `nulls` int64[c] the stored integer of a null. `bound` and `keep_us` are max_events and keep of the entity.
    """
    out = np.empty((len(event_us), len(windows)))
    blocks = [block for block in _blocks(starts) if block[0] < block[-1]]
    longest = max((int(block[-1] - block[0]) for block in blocks), default=0)

    def compute_every(first: int) -> None:
        worker = _Worker(windows, nulls, longest, bound, keep_us)
        for block in blocks[first::threads]:
            worker.compute(block, order, event_us, ingested, columns, out)

    if blocks and windows:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(compute_every, range(threads)))
    return out.T
