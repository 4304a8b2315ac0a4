"""Which events enter and leave the windows of one length, from event to event of many entities.

Events are processed in order of ingestion, entity by entity. The history of an entity, its bound and how long it is
kept are those of `fraud.core.history`. A late event is a step back of the window and a step forward again. If nothing
is late, each event enters and leaves once. The number of moves of an event is at most the number of events in the
history.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fraud.features.engines.compiled import Ints, Places, compiled, inlined


class Moves(NamedTuple):
    """What enters and leaves the windows of one length at consecutive events."""

    moves: Places
    """A position that enters, or ~position that leaves."""
    ends: Places
    """Per event: the end of its moves. Before the event's value is taken, the moves until here have been made."""
    events: Places
    """Position of each event."""
    size: Places
    """Number of events in its window."""
    last: Places
    """Position of the latest event in its window by event time, ties by sequence; -1 for an empty window."""
    event_us: Ints
    """By position."""


class Block(NamedTuple):
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
def remember(block: Block, ingested: Ints, keep_us: int) -> None:
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


@inlined
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


class _Place(NamedTuple):
    """A window and how many moves have been recorded."""

    used: int
    low: int
    high: int
    """The window has the members from position `low` to `high`."""
    size: int
    """Their number."""


@inlined
def _enter(block: Block, low: int, high: int, first: int, rank: int, moves: Places, used: int) -> int:
    """Record that the members from `low` to `high` enter. Returns the new number of used moves."""
    for position in range(low, high):
        if first <= block.sequence[position] < rank:
            moves[used] = position
            used += 1
    return used


@inlined
def _leave(block: Block, low: int, high: int, first: int, rank: int, moves: Places, used: int) -> int:
    for position in range(low, high):
        if first <= block.sequence[position] < rank:
            moves[used] = ~position
            used += 1
    return used


@inlined
def _change(block: Block, a: int, first: int, rank: int, old: _Place, low: int, high: int, moves: Places) -> _Place:
    """Record the moves that turn the window `old` into the one from `low` to `high`: at most the number of members.

    Members are the events of the entity that starts at `a` with a sequence from `first` to `rank`.
    """
    used, size = old.used, old.size
    if min(abs(low - old.low) + abs(high - old.high), high - low + old.high - old.low) > rank - first:
        for s in range(a + first, a + rank):
            position = block.members[s]
            change = int(low <= position < high) - int(old.low <= position < old.high)
            if change != 0:
                moves[used] = position if change > 0 else ~position
                used, size = used + 1, size + change
        return _Place(used, low, high, size)
    used = _leave(block, old.low, min(old.high, low), first, rank, moves, used)
    used = _leave(block, max(old.low, high), old.high, first, rank, moves, used)
    size -= used - old.used
    entered = used
    used = _enter(block, low, min(high, old.low), first, rank, moves, used)
    used = _enter(block, max(low, old.high), high, first, rank, moves, used)
    return _Place(used, low, high, size + used - entered)


@inlined
def _next_in_order(block: Block, oldest: int, since: int, time: int, old: _Place, moves: Places) -> _Place:
    """The window of the next event if nothing is late: positions and sequences agree, and both bounds only grow.

    It contains the events from `since` to `time`, except those before the position `oldest`.
    """
    used, low, high = old.used, max(old.low, oldest), old.high
    while block.event_us[high] < time:
        high += 1
    while low < high and block.event_us[low] < since:
        low += 1
    low = min(low, high)
    for position in range(old.low, min(low, old.high)):
        moves[used] = ~position
        used += 1
    for position in range(max(low, old.high), high):
        moves[used] = position
        used += 1
    return _Place(used, low, high, high - low)


@inlined
def _next(
    block: Block, g: int, k: int, first: int, since: int, time: int, old: _Place, moves: Places
) -> _Place:  # fmt: skip
    """The window of event `k` in any order of ingestion: the members from `since` to `time`."""
    a, b, rank = block.starts[g], block.starts[g + 1], block.rank[k]
    used, size = old.used, old.size
    if k > a and first > 0 and rank > block.rank[k - 1]:
        # The event before has joined the history, after the end of its own window, and displaced the oldest.
        displaced = block.members[a + first - 1]
        if old.low <= displaced < old.high:
            moves[used] = ~displaced
            used, size = used + 1, size - 1
    low = _lower(block.event_us, a, b, old.low, since)
    high = _lower(block.event_us, a, b, old.high, time)
    return _change(block, a, first, rank, _Place(used, old.low, old.high, size), low, high, moves)


@compiled
def follow(block: Block, window_us: int, bound: int, keep_us: int, until: int, cursor: Ints, moves: Moves) -> int:
    """Record the moves of a window at the events from cursor[0] to `until`. Returns the number of events.

    It ends early when the room in `moves`, at least 2 * `bound` + 2, may not be enough for another event. `cursor`
    int64[5] is where the next call continues: event, entity, and low, high and size of the window.
    """
    start, g = cursor[0], cursor[1]
    k, place = start, _Place(0, cursor[2], cursor[3], cursor[4])
    while k < until and place.used + 2 * bound + 2 <= len(moves.moves):
        if k == block.starts[g + 1]:
            if place.size > 0:
                a, rank = block.starts[g], block.rank[k - 1]
                place = _change(block, a, max(0, rank - bound), rank, place, k, k, moves.moves)
            place = _Place(place.used, k, k, 0)
            while k == block.starts[g + 1]:
                g += 1
        rank, time = block.rank[k], block.event_us[block.events[k]]
        first = max(0, rank - bound)
        since = min(max(time - window_us, block.newest[k] - keep_us), time)
        if block.in_order[g]:
            place = _next_in_order(block, block.starts[g] + first, since, time, place, moves.moves)
        else:
            place = _next(block, g, k, first, since, time, place, moves.moves)
        last = place.high - 1 if place.size > 0 else -1
        while last >= place.low and not first <= block.sequence[last] < rank:
            last -= 1
        moves.ends[k - start], moves.size[k - start], moves.last[k - start] = place.used, place.size, last
        k += 1
    cursor[0], cursor[1], cursor[2], cursor[3], cursor[4] = k, g, place.low, place.high, place.size
    return int(k - start)
