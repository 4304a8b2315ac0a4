"""Build days of `features` from parts of `transactions`, for both engines of `fraud build-features`."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fraud.errors import UnavailableError
from fraud.features.engines.arrow_windows import COLUMNS, window_values, with_windows
from fraud.lake.dataset import ROWS_PER_OBJECT, DataObject, Dataset, opened


class Stored(NamedTuple):
    """A data object of transactions. Its name depends on its content, so it cannot change during a build."""

    uri: str
    rows: int


class Part(NamedTuple):
    """The rows of a day of transactions that the days to be built need: those ingested between two bounds."""

    day: str
    objects: tuple[Stored, ...]
    ingested_after: datetime | None
    ingested_before: datetime | None
    """Both exclusive; None for no bound."""
    to_build: bool
    """Whether the day is built itself. Such a part has no bounds."""

    @property
    def rows(self) -> int:
        """Number of rows of the whole day."""
        return sum(stored.rows for stored in self.objects)


class Piece(NamedTuple):
    """Rows `first` to `end` (exclusive) of a day to be built. They become one data object of features."""

    day: str
    objects: tuple[Stored, ...]
    first: int
    end: int


def pieces(part: Part) -> list[Piece]:
    """The pieces of a day to be built. A day without rows has one piece."""
    firsts = range(0, max(part.rows, 1), ROWS_PER_OBJECT)
    return [Piece(part.day, part.objects, first, min(first + ROWS_PER_OBJECT, part.rows)) for first in firsts]


def read_part(part: Part) -> tuple[pa.Table, NDArray[np.int64]]:
    """The rows of a part with `arrow_windows.COLUMNS`, and their positions in the day, int64[n]."""
    table = _read(part.objects, list(COLUMNS))
    within = np.ones(table.num_rows, dtype=bool)
    if part.ingested_after is not None:
        within &= pc.greater(table["created_timestamp"], pa.scalar(part.ingested_after)).to_numpy()
    if part.ingested_before is not None:
        within &= pc.less(table["created_timestamp"], pa.scalar(part.ingested_before)).to_numpy()
    return (table if within.all() else table.filter(pa.array(within))), np.flatnonzero(within)


def build_here(features: Dataset, parts: Sequence[Part]) -> Iterator[tuple[str, list[DataObject]]]:
    """Build the days of `parts` (in order of days) and write the objects of their features. Yields (day, objects).

    Raises BadInputError when transactions are not sorted, UnavailableError when one of their objects was removed.
    """
    tables, to_build, rows = [], [], 0
    # Arrow releases the GIL while it compresses and decompresses, so threads use all cores.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        for part, (table, _) in zip(parts, threads.map(read_part, parts), strict=True):
            tables.append(table)
            if part.to_build:
                to_build.append((part, rows))
            rows += table.num_rows
        values = window_values(pa.concat_tables(tables))
        del tables

        def put_day(part: Part, start: int) -> list[DataObject]:
            return [put_piece(features, p, values[:, start + p.first : start + p.end]) for p in pieces(part)]

        days = [part.day for part, _ in to_build]
        yield from zip(days, threads.map(put_day, *zip(*to_build, strict=True)), strict=True)


def put_piece(features: Dataset, piece: Piece, values: NDArray[np.float64]) -> DataObject:
    """Write one data object. It is not visible to readers yet.

    `values` is float64[len(WINDOW_NAMES), piece.end - piece.first]. The same piece and values give the same bytes in
    both engines.
    """
    objects, before = [], 0
    skipped = 0
    for stored in piece.objects:
        if before < piece.end and before + stored.rows > piece.first:
            objects.append(stored)
        elif before + stored.rows <= piece.first:
            skipped += stored.rows
        before += stored.rows
    table = _read(objects or piece.objects[:1], None).slice(piece.first - skipped, piece.end - piece.first)
    return features.put(piece.day, with_windows(table, values))


def _read(objects: Iterable[Stored], columns: list[str] | None) -> pa.Table:
    tables = []
    for stored in objects:
        try:
            with opened(stored.uri) as file:
                tables.append(pq.read_table(file, columns=columns))
        except FileNotFoundError as error:
            raise UnavailableError(
                "an object of transactions was removed while being read", got=stored.uri, hint="run again"
            ) from error
    return pa.concat_tables(tables)
