"""Feast's views of a declaration, and the Parquet files that Feast's offline store reads, one per view.

A view is not a table of the lake: its key is (id, event time), of which the lake may have several rows, and a row of a
daily table has no time. The rows of a view are therefore written into one file per view, which is replaced as a whole.
"""

import json
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fraud.core.contract import US_PER_DAY
from fraud.core.daily import Table
from fraud.core.declaration import Declaration
from fraud.core.declaration_types import DailyFeature, WindowFeature
from fraud.core.plan import tables, window_sets
from fraud.features.engines.arrow_records import microseconds
from fraud.lake import catalog
from fraud.lake.dataset import DatasetVersion
from fraud.lake.objects import located, opened
from fraud.uris import duckdb_file, path_or_uri

_MADE_FROM: Final = b"made_from"
_COMPRESSION: Final = "zstd"
_KEY: Final = ("event_timestamp", "created_timestamp")
_EPOCH_DAY: Final = np.datetime64("1970-01-01", "D")


class View(NamedTuple):
    """A feature view of Feast: the window features, or the daily features, of one entity."""

    entity: str
    id_column: str
    features: tuple[WindowFeature | DailyFeature, ...]
    """In declared order."""
    table: Table | None
    """Of a view of daily features."""

    @property
    def name(self) -> str:
        return f"{self.entity}_{'transaction' if self.table is None else 'daily'}_features"

    @property
    def file(self) -> str:
        """Name of the snapshot file."""
        return f"{self.name}.parquet"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.features)

    @property
    def rows(self) -> str:
        """Text for people: what a row of the file is."""
        if self.table is None:
            return (
                f"One row per transaction with a {self.id_column}, with the {self.entity}'s windows at its ingestion."
            )
        return f"One row per night and {self.entity}, from the time at which the night's values hold."

    @property
    def description(self) -> str:
        """Text for people."""
        if self.table is None:
            return f"Window features of the {self.entity} at a transaction, without the transaction itself."
        return f"Daily features of the {self.entity}, as known when the day began; null for one without a row."


def views(declaration: Declaration) -> list[View]:
    """The views of window features in order of the entities' names, then those of daily features."""
    found = [
        View(s.layout.entity, s.layout.id_column, declaration.windows(s.layout.entity), None)
        for s in window_sets(declaration)
    ]
    return found + [View(t.entity, t.id_column, t.features, t) for t in tables(declaration)]


def snapshot_folder(lake_uri: str) -> str:
    """Folder of a lake's snapshots: a plain path for a `file://` lake, otherwise a URI."""
    return path_or_uri(f"{lake_uri.rstrip('/')}/feast")


@contextmanager
def local_snapshots(lake_uri: str, found: Iterable[View]) -> Iterator[str]:
    """The folder of the published snapshots for Feast's DuckDB: the one of a `file://` lake, otherwise of copies that
    are removed at the end of the block.

    DuckDB needs an extension for S3, which it would download at run time. It treats a path with `*`, `?` or `[` as a
    pattern, so such files are read through symbolic links.
    """
    fs, folder = located(snapshot_folder(lake_uri))
    if "file" in fs.protocol and duckdb_file(folder) == folder:
        yield folder
        return
    with TemporaryDirectory(prefix="fraud-feast-") as copies:
        for view in found:
            if "file" in fs.protocol:
                (Path(copies) / view.file).symlink_to(f"{folder}/{view.file}")
            else:
                fs.get_file(f"{folder}/{view.file}", f"{copies}/{view.file}")
        yield copies


def publish_snapshots(lake_uri: str, declaration: Declaration, days: Sequence[str]) -> dict[str, dict[str, str]]:
    """Write the given days of the features, in that order, to the snapshot of each view.

    Returns the content hashes of its days by view. A file is replaced atomically; nothing is written when its inputs
    did not change. A view without any day has an empty file.
    """
    features = catalog.features(declaration.stored_hash).at(lake_uri).open()
    inputs = {}
    for view in views(declaration):
        dataset = features if view.table is None else catalog.daily(view.table).at(lake_uri).open()
        named = {day: partition.content_sha256 for day in days if (partition := dataset.partition(day))}
        made_from = sha256(json.dumps([list(view.names), named]).encode()).hexdigest()
        path = f"{snapshot_folder(lake_uri)}/{view.file}"
        if _made_from(path) != made_from.encode():
            with _replacing(path) as local:
                if view.table is None:
                    parts = (features.read(day, [view.id_column, *_KEY, *view.names]) for day in named)
                    write_windows(local, view, parts, made_from)
                else:
                    write_daily(local, view.table, dataset, named, made_from)
        inputs[view.name] = named
    return inputs


