"""`fraud build-features` on Spark: read in tasks, group by entity, write one data object per task.

Workers access the lake like every job, with fsspec and pyarrow, so an object store needs no JVM libraries. Spark
shuffles the columns that the kernel needs, then positions and values. Objects are written by the code of the
one-machine build, with the same bytes. A task may run twice: object names depend on the content only, and only the
driver publishes.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import pyarrow as pa
import structlog
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from fraud.features.days import Part, Piece, Target, pieces, put_piece, read_part
from fraud.features.engines import arrow_windows, spark_windows
from fraud.features.engines.arrow_records import microseconds
from fraud.features.engines.arrow_windows import ORDER, EntityWindows, Floats, check_order
from fraud.lake.objects import ROWS_PER_OBJECT, DataObject
from fraud.lake.records import OBJECT_JSON
from fraud.lake.spark import collected

ROWS_PER_SHARD: Final = 500_000
"""Approximate number of rows per task of the kernel. All rows of an entity's id are in the same task."""
_READERS: Final = 64
"""Tasks that read, unless there are fewer parts. Workers may join after the job has started."""
_PLACE_BITS: Final = 40
"""A position consists of the number of a part and the index of the row in its day."""
_PLACE: Final = (1 << _PLACE_BITS) - 1
_PIECE_BITS: Final = 20
_OBJECT: Final = "part long, piece long, object string"


def build_on_spark(
    session: SparkSession, target: Target, parts: list[Part], log: structlog.stdlib.BoundLogger
) -> Iterator[tuple[str, list[DataObject]]]:
    """Does the same as `days.build_here` and raises the same errors."""
    cores = session.sparkContext.defaultParallelism
    entities = arrow_windows.entities(target.declaration)
    shards = max(2 * cores, -(-sum(part.rows for part in parts) // ROWS_PER_SHARD))
    session.conf.set("spark.sql.shuffle.partitions", str(shards * max(1, len(entities))))
    to_build = {number: pieces(part) for number, part in enumerate(parts) if part.to_build}
    numbers = session.createDataFrame([(number,) for number in range(len(parts))], "part int")
    rows = numbers.repartition(min(len(parts), max(_READERS, 4 * cores)), "part").mapInArrow(
        _reader(target, entities, parts, shards), spark_windows.EVENTS
    )
    values = spark_windows.window_values(rows, entities, shards, _task_of)
    written = collected(values.groupBy("task").applyInArrow(_writer(target, entities, to_build), _OBJECT), log)
    made = {(row["part"], row["piece"]): OBJECT_JSON.validate_json(row["object"]) for row in written}
    for number, of_day in to_build.items():
        for index, piece in enumerate(of_day):
            if (number, index) not in made:  # no task has seen it: a day without rows, or no window features
                if entities and piece.first < piece.end:
                    raise RuntimeError(f"no values for rows {piece.first} to {piece.end} of {piece.day}")
                made[number, index] = put_piece(target, piece, _no_values(entities))
        yield parts[number].day, [made[number, index] for index in range(len(of_day))]


def _no_values(entities: list[EntityWindows]) -> dict[str, Floats]:
    return {name: np.empty(0) for entity in entities for name in entity.names}


def _task_of(position: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number of the part and of the piece in one int64; see `_part_and_piece`."""
    return position >> _PLACE_BITS << _PIECE_BITS | (position & _PLACE) // ROWS_PER_OBJECT


def _part_and_piece(task: int) -> tuple[int, int]:
    return task >> _PIECE_BITS, task & ((1 << _PIECE_BITS) - 1)


def _reader(
    target: Target, entities: list[EntityWindows], parts: list[Part], shards: int
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """A function from batches of part numbers to `EVENTS` of their rows. It has one data object in memory."""

    def read_one(number: int) -> Iterator[pa.RecordBatch]:
        part, first = parts[number], 0
        before = np.empty((2, 0), dtype=np.int64)
        for stored in part.objects:
            table, places = read_part(part._replace(objects=(stored,)), target.declaration)
            if table.num_rows:
                ends = np.array([microseconds(table[name].take([0, table.num_rows - 1])) for name in ORDER])
                check_order(*np.concatenate([before, ends], axis=1))
                before = ends[:, 1:]
            positions = number << _PLACE_BITS | (first + places)
            yield from spark_windows.events(table, entities, positions, shards, to_build=part.to_build)
            first += stored.rows

    def read(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for number in batch["part"].to_pylist():
                yield from read_one(number)

    return read


def _writer(
    target: Target, entities: list[EntityWindows], to_build: dict[int, list[Piece]]
) -> Callable[[tuple[Any, ...], pa.Table], pa.Table]:
    """A function that writes the data object of a piece from its `VALUES` and returns the object."""

    def write(key: tuple[Any, ...], table: pa.Table) -> pa.Table:
        part, index = _part_and_piece(key[0].as_py())
        piece = to_build[part][index]
        of_entity = table["entity"].to_numpy()
        values: dict[str, Floats] = {}
        for number, entity in enumerate(entities):
            rows = spark_windows.unpacked(table["values"].filter(pa.array(of_entity == number)))
            place = (rows["position"].to_numpy() & _PLACE) - piece.first
            order = np.argsort(place)
            if not np.array_equal(place[order], np.arange(piece.end - piece.first)):
                raise RuntimeError(f"{rows.num_rows} values for rows {piece.first} to {piece.end} of {piece.day}")
            values |= {name: rows[name].to_numpy()[order] for name in entity.names}
        made = put_piece(target, piece, values)
        return pa.table({"part": [part], "piece": [index], "object": [OBJECT_JSON.dump_json(made).decode()]})

    return write
