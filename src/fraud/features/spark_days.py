"""`fraud build-features` on Spark: read in tasks, group by user, write one data object per task.

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

from fraud.core.features import WINDOW_NAMES
from fraud.features.days import Part, Piece, pieces, put_piece, read_part
from fraud.features.engines import spark_windows
from fraud.lake.dataset import ROWS_PER_OBJECT, DataObject, Dataset
from fraud.lake.spark import collected

ROWS_PER_SHARD: Final = 500_000
"""Approximate number of rows per task of the kernel. All rows of a user are in the same task."""
_PLACE_BITS: Final = 40
"""A position consists of the number of a part and the index of the row in its day."""
_PLACE: Final = (1 << _PLACE_BITS) - 1
_PIECE_BITS: Final = 20
_OBJECT: Final = "part long, piece long, name string, rows long, bytes long, sha256 string"


def build_on_spark(
    session: SparkSession, features: Dataset, parts: list[Part], log: structlog.stdlib.BoundLogger
) -> Iterator[tuple[str, list[DataObject]]]:
    """Does the same as `days.build_here` and raises the same errors."""
    cores = session.sparkContext.defaultParallelism
    shards = max(2 * cores, -(-sum(part.rows for part in parts) // ROWS_PER_SHARD))
    session.conf.set("spark.sql.shuffle.partitions", str(shards))
    to_build = {number: pieces(part) for number, part in enumerate(parts) if part.to_build}
    numbers = session.createDataFrame([(number,) for number in range(len(parts))], "part int")
    rows = numbers.repartition(min(len(parts), 4 * cores), "part").mapInArrow(
        _reader(parts, shards), spark_windows.EVENTS
    )
    values = spark_windows.window_values(rows, _task_of)
    written = collected(values.groupBy("task").applyInArrow(_writer(features, to_build), _OBJECT), log)
    made = {
        (row["part"], row["piece"]): DataObject(
            name=row["name"], rows=row["rows"], bytes=row["bytes"], sha256=row["sha256"]
        )
        for row in written
    }
    for number, of_day in to_build.items():
        for index, piece in enumerate(of_day):
            if piece.first == piece.end:  # a day without rows: no task has seen it
                made[number, index] = put_piece(features, piece, np.empty((len(WINDOW_NAMES), 0)))
        yield parts[number].day, [made[number, index] for index in range(len(of_day))]


def _task_of(position: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number of the part and of the piece in one int64; see `_part_and_piece`."""
    return position >> _PLACE_BITS << _PIECE_BITS | (position & _PLACE) // ROWS_PER_OBJECT


def _part_and_piece(task: int) -> tuple[int, int]:
    return task >> _PIECE_BITS, task & ((1 << _PIECE_BITS) - 1)


def _reader(parts: list[Part], shards: int) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """A function from batches of part numbers to `EVENTS` of their rows."""

    def read(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for number in batch["part"].to_pylist():
                table, places = read_part(parts[number])
                yield spark_windows.events(
                    table, number << _PLACE_BITS | places, shards, to_build=parts[number].to_build
                )  # fmt: skip

    return read


def _writer(
    features: Dataset, to_build: dict[int, list[Piece]]
) -> Callable[[tuple[Any, ...], pa.Table], pa.Table]:  # fmt: skip
    """A function that writes the data object of a piece from its `VALUES` and returns the object."""

    def write(key: tuple[Any, ...], table: pa.Table) -> pa.Table:
        number, index = _part_and_piece(key[0].as_py())
        piece = to_build[number][index]
        rows = spark_windows.unpacked(table["values"])
        place = (rows["position"].to_numpy() & _PLACE) - piece.first
        order = np.argsort(place)
        if not np.array_equal(place[order], np.arange(piece.end - piece.first)):
            raise RuntimeError(f"{rows.num_rows} values for rows {piece.first} to {piece.end} of {piece.day}")
        values = np.stack([rows[name].to_numpy()[order] for name in WINDOW_NAMES])
        made = put_piece(features, piece, values)
        row = {"part": number, "piece": index, **made.model_dump()}
        return pa.table({name: [row[name]] for name in ("part", "piece", "name", "rows", "bytes", "sha256")})

    return write
