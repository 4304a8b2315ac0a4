"""The Parquet file that Feast's offline store reads.

Feast reads paths rather than manifests, and a folder of the lake may contain objects that no manifest names. The
objects that the manifests name are therefore copied into one file, which is replaced as a whole.
"""

import json
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fraud.core.features import WINDOW_NAMES
from fraud.lake import catalog
from fraud.lake.dataset import located, opened
from fraud.uris import duckdb_file, path_or_uri

COLUMNS: Final = ("user_id", "event_timestamp", "created_timestamp", *WINDOW_NAMES)
_MADE_FROM: Final = b"made_from"


def snapshot_path(lake_uri: str) -> str:
    """Location of a lake's snapshot: a plain path for a `file://` lake, otherwise a URI."""
    return path_or_uri(f"{lake_uri.rstrip('/')}/feast/user_transaction_features.parquet")


@contextmanager
def local_snapshot(lake_uri: str) -> Iterator[Path]:
    """The published snapshot as a local file for Feast's DuckDB: the file itself on a `file://` lake, otherwise a copy
    that is removed at the end of the block.

    DuckDB needs an extension for S3, which it would download at run time. It treats a path with `*`, `?` or `[` as a
    pattern, so such a file is read through a symbolic link.
    """
    fs, path = located(snapshot_path(lake_uri))
    if "file" in fs.protocol and duckdb_file(path) == path:
        yield Path(path)
        return
    with TemporaryDirectory(prefix="fraud-feast-") as folder:
        here = Path(folder) / "snapshot.parquet"
        if "file" in fs.protocol:
            here.symlink_to(path)
        else:
            fs.get_file(path, str(here))
        yield here


def publish_snapshot(lake_uri: str, days: Iterable[str]) -> str:
    """Write the given days of `features`, in that order, to the snapshot. Returns the hash of its inputs.

    The file is replaced atomically. Nothing is written when the inputs did not change.
    """
    features = catalog.FEATURES.at(lake_uri)
    named = {day: manifest.content_sha256 for day in days if (manifest := features.manifest(day))}
    made_from = sha256(json.dumps(named).encode()).hexdigest()
    path = snapshot_path(lake_uri)
    if _made_from(path) != made_from.encode():
        with _replacing(path) as local:
            write_snapshot(local, (features.read(day, list(COLUMNS)) for day in named), made_from)
    return made_from


def write_snapshot(path: Path, tables: Iterable[pa.Table], made_from: str) -> None:
    """Write tables with COLUMNS into one file, a row group each, with one table in memory at a time.

    Feast's key is (user, event time). Of rows with the same key, the last one is written (`last_of_key`).
    """
    writer: pq.ParquetWriter | None = None
    for table in tables:
        chosen = table.select(list(COLUMNS)).filter(pa.array(last_of_key(table) == np.arange(table.num_rows)))
        if writer is None:
            writer = pq.ParquetWriter(path, chosen.schema.with_metadata({_MADE_FROM: made_from}), compression="zstd")
        writer.write_table(chosen.replace_schema_metadata())
    if writer is not None:
        writer.close()


def last_of_key(table: pa.Table) -> NDArray[np.int64]:
    """Index of the last row with the same user and event time, for each row of `features`: int64[n].

    It is the row's own index, except for transactions of a user at the same microsecond.
    """
    users = table["user_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    event_us = table["event_timestamp"].cast(pa.int64()).to_numpy()
    order = np.lexsort((event_us, users))
    ends = np.ones(len(order), dtype=bool)
    ends[:-1] = (np.diff(users[order]) != 0) | (np.diff(event_us[order]) != 0)
    last = np.empty(len(order), dtype=np.int64)
    last[order] = order[ends][np.cumsum(ends) - ends]
    return last


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
