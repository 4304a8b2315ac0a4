"""Window features on Spark: the kernel in grouped Arrow batches, one group per shard of users.

Rows are shuffled by user, and each group is processed by the kernel of the one-machine build. A row is identified by
its
*position*, an int64 that sorts rows as `arrow_windows.window_values` requires. A group returns positions and values, so
the other columns of transactions are not shuffled.

Spark shuffles one row per day and shard, and one per shard and task; the transactions are packed into them. With one
Spark row per transaction, the JVM would need as much time for copying and sorting as all other steps together.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fraud.core.contract import amounts_units
from fraud.core.features import WINDOW_NAMES
from fraud.features.engines import kernel
from fraud.features.engines.arrow_windows import check_order, merchant_hashes, microseconds

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

EVENTS: Final = "shard int, events binary"
"""`packed` columns that the kernel needs, and whether the row's values are requested."""
VALUES: Final = "task long, values binary"
"""`packed` positions and WINDOW_NAMES, null as NaN, for the task that writes them."""


def packed(batch: pa.RecordBatch) -> bytes:
    """A record batch as one value of a column."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    packed_: bytes = sink.getvalue().to_pybytes()
    return packed_


def unpacked(column: pa.ChunkedArray) -> pa.Table:
    """The rows of all values of a column that `packed` made."""
    return pa.concat_tables(pa.ipc.open_stream(value.as_buffer()).read_all() for value in column)


def split(batch: pa.RecordBatch, group: NDArray[np.integer[Any]]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The numbers of `group`, int[n], each with its rows of the batch in their order."""
    order = np.argsort(group, kind="stable")
    grouped = batch.take(pa.array(order))
    numbers, starts = np.unique(group[order], return_index=True)
    ends = np.append(starts, len(group))[1:]
    for number, start, end in zip(numbers, starts, ends, strict=True):
        yield int(number), grouped.slice(start, end - start)


def events(table: pa.Table, positions: NDArray[np.int64], shards: int, *, to_build: bool) -> pa.RecordBatch:
    """`EVENTS` of a day's transactions (`arrow_windows.COLUMNS`, no nulls). All rows of a user are in one shard.

    Raises BadInputError when the rows are not sorted.
    """
    event_us, ingested_us = microseconds(table["event_timestamp"]), microseconds(table["created_timestamp"])
    check_order(event_us, ingested_us)
    users = table["user_id"].combine_chunks().dictionary_encode()
    shard_of = np.array([crc32(user.encode()) % shards for user in users.dictionary.to_pylist()], dtype=np.int32)
    batch = pa.record_batch(
        {
            "user_id": users.cast(pa.string()),
            "position": positions,
            "event_us": event_us,
            "ingested_us": ingested_us,
            "units": amounts_units(table["amount"].to_numpy()),
            "merchant": merchant_hashes(table["merchant_id"]).view(np.int64),
            "to_build": pa.repeat(pa.scalar(to_build), table.num_rows),
        }
    )
    rows = [(shard, packed(of_shard)) for shard, of_shard in split(batch, shard_of[users.indices.to_numpy()])]
    return pa.record_batch(
        {
            "shard": pa.array([shard for shard, _ in rows], pa.int32()),
            "events": pa.array([data for _, data in rows], pa.binary()),
        }
    )


def window_values(rows: "DataFrame", task_of: Callable[[NDArray[np.int64]], NDArray[np.int64]]) -> "DataFrame":
    """`VALUES` of the requested rows of `EVENTS`, in any order. `task_of` returns the task that writes a position.

    `rows` must contain all rows of its users that can be in a window. A task has one shard in memory, about 60 bytes
    per row.
    """

    def values(shard: pa.Table) -> pa.Table:
        found = values_of_shard(unpacked(shard["events"]))
        rows = [(task, packed(part)) for task, part in split(found, task_of(found["position"].to_numpy()))]
        return pa.table(
            {
                "task": pa.array([task for task, _ in rows], pa.int64()),
                "values": pa.array([data for _, data in rows], pa.binary()),
            }
        )

    return rows.groupBy("shard").applyInArrow(values, VALUES)


def values_of_shard(shard: pa.Table) -> pa.RecordBatch:
    """Position and WINDOW_NAMES of the requested rows, ordered by user, then position."""
    order = np.argsort(shard["position"].to_numpy(), kind="stable")
    users = shard["user_id"].combine_chunks().dictionary_encode()
    starts, grouped = kernel.group(users.indices.to_numpy()[order], len(users.dictionary))
    order = order[grouped]
    merchants = shard["merchant"].combine_chunks().dictionary_encode()
    event_us, ingested_us, units, position, requested = (
        shard[name].to_numpy()[order] for name in ("event_us", "ingested_us", "units", "position", "to_build")
    )
    merchant = merchants.indices.to_numpy()[order]
    values = kernel.compute(starts, event_us, ingested_us, units, merchant, len(merchants.dictionary))
    columns = {name: column[requested] for name, column in zip(WINDOW_NAMES, values, strict=True)}
    return pa.record_batch({"position": position[requested], **columns})
