"""What one transaction reads from the online store: the histories and daily rows that any loaded version needs.

Everything leaves in one write and is waited for once. Each command is about one entity, so that entities may lie on
different shards.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import chain, repeat
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


class _History:
    """Appends transactions to the histories of one layout."""

    def __init__(self, layout: Layout, names: Sequence[str], *, challenger: bool) -> None:
        self.layout, self.challenger = layout, challenger
        self.append = HistoryAppend(layout)
        self.id_at = names.index(layout.id_column)
        self.stored = [(names.index(column.name), _to_stored(column)) for column in layout.columns]


class _Daily:
    """Reads rows of one daily table."""

    def __init__(self, table: Table, names: Sequence[str], *, challenger: bool) -> None:
        self.table, self.challenger, self.id_at = table, challenger, names.index(table.id_column)


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
        self._every = list(range(len(self._empty)))
        self.nothing: Final = Reads(self._empty, self._empty, self._empty, [])
        """Of every transaction that reads nothing; never changed."""

    def commands(self, transaction: ValidTransaction, snapshots: DailySnapshots) -> tuple[Reads, bytes]:
        """What to send for a transaction; b"" if there is nothing to read."""
        of_production, of_challenger = transaction.values, transaction.challenger or []
        if transaction.event_us is None or transaction.transaction_id is None:
            for daily in self._daily:
                if (of_challenger if daily.challenger else of_production)[daily.id_at] is not None:
                    break
            else:
                return self.nothing, b""
        reads = Reads(self._empty, self._empty.copy(), self._empty.copy(), [])
        own, sent, event_us = reads.own, reads.sent, transaction.event_us
        parts: list[bytes] = []
        if event_us is not None and transaction.transaction_id is not None:
            event = event_arguments(contract.id_digest(transaction.transaction_id), event_us)
            for slot, history in enumerate(self._histories):
                values = of_challenger if history.challenger else of_production
                entity_id = values[history.id_at]
                if entity_id is None:
                    continue
                stored = own[slot] = [convert(values[at]) for at, convert in history.stored]
                append = history.append
                parts += append.command(entity_id, append.pack(event_us, *stored), event)
                sent.append(slot)
        for slot, daily in enumerate(self._daily, len(self._histories)):
            entity_id = own[slot] = (of_challenger if daily.challenger else of_production)[daily.id_at]
            if entity_id is None:
                continue
            snapshot = reads.snapshots[slot] = snapshots.at(daily.table, event_us)
            if snapshot is not None:
                parts += snapshot.command(entity_id)
                sent.append(slot)
        return reads, b"".join(parts)

    def all_commands(
        self, rows: Sequence[ValidTransaction], snapshots: DailySnapshots
    ) -> tuple[list[Reads], bytes, int]:
        """What to send for several transactions, in their order, and the number of commands; as `commands` of each."""
        if any(row.event_us is None or row.transaction_id is None for row in rows):
            found = [self.commands(row, snapshots) for row in rows]
            return [of for of, _ in found], b"".join([data for _, data in found]), sum(len(of.sent) for of, _ in found)
        columns = {False: list(zip(*[row.values for row in rows], strict=True))}
        if any(of.challenger for of in self._histories) or any(of.challenger for of in self._daily):
            columns[True] = list(zip(*[row.challenger or () for row in rows], strict=True))
        times = [row.event_us or 0 for row in rows]
        events = [event_arguments(contract.id_digest(row.transaction_id or ""), row.event_us or 0) for row in rows]
        nothing = [None] * len(rows)
        own: list[Sequence[Any]] = []
        snapshot_of: list[Sequence[PublishedSnapshot | None]] = []
        commands: list[Sequence[tuple[bytes, ...]]] = []
        for history in self._histories:
            of = columns[history.challenger]
            ids, stored = of[history.id_at], [list(map(convert, of[at])) for at, convert in history.stored]
            records = map(history.append.pack, times, *stored)
            values: list[Any] = list(zip(*stored, strict=True)) if stored else [()] * len(rows)
            if None in ids:
                values = [None if id_ is None else value for id_, value in zip(ids, values, strict=True)]
            own.append(values)
            snapshot_of.append(nothing)
            command = history.append.command
            commands.append([
                () if id_ is None else command(id_, record, event)
                for id_, record, event in zip(ids, records, events, strict=True)
            ])  # fmt: skip
        for daily in self._daily:
            ids = columns[daily.challenger][daily.id_at]
            at = [None if id_ is None else snapshots.at(daily.table, us) for id_, us in zip(ids, times, strict=True)]
            own.append(ids)
            snapshot_of.append(at)
            commands.append([() if of is None else of.command(id_) for of, id_ in zip(at, ids, strict=True)])
        if not commands:
            return [self.nothing] * len(rows), b"", 0
        of_row = list(zip(*commands, strict=True))
        sent, every = [self._every] * len(rows), len(rows) * len(commands)
        if () in chain.from_iterable(of_row):
            sent = [[slot for slot, parts in enumerate(of) if parts] for of in of_row]
            every = sum(map(len, sent))
        reads = map(
            Reads, repeat(self._empty), map(list, zip(*own, strict=True)), map(list, zip(*snapshot_of, strict=True)),
            sent,
        )  # fmt: skip
        return list(reads), b"".join(chain.from_iterable(chain.from_iterable(of_row))), every


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


def fill_all(reads: Sequence[Reads], replies: Sequence[Reply] | None) -> None:
    """`fill` of each of several transactions whose commands were sent together."""
    at = 0
    for of in reads:
        if count := len(of.sent):
            fill(of, None if replies is None else replies[at : at + count])
            at += count


async def read_all(
    plan: ReadPlan, store: Store, snapshots: DailySnapshots, rows: Sequence[ValidTransaction], at_once: int
) -> list[Reads]:
    """The replies to the rows of a batch, sent `at_once` per event-loop iteration.

    Earlier rows of an entity are in the history of later ones.
    """
    found: list[Reads] = []
    for start in range(0, len(rows), at_once):
        reads, data, commands = plan.all_commands(rows[start : start + at_once], snapshots)
        found += reads
        if commands:
            future = store.send(data, commands)
            fill_all(reads, None if future is None else await future)
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
