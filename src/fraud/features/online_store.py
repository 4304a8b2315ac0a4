"""Client of the online store for jobs: entities' event histories (`fraud.core.history`) and daily tables
(`fraud.core.daily`) in a Redis-protocol server.

Rows of a daily snapshot are written first and the pointer last, so that a snapshot is visible as a whole or not at all,
and a killed run can be run again. A snapshot that the pointer no longer names stays readable for SUPERSEDED_S, because
serving reads the pointer every half second.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Final, NamedTuple, TypeVar, cast

import numpy as np
import redis
from numpy.typing import NDArray

from fraud.core import history
from fraud.core.daily import Snapshot, Table, snapshots
from fraud.core.history import Layout
from fraud.errors import BadConfigError
from fraud.features.daily_values import snapshot_id, snapshot_rows
from fraud.lake import catalog
from fraud.lake.dataset import DatasetVersion
from fraud.streams.redis_client import EXPECTED, Script, open_client
from fraud.streams.redis_errors import store_errors

WRITTEN: Final = "materialize:written"
"""Redis set of what jobs have begun to write: `layout:<id>`, `table:<id>` and `snapshot:<table>:<snapshot>`. A member
is added before its first key and removed after its last one, so that nothing is left behind."""
ENTITIES_PER_ROUND_TRIP: Final = 200
_KEYS_PER_STEP: Final = 1_000
KEPT_SNAPSHOTS: Final = 3
SUPERSEDED_S: Final = 3_600
_STORE: Final = "the online store"
_EPOCH: Final = date(1970, 1, 1)
T = TypeVar("T")


class Batch(NamedTuple):
    """Events of one entity, ordered by ingestion time."""

    entity_id: str
    records: NDArray[np.void]
    """Layout.record[n]."""
    ids: NDArray[np.uint64]
    """Hashes of the transaction ids, [n]."""


class Loaded(NamedTuple):
    """Counts of a load. Their sum is the number of events."""

    appended: int
    repeated: int
    """In the store before: from POST /predict, the event stream or an earlier load."""
    too_late: int
    """Older than the entity's newest event by more than `Layout.keep_us`, so in no window."""
    full: int
    """Not newer than the newest event of a full history (2 * max_events), so possibly a repetition."""


class Event(NamedTuple):
    """An event of one entity, for one layout."""

    layout: Layout
    entity_id: str
    stored: tuple[int, ...]
    """The stored integers in the order of the layout's columns."""


