"""The one Parquet file that Feast's offline store reads.

The lake's `features` are many objects behind manifests, and a folder may hold objects that no manifest names any
more; Feast reads paths, not manifests. So what the manifests name is copied into one file, replaced as a whole.
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
    """Where the snapshot of a lake is: a plain path for a `file://` lake, a URI otherwise."""
    return path_or_uri(f"{lake_uri.rstrip('/')}/feast/user_transaction_features.parquet")


@contextmanager
def local_snapshot(lake_uri: str) -> Iterator[Path]:
    """The published snapshot as a local file that Feast's DuckDB can read: itself on a `file://` lake, a copy for the
    length of the block otherwise.

    DuckDB reads S3 by an extension alone that it would fetch from the internet at run time, and a path with `*`, `?` or
    `[` as a pattern: such a file is read through a link.
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
    """Bring the snapshot up to the given days of `features`, in that order; returns what it was made from.

    Readers see the old file or the new one. Nothing is written when it was made from the same already.
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
    """Write tables with COLUMNS into one file, a row group each; never more than one table in memory.

    Feast's key is (user, event time). Of rows that share it, one is written: `last_learned` of each.
    """
    writer: pq.ParquetWriter | None = None
    for table in tables:
        chosen = table.select(list(COLUMNS)).filter(pa.array(latest_ingestion_us(table) == np.arange(table.num_rows)))
        if writer is None:
            writer = pq.ParquetWriter(path, chosen.schema.with_metadata({_MADE_FROM: made_from}), compression="zstd")
        writer.write_table(chosen.replace_schema_metadata())
    if writer is not None:
        writer.close()


def latest_ingestion_us(table: pa.Table) -> NDArray[np.int64]:
    """For each row of `features` rows in their order, the last row with the same user and event time: int64[n].

    That is the row itself but for a user's transactions at the same microsecond.
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
    """A local file to write, which then takes the place of the one at `path` in one step."""
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
