"""Daily features of transactions, from the snapshots that hold for them (`fraud.core.daily`)."""

from collections.abc import Iterator
from datetime import date, timedelta
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fraud.core.contract import US_PER_DAY
from fraud.core.daily import Table
from fraud.features.engines.daily_parts import read_columns
from fraud.lake import catalog
from fraud.lake.dataset import DatasetVersion
from fraud.lake.records import Partition

_EPOCH: Final = date(1970, 1, 1)
ID_DIGITS: Final = 12


def daily_values(
    dataset: DatasetVersion, table: Table, ids: pa.Array | pa.ChunkedArray, event_us: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Values of the features of a table (`dataset`: its snapshots), float64[len(table.names), n], NaN for null.

    `ids` are the entities (null: none) and `event_us` the times (us) of n transactions, in any order. An entity without
    a row has the values of the default row. A transaction without an entity, or without a snapshot of its day, has the
    empty values.
    """
    values = np.empty((len(table.names), len(event_us)), np.float64)
    values[:] = np.array([[np.nan if v is None else v] for v in table.empty]).reshape(-1, 1)
    texts = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
    for day, rows in _by_day(table, event_us):
        partition = dataset.partition(day)
        if partition is None:
            continue
        known, found = snapshot_rows(dataset, table, partition)
        own = texts if len(rows) == len(texts) else texts.take(pa.array(rows))
        place = pc.fill_null(pc.index_in(own, value_set=known), len(known)).to_numpy()
        given = pc.is_valid(own).to_numpy(zero_copy_only=False)
        values[:, rows[given]] = found[:, place[given]]
    return values


def snapshot_ids(lake_uri: str, table: Table, event_us: NDArray[np.int64]) -> pa.Array:
    """The id of the snapshot that holds at each time (us), string[n]; null without one."""
    ids = np.full(len(event_us), None, dtype=object)
    dataset = catalog.daily(table).at(lake_uri).open()
    for day, rows in _by_day(table, event_us):
        if (partition := dataset.partition(day)) is not None:
            ids[rows] = snapshot_id(partition)
    return pa.array(ids, pa.string())


def snapshot_id(partition: Partition) -> str:
    """The id of a published snapshot: its day and its content."""
    return f"{partition.name}-{partition.content_sha256[:ID_DIGITS]}"


def snapshot_rows(dataset: DatasetVersion, table: Table, partition: Partition) -> tuple[pa.Array, NDArray[np.float64]]:
    """Ids of a snapshot, sorted, and its values, float64[len(table.names), ids + 1]; the last column is the default."""
    stored = read_columns(dataset.object_uris(partition.name), [table.id_column, *table.names])
    columns = [stored[name].cast(pa.float64()).to_numpy() for name in table.names]
    return stored[table.id_column].combine_chunks().slice(0, stored.num_rows - 1), np.stack(columns)


def _by_day(table: Table, event_us: NDArray[np.int64]) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Each day whose snapshot holds at some of the times, with the positions of these times."""
    days = (event_us - table.available_us) // US_PER_DAY
    order = np.argsort(days, kind="stable")
    unique, starts = np.unique(days[order], return_index=True)
    for day, rows in zip(unique.tolist(), np.split(order, starts[1:]), strict=True) if len(unique) else ():
        yield (_EPOCH + timedelta(day)).isoformat(), rows