class OnlineHistory:
    """Reads and appends with the same scripts as serving. Raises UnavailableError when the store does not answer."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self._append, self._load = Script(history.APPEND_SCRIPT), Script(history.LOAD_SCRIPT)

    def append(
        self, layout: Layout, entity_id: str, transaction_id: str, event_us: int, stored: Sequence[int]
    ) -> history.PriorHistory:
        """Append an event, once per transaction_id, and return the history before it."""
        return self.append_all(transaction_id, event_us, [Event(layout, entity_id, tuple(stored))])[0]

    def append_all(self, transaction_id: str, event_us: int, events: Sequence[Event]) -> list[history.PriorHistory]:
        """Append a transaction to several histories in one round trip. A retry completes an append that was cut off."""
        calls = [
            (_keys(of.layout, of.entity_id), of.layout.append_arguments(transaction_id, event_us, of.stored))
            for of in events
        ]
        with store_errors(_STORE):
            replies: list[tuple[int, int, int, bytes]] = self._append.run(self.client, calls)
        return [event.layout.prior_history(reply) for event, reply in zip(events, replies, strict=True)]

    def load(self, layout: Layout, batches: Iterable[Batch]) -> Loaded:
        """Append the events of many entities, each entity's in one atomic step. Idempotent."""
        total = np.zeros(4, dtype=np.int64)
        with store_errors(_STORE):
            for some in split(batches, ENTITIES_PER_ROUND_TRIP):
                calls = [(_keys(layout, of.entity_id), layout.load_arguments(of.records, of.ids)) for of in some]
                total += np.array(self._load.run(self.client, calls), dtype=np.int64).sum(axis=0)
        return Loaded(*total.tolist())

    def read(self, layout: Layout, entity_id: str) -> tuple[int, int, NDArray[np.void]]:
        """The stored history of an entity: (sequence of the first record, newest event time ever in us, record[n])."""
        with store_errors(_STORE):
            value = self.client.get(layout.history_key(entity_id))
        return layout.stored(cast("bytes | None", value) or b"")

    def orders(self, layout: Layout, entity_ids: Iterable[str]) -> Iterator[tuple[str, history.Order]]:
        """The stored order of events of each entity, read atomically. An unknown entity has no events."""
        for some in split(entity_ids, ENTITIES_PER_ROUND_TRIP):
            with store_errors(_STORE):
                pipeline = self.client.pipeline(transaction=False)
                for entity_id in some:
                    # By name, as in `Script`: the keys of an entity are in one slot.
                    pipeline.execute_command("MGET", *_keys(layout, entity_id))  # type: ignore[no-untyped-call]
                replies = pipeline.execute()
            for entity_id, (value, entries) in zip(some, replies, strict=True):
                base, newest_us, records = layout.stored(value or b"")
                ids = np.frombuffer(entries or b"", dtype=history.ENTRY)["transaction"]
                yield entity_id, history.Order(base, newest_us, records[history.EVENT_US], ids)

    def materialized(self, key: str) -> dict[str, str]:
        """Days loaded from the lake, with the content hash of the partition: the hash at `Layout.materialized_key`."""
        with store_errors(_STORE):
            found = cast("dict[bytes, bytes]", self.client.hgetall(key))
        return {day.decode(): digest.decode() for day, digest in found.items()}

    def set_materialized(self, key: str, days: Mapping[str, str], first_kept: str) -> None:
        """Record loaded days, and remove the records of days before `first_kept`."""
        old = [day for day in self.materialized(key) if day < first_kept]
        with store_errors(_STORE):
            self.client.hset(key, mapping=dict(days))
            if old:
                self.client.hdel(key, *old)

    def written(self) -> set[str]:
        """The members of WRITTEN."""
        with store_errors(_STORE):
            return {member.decode() for member in cast("set[bytes]", self.client.smembers(WRITTEN))}

    def mark_written(self, *members: str) -> None:
        """Add members to WRITTEN, before the first key of theirs."""
        with store_errors(_STORE):
            self.client.sadd(WRITTEN, *members)

    def remove(self, member: str, prefixes: Sequence[str], expire_s: int = 0) -> int:
        """Remove the keys that begin with a prefix, in small steps, then the member of WRITTEN. Returns their number.

        With `expire_s` the keys are removed by the store that many seconds later, for readers of an older pointer.
        """
        count = 0
        with store_errors(_STORE):
            for prefix in prefixes:
                found = self.client.scan_iter(match=f"{prefix}*", count=_KEYS_PER_STEP)
                for keys in split(cast("Iterator[bytes]", found), _KEYS_PER_STEP):
                    pipeline = self.client.pipeline(transaction=False)
                    for key in keys:
                        if expire_s:
                            pipeline.expire(key, expire_s)
                        else:
                            pipeline.unlink(key)
                    pipeline.execute()
                    count += len(keys)
            self.client.srem(WRITTEN, member)
        return count


@contextmanager
def connect(url: str) -> Iterator[OnlineHistory]:
    """Connect to the store. Raises BadConfigError for an invalid URL, UnavailableError when it does not answer."""
    try:
        with store_errors(_STORE):
            client = open_client(url, reply_s=60)
    except ValueError as error:
        raise BadConfigError("FRAUD_REDIS_URL is wrong", expected=EXPECTED, got=str(error)) from error
    with client:
        yield OnlineHistory(client)


def _keys(layout: Layout, entity_id: str) -> tuple[str, str]:
    return layout.history_key(entity_id), layout.ids_key(entity_id)


