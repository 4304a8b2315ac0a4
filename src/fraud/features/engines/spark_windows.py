"""The same windows on a cluster: the compiled kernel inside grouped Arrow batches, one group per shard of users.

No SQL window: rows are shuffled by user, and each group goes through the kernel of the one-machine build. A row is
known by its *position*, an int64 that orders rows as `arrow_windows.window_values` wants them; what leaves a group
are positions and values, so the other columns of a transaction are never shuffled.

What Spark shuffles is one row per day and shard, and one per shard and task, with the rows themselves packed in it: the
JVM takes about as long to copy and sort a row of six columns as everything else here takes for it.
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
"""`packed` rows of what the kernel needs of transactions, and whether their own values are asked for."""
VALUES: Final = "task long, values binary"
"""`packed` rows of position and WINDOW_NAMES, null as NaN, for one task that writes them."""


def packed(batch: pa.RecordBatch) -> bytes:
    """A record batch as one value of a column."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    packed_: bytes = sink.getvalue().to_pybytes()
    return packed_


def unpacked(column: pa.ChunkedArray) -> pa.Table:
    """The rows of all values of a column of `packed`."""
    return pa.concat_tables(pa.ipc.open_stream(value.as_buffer()).read_all() for value in column)


def split(batch: pa.RecordBatch, group: NDArray[np.integer[Any]]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Each number in `group`, int[n], and the batch's rows that have it, in their order."""
    order = np.argsort(group, kind="stable")
    grouped = batch.take(pa.array(order))
    numbers, starts = np.unique(group[order], return_index=True)
    ends = np.append(starts, len(group))[1:]
    for number, start, end in zip(numbers, starts, ends, strict=True):
        yield int(number), grouped.slice(start, end - start)


def events(table: pa.Table, positions: NDArray[np.int64], shards: int, *, expected: bool) -> pa.RecordBatch:
    """`EVENTS` of a day's transactions (`arrow_windows.COLUMNS`, no nulls). A user is in one shard.

    Raises BadInputError when the rows are not in order.
    """
    event_us, learned_us = microseconds(table["event_timestamp"]), microseconds(table["created_timestamp"])
    check_order(event_us, learned_us)
    users = table["user_id"].combine_chunks().dictionary_encode()
    shard_of = np.array([crc32(user.encode()) % shards for user in users.dictionary.to_pylist()], dtype=np.int32)
    batch = pa.record_batch(
        {
            "user_id": users.cast(pa.string()),
            "position": positions,
            "event_us": event_us,
            "learned_us": learned_us,
            "units": amounts_units(table["amount"].to_numpy()),
            "merchant": merchant_hashes(table["merchant_id"]).view(np.int64),
            "wanted": pa.repeat(pa.scalar(expected), table.num_rows),
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
    """`VALUES` of the rows of `EVENTS` that are wanted, in any order; `task_of` says for a position who writes it.

    `rows` must hold everything that was known of its users and can still lie in a window. A task holds one shard, some
    60 bytes a row.
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
    """Position and WINDOW_NAMES of the rows that are wanted, by user, then position."""
    order = np.argsort(shard["position"].to_numpy(), kind="stable")
    users = shard["user_id"].combine_chunks().dictionary_encode()
    starts, grouped = kernel.group(users.indices.to_numpy()[order], len(users.dictionary))
    order = order[grouped]
    merchants = shard["merchant"].combine_chunks().dictionary_encode()
    event_us, learned_us, units, position, expected = (
        shard[name].to_numpy()[order] for name in ("event_us", "learned_us", "units", "position", "wanted")
    )
    merchant = merchants.indices.to_numpy()[order]
    values = kernel.compute(starts, event_us, learned_us, units, merchant, len(merchants.dictionary))
    columns = {name: column[expected] for name, column in zip(WINDOW_NAMES, values, strict=True)}
    return pa.record_batch({"position": position[expected], **columns})
