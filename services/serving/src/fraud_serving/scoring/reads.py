"""What one transaction reads from the online store: the histories and daily rows that any loaded version needs.

Everything leaves in one write and is waited for once. Each command is about one entity, so that entities may lie on
different shards.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

from msgspec import Struct

from fraud.core import columns, contract
from fraud.core.daily import Table
from fraud.core.history import Layout
from fraud.core.plan import Plan
from fraud_serving.request import RequestType, ValidTransaction
from fraud_serving.store.commands import HistoryAppend, PublishedSnapshot, event_arguments
from fraud_serving.store.connection import NO_REPLY, Reply
from fraud_serving.store.daily_snapshots import DailySnapshots
from fraud_serving.store.store import Store


@lru_cache(maxsize=65_536)
def _text_to_stored(text: str | None) -> int:
    return columns.NO_HASH if text is None else columns.text_hash(text)


class Reads(Struct, gc=False):
    """The replies to one transaction. The position of a history or daily table is its slot."""

    replies: list[Reply]
    """By slot: the reply; None if nothing was requested (or, for a daily row, if there is none); NO_REPLY."""
    own: list[Any]
    """By slot: the transaction's own stored integers; for a daily table the entity's id. None without the entity."""
    snapshots: list[PublishedSnapshot | None]
    """By slot: the snapshot whose row was requested."""
    sent: list[int]
    """The slots of the commands, in order."""


class BatchReads:
    """The replies to several transactions. Lists are by slot; each item is a sequence by row, as in `Reads`."""

    def __init__(self, rows: int) -> None:
        self.rows: Final = rows
        self.commands = 0
        """The number of commands that were sent."""
        self.replies: list[Sequence[Reply]] = []
        self.own: list[Sequence[Any]] = []
        self.snapshots: list[Sequence[PublishedSnapshot | None]] = []
        self._sent: list[Sequence[int] | None] = []
        """The rows for which a command was sent; None for all."""

    def add(
        self, own: Sequence[Any], snapshots: Sequence[PublishedSnapshot | None], sent: Sequence[int] | None
    ) -> None:
        """Add a slot. `sent`: the rows for which a command is sent; None for all."""
        self.own.append(own)
        self.snapshots.append(snapshots)
        self.replies.append([None] * self.rows)
        self._sent.append(sent)
        self.commands += self.rows if sent is None else len(sent)

    def fill(self, replies: Sequence[Reply] | None) -> None:
        """Put the replies, in the order of the commands, into their places; None: the store is not connected."""
        if replies is None:
            replies = [NO_REPLY] * self.commands
        at = 0
        for slot, sent in enumerate(self._sent):
            count = self.rows if sent is None else len(sent)
            of_slot = replies[at : at + count]
            at += count
            if sent is not None:
                given, of_slot = of_slot, [None] * self.rows
                for row, reply in zip(sent, given, strict=True):
                    of_slot[row] = reply
            self.replies[slot] = of_slot

    def of_row(self, row: int) -> Reads:
        """What was read for one transaction; nothing is left to be filled."""
        replies, own, snapshots = ([of[row] for of in slots] for slots in (self.replies, self.own, self.snapshots))
        return Reads(replies, own, snapshots, [])


class _History:
    """Appends transactions to the histories of one layout."""

    def __init__(self, layout: Layout, names: Sequence[str], *, challenger: bool) -> None:
        self.layout, self.challenger = layout, challenger
        self.append = HistoryAppend(layout)
        self.id_at = names.index(layout.id_column)
        self.stored = [(names.index(column.name), _to_stored(column)) for column in layout.columns]

    def all_commands(
        self, columns: Sequence[Sequence[Any]], times: Sequence[int | None], events: Sequence[Any],
        reads: BatchReads, *, apart: bool,
    ) -> Iterable[bytes]:  # fmt: skip
        """Add a slot, and return the commands, as one item unless `apart`. `events`: of `_event_of`, by row."""
        ids: Sequence[Any] = columns[self.id_at]
        of_stored: list[Sequence[int]] = [list(map(convert, columns[at])) for at, convert in self.stored]
        own: list[Any] = list(zip(*of_stored, strict=True)) if of_stored else [()] * reads.rows
        sent = None
        if None in ids or None in events:
            sent = [
                i for i, (id_, of) in enumerate(zip(ids, events, strict=True)) if id_ is not None and of is not None
            ]
            kept = frozenset(sent)
            own = [of if i in kept else None for i, of in enumerate(own)]
            ids, times, events = [ids[i] for i in sent], [times[i] for i in sent], [events[i] for i in sent]
            of_stored = [[of[i] for i in sent] for of in of_stored]
        reads.add(own, [None] * reads.rows, sent)
        records = map(self.append.pack, times, *of_stored)
        if apart:
            return map(self.append.command, ids, records, events)
        return (self.append.commands(ids, records, events),) if ids else ()


class _Daily:
    """Reads rows of one daily table."""

    def __init__(self, table: Table, names: Sequence[str], *, challenger: bool) -> None:
        self.table, self.challenger, self.id_at = table, challenger, names.index(table.id_column)

    def all_commands(
        self, columns: Sequence[Sequence[Any]], rows: Sequence[ValidTransaction], snapshots: DailySnapshots,
        reads: BatchReads,
    ) -> list[bytes]:  # fmt: skip
        """Add a slot, and return the commands."""
        ids, find, table = columns[self.id_at], snapshots.at, self.table
        of_rows = [
            None if id_ is None else find(table, row.event_us) for id_, row in zip(ids, rows, strict=True)
        ]  # fmt: skip
        sent = [i for i, of in enumerate(of_rows) if of is not None] if None in of_rows else None
        reads.add(ids, of_rows, sent)
        return [of.command(id_) for of, id_ in zip(of_rows, ids, strict=True) if of is not None]


class ReadPlan:
    """The commands that the loaded versions need for a transaction. Equal layouts and tables are shared."""

    def __init__(self, production: Plan | None, challenger: Plan | None, requests: RequestType) -> None:
        histories, daily = dict[str, _History](), dict[str, _Daily]()
        for plan, of in ((production, requests.production), (challenger, requests.challenger)):
            if plan is None or of is None:
                continue
            second = of is requests.challenger
            for windows in plan.windows:
                history = _History(windows.layout, of.names, challenger=second)
                histories.setdefault(windows.layout.id, history)
            for table in plan.tables:
                daily.setdefault(table.id, _Daily(table, of.names, challenger=second))
        self.appends: Final = {id_: slot for slot, id_ in enumerate(histories)}
        """Layout id -> slot."""
        self.rows: Final = {id_: slot for slot, id_ in enumerate(daily, len(histories))}
        """Table id -> slot."""
        self.tables: Final = tuple(of.table for of in daily.values())
        self._histories, self._daily = tuple(histories.values()), tuple(daily.values())
        self._empty: list[Any] = [None] * (len(histories) + len(daily))
        self.nothing: Final = Reads(self._empty, self._empty, self._empty, [])
        """Of every transaction that reads nothing; never changed."""

    def commands(self, transaction: ValidTransaction, snapshots: DailySnapshots) -> tuple[Reads, Sequence[bytes]]:
        """What to send for a transaction."""
        of_production, of_challenger = transaction.values, transaction.challenger or []
        if transaction.event_us is None or transaction.transaction_id is None:
            for daily in self._daily:
                if (of_challenger if daily.challenger else of_production)[daily.id_at] is not None:
                    break
            else:
                return self.nothing, ()
        reads = Reads(self._empty, self._empty.copy(), self._empty.copy(), [])
        own, sent, event_us = reads.own, reads.sent, transaction.event_us
        commands: list[bytes] = []
        if event_us is not None and transaction.transaction_id is not None:
            event = event_arguments(contract.id_digest(transaction.transaction_id), event_us)
            for slot, history in enumerate(self._histories):
                values = of_challenger if history.challenger else of_production
                entity_id = values[history.id_at]
                if entity_id is None:
                    continue
                stored = own[slot] = [convert(values[at]) for at, convert in history.stored]
                append = history.append
                commands.append(append.command(entity_id, append.pack(event_us, *stored), event))
                sent.append(slot)
        for slot, daily in enumerate(self._daily, len(self._histories)):
            entity_id = own[slot] = (of_challenger if daily.challenger else of_production)[daily.id_at]
            if entity_id is None:
                continue
            snapshot = reads.snapshots[slot] = snapshots.at(daily.table, event_us)
            if snapshot is not None:
                commands.append(snapshot.command(entity_id))
                sent.append(slot)
        return reads, commands

    def all_commands(
        self, rows: Sequence[ValidTransaction], snapshots: DailySnapshots, *, apart: bool
    ) -> tuple[BatchReads, list[bytes]]:
        """What to send for several transactions, slot by slot, and in their order in each; as `commands` of each.

        `apart`: every command is an item of its own (`Store.takes_single_commands`).
        """
        columns = {False: list(zip(*[row.values for row in rows], strict=True))}
        if any(of.challenger for of in self._histories) or any(of.challenger for of in self._daily):
            columns[True] = list(zip(*[row.challenger or () for row in rows], strict=True))
        reads, commands = BatchReads(len(rows)), list[bytes]()
        if self._histories:
            times, events = [row.event_us for row in rows], list(map(_event_of, rows))
            for history in self._histories:
                commands += history.all_commands(columns[history.challenger], times, events, reads, apart=apart)
        for daily in self._daily:
            commands += daily.all_commands(columns[daily.challenger], rows, snapshots, reads)
        return reads, commands


def _event_of(row: ValidTransaction) -> bytes | None:
    """`event_arguments` of a transaction; None if it is not appended to histories."""
    if row.event_us is None or row.transaction_id is None:
        return None
    return event_arguments(contract.id_digest(row.transaction_id), row.event_us)


def fill(reads: Reads, replies: Sequence[Reply] | None) -> None:
    """Put the replies, in the order of the commands, into their slots; None: the store is not connected."""
    if replies is None:
        replies = [NO_REPLY] * len(reads.sent)
    if len(reads.sent) == len(reads.own):
        reads.replies = list(replies)
        return
    reads.replies = [None] * len(reads.own)
    for slot, reply in zip(reads.sent, replies, strict=True):
        reads.replies[slot] = reply


async def read_all(
    plan: ReadPlan, store: Store, snapshots: DailySnapshots, rows: Sequence[ValidTransaction], at_once: int
) -> list[BatchReads]:
    """The replies to the rows of a batch, in parts of `at_once`, which are sent in one event-loop iteration each.

    Earlier rows of an entity are in the history of later ones.
    """
    found = []
    for start in range(0, len(rows), at_once):
        reads, commands = plan.all_commands(rows[start : start + at_once], snapshots, apart=store.takes_single_commands)
        if commands:
            future = store.send(commands, reads.commands)
            reads.fill(None if future is None else await future)
        found.append(reads)
        await asyncio.sleep(0)
    return found


def _to_stored(column: columns.StoredColumn) -> Callable[[Any], int]:
    """The stored integer of a checked value, as `fraud.core.columns.to_stored`."""
    if column.type == "flag":
        return {None: columns.NO_FLAG, True: 1, False: 0}.__getitem__
    if column.type == "number":
        divisor = column.divisor
        return lambda value: columns.NO_NUMBER if value is None else round(value * divisor)
    return _text_to_stored
