"""What one transaction reads from the online store: the histories and daily rows that any loaded version needs.

Everything leaves in one write and is waited for once. Each command is about one entity, so that entities may lie on
different shards.
"""

import asyncio
from collections.abc import Callable, Sequence
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
) -> list[Reads]:
    """The replies to the rows of a batch, sent `at_once` per event-loop iteration.

    Earlier rows of an entity are in the history of later ones.
    """
    found: list[Reads] = []
    for start in range(0, len(rows), at_once):
        waiting = []
        for row in rows[start : start + at_once]:
            reads, data = plan.commands(row, snapshots)
            found.append(reads)
            if data:
                waiting.append((reads, store.send(data, len(reads.sent))))
        for reads, future in waiting:
            fill(reads, None if future is None else await future)
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
