"""Window features on Spark: the kernel in grouped Arrow batches, one group per shard of an entity's ids.

Rows are shuffled once, by entity and shard of its ids, and each group is processed by the kernel of the one-machine
build. A row is identified by its *position*, an int64 that sorts rows as `arrow_windows.window_values` requires. A
group returns positions and values, so the other columns of transactions are not shuffled. With several entities a row
is in one group of each, with the columns that the entity's features need.

Spark shuffles one row per day and group, and one per group and task; the transactions are packed into them. With one
Spark row per transaction, the JVM would need as much time for copying and sorting as all other steps together.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fraud.features.engines.arrow_records import microseconds, stored_values, text_codes
from fraud.features.engines.arrow_windows import (
    EntityWindows,
    check_order,
    entity_values,
)  # fmt: skip

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

EVENTS: Final = "group int, events binary"
"""Number of an entity and shard, and `packed` rows: id, position, times, stored columns, and whether the row's values
are requested. The number is that of the entity * shards + that of the shard."""
VALUES: Final = "task long, entity int, values binary"
"""`packed` positions and values of an entity's features, null as NaN, for the task that writes them."""


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


def events(
    table: pa.Table, entities: list[EntityWindows], positions: NDArray[np.int64], shards: int, *, to_build: bool
) -> Iterator[pa.RecordBatch]:
    """`EVENTS` of a day's transactions (`arrow_windows.columns`), a batch per entity. All rows of an id are in one
    shard; rows without one are spread over the shards.

    Raises BadInputError when the rows are not sorted.
    """
    event_us, ingested_us = microseconds(table["event_timestamp"]), microseconds(table["created_timestamp"])
    check_order(event_us, ingested_us)
    for number, entity in enumerate(entities):
        codes, texts = text_codes(table[entity.id_column])
        shard_of_id = np.array([crc32(str(text).encode()) % shards for text in texts] or [0], dtype=np.int64)
        shard = np.where(codes < 0, positions % shards, shard_of_id[codes])
        stored = zip(entity.columns, entity.declared, strict=True)
        batch = pa.record_batch(
            {
                "id": pa.array(texts, pa.string()).take(pa.array(codes, mask=codes < 0)),
                "position": positions,
                "event_us": event_us,
                "ingested_us": ingested_us,
                "to_build": pa.repeat(pa.scalar(to_build), table.num_rows),
                **{f"column {c.name}": stored_values(c, table[c.name], declared) for c, declared in stored},
            }
        )
        rows = [(of_shard, packed(part)) for of_shard, part in split(batch, shard)]
        yield pa.record_batch(
            {
                "group": pa.array([number * shards + of_shard for of_shard, _ in rows], pa.int32()),
                "events": pa.array([data for _, data in rows], pa.binary()),
            }
        )


def window_values(
    rows: "DataFrame", entities: list[EntityWindows], shards: int,
    task_of: Callable[[NDArray[np.int64]], NDArray[np.int64]],
) -> "DataFrame":  # fmt: skip
    """`VALUES` of the requested rows of `EVENTS`, in any order. `task_of` returns the task that writes a position.

    `rows` must contain all rows of an entity that can be in a window. A task has one group in memory.
    """

    def values(key: tuple[Any, ...], group: pa.Table) -> pa.Table:
        number = key[0].as_py() // shards
        found = values_of_group(unpacked(group["events"]), entities[number])
        rows = [(task, packed(part)) for task, part in split(found, task_of(found["position"].to_numpy()))]
        return pa.table(
            {
                "task": pa.array([task for task, _ in rows], pa.int64()),
                "entity": pa.array([number] * len(rows), pa.int32()),
                "values": pa.array([data for _, data in rows], pa.binary()),
            }
        )

    return rows.groupBy("group").applyInArrow(values, VALUES)


def values_of_group(group: pa.Table, entity: EntityWindows) -> pa.RecordBatch:
    """Position and values of the requested rows, in order of position."""
    order = np.argsort(group["position"].to_numpy(), kind="stable")
    codes, _ = text_codes(group["id"])
    position, event_us, ingested_us, requested, *stored = (
        group[name].to_numpy()[order]
        for name in ("position", "event_us", "ingested_us", "to_build", *(f"column {c.name}" for c in entity.columns))
    )
    values = entity_values(entity, codes[order], event_us, ingested_us, stored, requested)
    columns = {name: np.ascontiguousarray(column) for name, column in zip(entity.names, values, strict=True)}
    return pa.record_batch({"position": position[requested], **columns})
