"""Days of `features` from parts of `transactions`: what both engines of `fraud build-features` read and write."""

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
    """A data object of transactions. Named by its content, so it holds what it held when the build was planned."""

    uri: str
    rows: int


class Part(NamedTuple):
    """A day of transactions, as far as the days to be built need it: what was learned of between two bounds."""

    day: str
    objects: tuple[Stored, ...]
    learned_after: datetime | None
    learned_before: datetime | None
    """Both excluded; None is no bound."""
    expected: bool
    """Whether the day itself is to be built. Such a part has no bounds."""

    @property
    def rows(self) -> int:
        """Of the whole day."""
        return sum(stored.rows for stored in self.objects)


class Piece(NamedTuple):
    """Rows `first` to `end` (excluded) of a day to be built: what becomes one data object of its features."""

    day: str
    objects: tuple[Stored, ...]
    first: int
    end: int


def pieces(part: Part) -> list[Piece]:
    """All of a day to be built; one without rows for a day without rows."""
    firsts = range(0, max(part.rows, 1), ROWS_PER_OBJECT)
    return [Piece(part.day, part.objects, first, min(first + ROWS_PER_OBJECT, part.rows)) for first in firsts]


def read_part(part: Part) -> tuple[pa.Table, NDArray[np.int64]]:
    """The part's rows, `arrow_windows.COLUMNS`, and the place of each in its day, int64[n]."""
    table = _read(part.objects, list(COLUMNS))
    known = np.ones(table.num_rows, dtype=bool)
    if part.learned_after is not None:
        known &= pc.greater(table["created_timestamp"], pa.scalar(part.learned_after)).to_numpy()
    if part.learned_before is not None:
        known &= pc.less(table["created_timestamp"], pa.scalar(part.learned_before)).to_numpy()
    return (table if known.all() else table.filter(pa.array(known))), np.flatnonzero(known)


def build_here(features: Dataset, parts: Sequence[Part]) -> Iterator[tuple[str, list[DataObject]]]:
    """The wanted days of `parts`, which come in order of their days, and the objects that hold their features.

    Raises BadInputError when transactions are not in order, UnavailableError when an object of them is gone.
    """
    tables, expected, rows = [], [], 0
    # Arrow lets go of the interpreter while it packs and unpacks, so a thread for each core reads and writes.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        for part, (table, _) in zip(parts, threads.map(read_part, parts), strict=True):
            tables.append(table)
            if part.expected:
                expected.append((part, rows))
            rows += table.num_rows
        values = window_values(pa.concat_tables(tables))
        del tables

        def put_day(part: Part, start: int) -> list[DataObject]:
            return [put_piece(features, p, values[:, start + p.first : start + p.end]) for p in pieces(part)]

        days = [part.day for part, _ in expected]
        yield from zip(days, threads.map(put_day, *zip(*expected, strict=True)), strict=True)


def put_piece(features: Dataset, piece: Piece, values: NDArray[np.float64]) -> DataObject:
    """Write one data object, which nobody sees yet. `values` float64[len(WINDOW_NAMES), piece.end - piece.first].

    The same piece and values give the same bytes, whichever engine calls.
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
                "transactions lost an object while being read", got=stored.uri, hint="run again"
            ) from error
    return pa.concat_tables(tables)
