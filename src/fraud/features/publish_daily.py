"""Publish the newest snapshots of a daily table to the online store (`fraud.core.daily`).

Rows are written first and the pointer last, so that a snapshot is visible as a whole or not at all, and a killed run
can be run again. A snapshot that the pointer no longer names stays readable for SUPERSEDED_S, because serving reads
the pointer every half second.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Final, NamedTuple, cast

import numpy as np

from fraud.core.daily import Snapshot, Table, snapshots
from fraud.features.daily_values import snapshot_id, snapshot_rows
from fraud.features.online_store import OnlineHistory, split, store_errors
from fraud.lake import catalog
from fraud.lake.dataset import Dataset

KEPT_SNAPSHOTS: Final = 3
SUPERSEDED_S: Final = 3_600
_ROWS_PER_ROUND_TRIP: Final = 1_000
_STORE: Final = "the online store"
_EPOCH: Final = date(1970, 1, 1)


class Published(NamedTuple):
    """Counts of a publication."""

    snapshots: int
    rows: int
    newest_day: str
    """The newest published day; "" without a snapshot."""


def publish(store: OnlineHistory, lake_uri: str, table: Table, now: datetime | None = None) -> Published:
    """Publish the newest KEPT_SNAPSHOTS snapshots that changed, and take older ones back.

    A snapshot whose day has not begun is not published: its inputs are not complete. Raises UnavailableError.
    """
    dataset, today = catalog.daily(table).at(lake_uri), str((now or datetime.now(UTC)).date())
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


def remove_table(store: OnlineHistory, table_id: str) -> int:
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


def _snapshot(dataset: Dataset, table: Table, day: str) -> tuple[Snapshot, Iterator[tuple[str, bytes]]]:
    """The snapshot of a day, and its rows: the key and value of each entity."""
    manifest = dataset.manifest(day)
    if manifest is None:
        raise FileNotFoundError(dataset.partition_uri(day))
    ids, values = snapshot_rows(dataset, table, manifest)
    default = [None if np.isnan(value) else float(value) for value in values[:, -1]]
    number = (date.fromisoformat(day) - _EPOCH) // timedelta(days=1)
    snapshot = Snapshot(number, snapshot_id(manifest), default)
    packed, size = np.ascontiguousarray(values.T).astype("<f8").tobytes(), 8 * len(table.names)
    rows = (
        (table.row_key(snapshot.id, entity), packed[at * size : (at + 1) * size])
        for at, entity in enumerate(ids.to_pylist())
    )
    return snapshot, rows


def _write_rows(store: OnlineHistory, rows: Iterator[tuple[str, bytes]]) -> int:
    count = 0
    with store_errors(_STORE):
        for some in split(rows, _ROWS_PER_ROUND_TRIP):
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