def split(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items; the last one may be shorter."""
    some: list[T] = []
    for item in items:
        some.append(item)
        if len(some) == size:
            yield some
            some = []
    if some:
        yield some


class Published(NamedTuple):
    """Counts of a publication."""

    snapshots: int
    rows: int
    newest_day: str
    """The newest published day; "" without a snapshot."""


def publish_daily(store: OnlineHistory, lake_uri: str, table: Table, now: datetime | None = None) -> Published:
    """Publish the newest KEPT_SNAPSHOTS snapshots that changed, and take older ones back.

    A snapshot whose day has not begun is not published: its inputs are not complete. Raises UnavailableError.
    """
    dataset, today = catalog.daily(table).at(lake_uri).open(), str((now or datetime.now(UTC)).date())
    days = [day for day in dataset.partitions() if day <= today][-KEPT_SNAPSHOTS:]
    before = _pointer(store, table)
    chosen: list[Snapshot] = []
    count = rows = 0
    for day in days:
        snapshot, entries = _snapshot(dataset, table, day)
        chosen.append(snapshot)
        if before.get(snapshot.day) != snapshot.id:
            store.mark_written(f"table:{table.id}", f"snapshot:{table.id}:{snapshot.id}")
            rows += _write_rows(store, entries)
            count += 1
    if chosen:
        _switch(store, table, chosen, before)
    _retire_superseded(store, table, {snapshot.id for snapshot in chosen})
    return Published(count, rows, days[-1] if days else "")


def remove_daily(store: OnlineHistory, table_id: str) -> int:
    """Remove a table: the pointer, then the rows. Returns the number of rows."""
    with store_errors(_STORE):
        store.client.delete(f"daily:{table_id}")
    count = 0
    for member in sorted(store.written()):
        if member.startswith(f"snapshot:{table_id}:"):
            count += store.remove(member, [f"d:{table_id}:{member.split(':')[2]}:"], SUPERSEDED_S)
    store.remove(f"table:{table_id}", [])
    return count


def _pointer(store: OnlineHistory, table: Table) -> dict[int, str]:
    """Published day -> id of the snapshot. A pointer that cannot be read is published again."""
    with store_errors(_STORE):
        found = cast("dict[bytes, bytes]", store.client.hgetall(table.pointer_key))
    try:
        return {snapshot.day: snapshot.id for snapshot in snapshots(found)}
    except (ValueError, KeyError, TypeError):
        return {}


def _snapshot(dataset: DatasetVersion, table: Table, day: str) -> tuple[Snapshot, Iterator[tuple[str, bytes]]]:
    """The snapshot of a day, and its rows: the key and value of each entity."""
    partition = dataset.contents.partitions[day]
    ids, values = snapshot_rows(dataset, table, partition)
    default = [None if np.isnan(value) else float(value) for value in values[:, -1]]
    number = (date.fromisoformat(day) - _EPOCH) // timedelta(days=1)
    snapshot = Snapshot(number, snapshot_id(partition), default)
    packed, size = np.ascontiguousarray(values.T).astype("<f8").tobytes(), 8 * len(table.names)
    rows = (
        (table.row_key(snapshot.id, entity), packed[at * size : (at + 1) * size])
        for at, entity in enumerate(ids.to_pylist())
    )
    return snapshot, rows


def _write_rows(store: OnlineHistory, rows: Iterator[tuple[str, bytes]]) -> int:
    count = 0
    with store_errors(_STORE):
        for some in split(rows, _KEYS_PER_STEP):
            pipeline = store.client.pipeline(transaction=False)
            for key, value in some:
                pipeline.set(key, value)  # also ends the expiry of a snapshot that was superseded and is back
            pipeline.execute()
            count += len(some)
    return count


def _switch(store: OnlineHistory, table: Table, chosen: list[Snapshot], before: dict[int, str]) -> None:
    """Name exactly these snapshots in the pointer, in one atomic step."""
    days = {snapshot.day: snapshot.id for snapshot in chosen}
    if days == before:
        return
    with store_errors(_STORE):
        pipeline = store.client.pipeline(transaction=True)
        pipeline.delete(table.pointer_key)
        pipeline.hset(table.pointer_key, mapping={str(s.day): s.to_json() for s in chosen})
        pipeline.execute()


def _retire_superseded(store: OnlineHistory, table: Table, current: set[str]) -> None:
    for member in sorted(store.written()):
        kind, _, name = member.partition(f":{table.id}:")
        if kind == "snapshot" and name and name not in current:
            store.remove(member, [f"d:{table.id}:{name}:"], SUPERSEDED_S)
