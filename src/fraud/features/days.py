"""Build days of `features` from parts of `transactions`, for both engines of `fraud build-features`."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fraud.core.declaration import Declaration
from fraud.core.plan import tables
from fraud.errors import UnavailableError
from fraud.features.daily_values import daily_values
from fraud.features.engines import arrow_windows
from fraud.features.engines.arrow_records import microseconds
from fraud.features.engines.arrow_windows import Floats, Values
from fraud.lake import catalog
from fraud.lake.dataset import Dataset, DatasetVersion, conformed
from fraud.lake.objects import ROWS_PER_OBJECT, DataObject, opened


class Target(NamedTuple):
    """The features that are built, and where."""

    lake_uri: str
    declaration: Declaration
    snapshots: Mapping[str, DatasetVersion]
    """The daily snapshots by id of the table."""

    @property
    def features(self) -> Dataset:
        """The dataset of the features."""
        return catalog.features(self.declaration.stored_hash).at(self.lake_uri)


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


def read_part(part: Part, declaration: Declaration) -> tuple[pa.Table, NDArray[np.int64]]:
    """The rows of a part with `arrow_windows.columns`, and their positions in the day, int64[n].

    Texts are dictionary-encoded. A column that the partition does not have is null.
    """
    types = dict(catalog.transaction_columns(declaration))
    names = arrow_windows.columns(declaration)
    texts = [name for name in names if types[name] == pa.string()]
    schema = pa.schema([(n, pa.dictionary(pa.int32(), pa.string()) if n in texts else types[n]) for n in names])
    table = conformed(_read(part.objects, names, texts), schema)
    within = np.ones(table.num_rows, dtype=bool)
    if part.ingested_after is not None:
        within &= pc.greater(table["created_timestamp"], pa.scalar(part.ingested_after)).to_numpy()
    if part.ingested_before is not None:
        within &= pc.less(table["created_timestamp"], pa.scalar(part.ingested_before)).to_numpy()
    return (table if within.all() else table.filter(pa.array(within))), np.flatnonzero(within)


def build_here(target: Target, parts: Sequence[Part]) -> Iterator[tuple[str, list[DataObject]]]:
    """Build the days of `parts` (in order of days) and write the objects of their features. Yields (day, objects).

    Raises BadInputError when transactions are not sorted, UnavailableError when one of their objects was removed.
    """
    read, to_build, rows, cores = [], [], 0, os.cpu_count() or 1
    # Arrow releases the GIL while it compresses and decompresses, so threads use all cores.
    with ThreadPoolExecutor(min(8, cores)) as threads:
        tables_read = threads.map(partial(read_part, declaration=target.declaration), parts)
        for part, (table, _) in zip(parts, tables_read, strict=True):
            read.append(table)
            if part.to_build:
                to_build.append((part, rows))
                rows += table.num_rows
        requested = np.concatenate([np.full(t.num_rows, p.to_build) for p, t in zip(parts, read, strict=True)])
        values = arrow_windows.window_values(pa.concat_tables(read), target.declaration, requested, cores)
        del read

        def put_day(part: Part, start: int) -> list[DataObject]:
            return [put_piece(target, p, _slice(values, start + p.first, start + p.end)) for p in pieces(part)]

        days = [part.day for part, _ in to_build]
        yield from zip(days, threads.map(put_day, *zip(*to_build, strict=True)), strict=True)


def _slice(values: Values, first: int, end: int) -> dict[str, Floats]:
    return {name: column[first:end] for name, column in values.items()}


def put_piece(target: Target, piece: Piece, windows: Values) -> DataObject:
    """Write one data object: transactions, the values of the window features, float64[piece.end - piece.first] each,
    and the daily values. It is not visible to readers yet. The same piece and values give the same bytes in both
    engines.
    """
    objects, before = [], 0
    skipped = 0
    for stored in piece.objects:
        if before < piece.end and before + stored.rows > piece.first:
            objects.append(stored)
        elif before + stored.rows <= piece.first:
            skipped += stored.rows
        before += stored.rows
    rows = _read(objects or piece.objects[:1]).slice(piece.first - skipped, piece.end - piece.first)
    table = conformed(rows, pa.schema(catalog.transaction_columns(target.declaration)))
    event_us = microseconds(table["event_timestamp"])
    values = dict(windows)
    for of_entity in tables(target.declaration):
        daily = daily_values(target.snapshots[of_entity.id], of_entity, table[of_entity.id_column], event_us)
        values |= zip(of_entity.names, daily, strict=True)
    return target.features.put(piece.day, arrow_windows.with_features(table, target.declaration, values))


def _read(objects: Iterable[Stored], columns: Sequence[str] = (), texts: Sequence[str] = ()) -> pa.Table:
    """The rows of data objects: all columns, or those of `columns` that they have. `texts` are dictionary-encoded."""
    found = []
    for stored in objects:
        try:
            with opened(stored.uri) as file:
                footer = pq.read_metadata(file)
                has = set(footer.schema.to_arrow_schema().names)
                encoded = [name for name in texts if name in has]
                with pq.ParquetFile(file, metadata=footer, read_dictionary=encoded) as parquet:
                    found.append(parquet.read([name for name in columns if name in has] or None))
        except FileNotFoundError as error:
            raise UnavailableError(
                "an object of transactions was removed while being read", got=stored.uri, hint="run again"
            ) from error
    return pa.concat_tables(found, promote_options="default")
