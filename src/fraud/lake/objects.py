"""Files and objects of the lake: reading, listing, atomic replacement, and Parquet objects named by their content."""

import io
import os
import secrets
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, Final

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from fraud.uris import path_of

ROWS_PER_OBJECT: Final = 500_000
"""Most rows of an object that jobs write. A Spark task that writes features holds one in 1.5 GiB of address space."""
ROWS_PER_GROUP: Final = 250_000
"""Rows of a row group, the smallest part of an object that can be read: tasks share an object by row groups."""


@dataclass(frozen=True, slots=True)
class DataObject:
    """One Parquet object of a partition."""

    name: str
    rows: int
    bytes: int
    sha256: str
    columns: tuple[tuple[str, str], ...]
    """Name and Delta type of each column, in order; the type of a nested column is its JSON."""


def located(uri: str) -> tuple[Any, str]:
    """The file system of a URI and the path in it.

    Listings are not cached. With fsspec's cache, a long-running process would not see objects that other processes
    publish on S3.
    """
    if (local := path_of(uri)) is not None:  # fsspec would read `::` in the path as a chain of file systems
        return fsspec.filesystem("file"), str(local)
    found: tuple[Any, str] = fsspec.core.url_to_fs(uri, use_listings_cache=False)
    return found


def opened(uri: str) -> IO[bytes]:
    """Open an object for reading. Raises FileNotFoundError."""
    fs, path = located(uri)
    found: IO[bytes] = fs.open(path, "rb")
    return found


def read_parquet(uri: str, columns: list[str] | None = None) -> pa.Table:
    """The rows of a Parquet object: all columns, or these in their order.

    Raises FileNotFoundError, and KeyError for a column that it does not have.
    """
    with opened(uri) as file, pq.ParquetFile(file, pre_buffer=True) as parquet_file:  # `read_table` imports pandas
        table = parquet_file.read(columns)
    return table if columns is None else table.select(columns)


def listed(uri: str, depth: int | None = None) -> list[str]:
    """Files below a URI, at most `depth` levels down: relative paths, sorted; [] when the URI does not exist."""
    fs, path = located(uri)
    return sorted(found[len(path) :].lstrip("/") for found in fs.find(path, maxdepth=depth))


def folders(uri: str) -> list[str]:
    """Names of the folders directly below a URI, sorted; [] when the URI does not exist."""
    fs, path = located(uri)
    try:
        found = fs.ls(path, detail=True)
    except FileNotFoundError:
        return []
    return sorted(entry["name"].rstrip("/").split("/")[-1] for entry in found if entry["type"] == "directory")


def put_atomically(uri: str, data: bytes) -> None:
    """Replace one object atomically. The data is durable when the function returns."""
    fs, path = located(uri)
    if fs.protocol not in ("file", ("file", "local")):
        fs.pipe_file(path, data)
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    synchronized(target.parent)


def synchronized(path: Path) -> None:
    """Make a file, or the names in a folder, durable on a local disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def parquet(table: pa.Table, *, dictionary: bool) -> bytes:
    """The bytes of a table as Parquet: the same for the same table."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", row_group_size=ROWS_PER_GROUP, use_dictionary=dictionary)
    return buffer.getvalue()


def name_of(data: bytes) -> tuple[str, str]:
    """The name of an object with these bytes, and their sha256."""
    digest = sha256(data).hexdigest()
    return f"{digest[:24]}.parquet", digest