def write_windows(
    path: Path, view: View, parts: Iterable[pa.Table], made_from: str = "", compression: str = _COMPRESSION
) -> None:
    """Write rows of `features` into the snapshot of a view of windows, a row group each, one in memory at a time.

    Feast's key is (id, event time). Of rows with the same key, the last one is written (`last_of_key`), and none
    without an id.
    """

    def chosen() -> Iterator[pa.Table]:
        for part in parts:
            rows = part.select([view.id_column, *_KEY, *view.names])
            rows = rows.filter(pc.is_valid(rows[view.id_column]))
            yield rows.filter(pa.array(last_of_key(rows, view.id_column) == np.arange(rows.num_rows)))

    _write(path, _schema(view), chosen(), made_from, compression)


def write_daily(
    path: Path, table: Table, dataset: DatasetVersion, days: Iterable[str], made_from: str = "",
    compression: str = _COMPRESSION,
) -> None:  # fmt: skip
    """Write daily snapshots into the snapshot of a view. A row holds from `available_at` of its day.

    The default row, which has no id, is not part of it.
    """
    view = View(table.entity, table.id_column, table.features, table)

    def dated() -> Iterator[pa.Table]:
        for day in days:
            rows = dataset.read(day, [table.id_column, *table.names])
            rows = rows.filter(pc.is_valid(rows[table.id_column]))
            since = int((np.datetime64(day, "D") - _EPOCH_DAY).astype(int)) * US_PER_DAY + table.available_us
            at = pa.repeat(pa.scalar(since, pa.int64()), rows.num_rows).cast(catalog.TIMESTAMP)
            yield pa.table({table.id_column: rows[table.id_column], **dict.fromkeys(_KEY, at),
                            **{name: rows[name] for name in table.names}})  # fmt: skip

    _write(path, _schema(view), dated(), made_from, compression)


def last_of_key(rows: pa.Table, id_column: str) -> NDArray[np.int64]:
    """Index of the last row with the same id and event time, for each row of `features`: int64[n].

    It is the row's own index, except for transactions of an entity at the same microsecond. Null is an id like others.
    """
    codes = rows[id_column].combine_chunks().dictionary_encode(null_encoding="encode").indices.to_numpy()
    event_us = microseconds(rows["event_timestamp"])
    order = np.lexsort((event_us, codes))
    ends = np.ones(len(order), dtype=bool)
    ends[:-1] = (np.diff(codes[order]) != 0) | (np.diff(event_us[order]) != 0)
    last = np.empty(len(order), dtype=np.int64)
    last[order] = order[ends][np.cumsum(ends) - ends]
    return last


def _schema(view: View) -> pa.Schema:
    kinds = {"float64": pa.float64(), "int64": pa.int64()}
    return pa.schema([
        (view.id_column, pa.string()), *((name, catalog.TIMESTAMP) for name in _KEY),
        *((feature.name, kinds[feature.dtype]) for feature in view.features),
    ])  # fmt: skip


def _write(
    path: Path, schema: pa.Schema, parts: Iterable[pa.Table], made_from: str, compression: str = _COMPRESSION
) -> None:
    stored = schema.with_metadata({_MADE_FROM: made_from})
    with pq.ParquetWriter(path, stored, compression=compression) as writer:
        for part in parts:
            writer.write_table(part.cast(schema).replace_schema_metadata(stored.metadata))


def _made_from(path: str) -> bytes | None:
    try:
        with opened(path) as file:
            return (pq.read_schema(file).metadata or {}).get(_MADE_FROM)
    except FileNotFoundError:
        return None


@contextmanager
def _replacing(path: str) -> Iterator[Path]:
    """A local file to write. At the end of the block it replaces the one at `path` atomically."""
    fs, target = located(path)
    if "file" not in fs.protocol:
        with TemporaryDirectory() as folder:
            local = Path(folder) / "snapshot.parquet"
            yield local
            fs.put_file(str(local), target)
        return
    final = Path(target)
    final.parent.mkdir(parents=True, exist_ok=True)
    local = final.with_name(f".{final.name}.{secrets.token_hex(4)}")
    try:
        yield local
        with local.open("rb") as file:
            os.fsync(file.fileno())
        local.replace(final)
    finally:
        local.unlink(missing_ok=True)
