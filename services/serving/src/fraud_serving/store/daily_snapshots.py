"""The published daily snapshots. A task reads the pointers of the loaded versions' tables every `POLL_S` seconds.

A request uses what was read last, so it needs no round trip of its own to find its snapshot. Replicas see a
publication within `POLL_S` of each other, and each answer is logged with the snapshot that it used.
"""

import asyncio
import logging
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from fraud.core.contract import US_PER_SECOND
from fraud.core.daily import Snapshot, Table
from fraud_serving.metrics import Metrics
from fraud_serving.store.commands import PublishedSnapshot, pointer_command
from fraud_serving.store.connection import NO_REPLY, Reply
from fraud_serving.store.store import Store

_log = logging.getLogger(__name__)
POLL_S: Final = 0.5
_SNAPSHOT_ID: Final = re.compile(r"[0-9A-Za-z-]{1,64}")


class DailySnapshots:
    """The snapshots by table. `tables` returns those of the loaded versions. Used on the event loop."""

    def __init__(self, store: Store, metrics: Metrics, tables: Callable[[], Sequence[Table]]) -> None:
        self._store, self._metrics, self._tables = store, metrics, tables
        self._published: dict[str, tuple[PublishedSnapshot, ...]] = {}
        self._pointers: dict[str, Reply] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._follow())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def at(self, table: Table, at_us: int | None) -> PublishedSnapshot | None:
        """The newest snapshot that holds, or held before, at a time (us); the newest of all without a time.

        As `fraud.core.daily.snapshot_at`.
        """
        published = self._published.get(table.id, ())
        if at_us is None:
            return published[0] if published else None
        for snapshot in published:
            if snapshot.from_us <= at_us:
                return snapshot
        return None

    async def read(self, tables: Sequence[Table]) -> None:
        """Read the pointers of `tables`. What was read before stays if the store does not reply."""
        if not tables:
            return
        keys = [table.pointer_key.encode() for table in tables]
        replies = await self._store.replies(keys, [pointer_command(table) for table in tables])
        for table, reply in zip(tables, replies, strict=True):
            if reply is NO_REPLY or not isinstance(reply, list) or reply == self._pointers.get(table.id):
                continue
            self._pointers[table.id] = reply
            self._published[table.id] = tuple(self._snapshots(table, reply[1::2]))

    def _snapshots(self, table: Table, values: Sequence[bytes]) -> list[PublishedSnapshot]:
        """Newest first, without those that cannot be read."""
        found = []
        for value in values:
            try:
                snapshot = Snapshot.from_json(value)
            except (ValueError, KeyError, TypeError) as error:
                _log.error("daily table %s of %s: snapshot not readable: %r", table.id, table.entity, error)
                self._metrics.store_error("daily")
                continue
            if len(snapshot.default) != len(table.names) or not _SNAPSHOT_ID.fullmatch(snapshot.id):
                _log.error(
                    "daily table %s of %s: snapshot %r: expected %d default values, got %d", table.id, table.entity,
                    snapshot.id, len(table.names), len(snapshot.default),
                )  # fmt: skip
                self._metrics.store_error("daily")
                continue
            found.append(PublishedSnapshot(table, snapshot))
        return sorted(found, key=lambda snapshot: -snapshot.day)

    def forget_others(self, tables: Sequence[Table]) -> None:
        """Drop the snapshots of all other tables."""
        for id_ in self._published.keys() - {table.id for table in tables}:
            del self._published[id_], self._pointers[id_]

    def ages_s(self) -> dict[str, float]:
        """Entity -> seconds since the newest published snapshot began to hold, of the loaded versions' tables."""
        now_us, ages = time.time_ns() // 1_000, dict[str, float]()
        for table in self._tables():
            published = self._published.get(table.id, ())
            if published:
                since_us = now_us - published[0].from_us
                ages[table.entity] = max(since_us / US_PER_SECOND, ages.get(table.entity, 0.0))
        return ages

    async def _follow(self) -> None:
        while True:
            await self.read(self._tables())
            await asyncio.sleep(POLL_S)
