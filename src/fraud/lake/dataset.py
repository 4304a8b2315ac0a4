"""Datasets of Parquet partitions, such as `dt=YYYY-MM-DD`, published by a manifest per partition.

Data objects are named by their content. A partition is published by replacing its manifest: `os.replace` on files, one
PUT on S3, which has no rename. Readers use the manifest, so they see either the old or the new partition. A rerun with
the same rows writes the same object names and the same manifest, byte for byte.
"""

import io
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, Final

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from fraud.errors import BadInputError
from fraud.uris import path_of

MANIFEST: Final = "_manifest.json"
_WATERMARK: Final = "_retention.json"
ROWS_PER_OBJECT: Final = 1_000_000
ROWS_PER_GROUP: Final = 250_000
"""Rows of a row group, the smallest part of an object that can be read: tasks share an object by row groups."""


class DataObject(BaseModel):
    """One Parquet file of a partition."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    rows: int
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """The objects of a partition and their inputs. It contains no time, so that the same rows give the same bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    partition: str
    rows: int
    objects: tuple[DataObject, ...]
    made_from: dict[str, str]
    """Fingerprints of the inputs and other facts, by name. A job compares them to decide whether to run."""

    @property
    def content_sha256(self) -> str:
        """Hash of the objects' hashes in order: equal if and only if the bytes of the partition are equal."""
        return sha256("".join(o.sha256 for o in self.objects).encode()).hexdigest()


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


def conformed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with exactly the columns of a schema: others are dropped, missing ones are null.

    A partition that was written under another declaration may have other columns. Raises BadInputError for values that
    a column's type cannot have.
    """
    columns = [_conformed(table, field) for field in schema]
    return pa.table(columns, schema=pa.schema([field.with_nullable(True) for field in schema]))


def _conformed(table: pa.Table, field: pa.Field) -> pa.Array | pa.ChunkedArray:
    if field.name not in table.column_names:
        return pa.nulls(table.num_rows, field.type)
    try:
        return table[field.name].cast(field.type)
    except pa.ArrowException as error:
        raise BadInputError(
            f"the lake has a column {field.name} of another type", expected=str(field.type),
            got=f"{table[field.name].type}: {error}", hint="give the new column another name in features.yaml",
        ) from error  # fmt: skip


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
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class Dataset:
    """A dataset below a lake URI, partitioned by `key`. Use `fraud.lake.catalog` to open one of the platform's."""

    def __init__(self, lake_uri: str, name: str, key: str = "dt") -> None:
        self.name, self.key = name, key
        self.uri = f"{lake_uri.rstrip('/')}/{name}"
        self._fs, self._path = located(self.uri)

    def partition_uri(self, partition: str) -> str:
        """URI of the folder of a partition's manifest and data objects."""
        return f"{self.uri}/{self.key}={partition}"

    def partitions(self) -> list[str]:
        """The published partitions, sorted."""
        prefix, suffix = f"{self.key}=", f"/{MANIFEST}"
        found = [name for name in listed(self.uri, 2) if name.startswith(prefix) and name.endswith(suffix)]
        return [name.removeprefix(prefix).removesuffix(suffix) for name in found]

    def manifest(self, partition: str) -> Manifest | None:
        """The manifest of a partition, None when it is not published."""
        fs, path = located(f"{self.partition_uri(partition)}/{MANIFEST}")
        try:
            return Manifest.model_validate_json(fs.cat_file(path))
        except FileNotFoundError:
            return None

    def object_uris(self, partition: str) -> list[str]:
        """URIs of the data objects of a partition, in order; empty when it is not published."""
        manifest = self.manifest(partition)
        return [f"{self.partition_uri(partition)}/{o.name}" for o in manifest.objects] if manifest else []

    def columns(self, partition: str) -> list[str]:
        """The columns of a partition, in order; empty when it is not published."""
        for uri in self.object_uris(partition):
            with opened(uri) as file:
                names: list[str] = pq.read_schema(file).names
                return names
        return []

    def read(self, partition: str, columns: list[str] | None = None) -> pa.Table:
        """Read one partition. Raises BadInputError when it is not published."""
        uris = self.object_uris(partition)
        if not uris:
            raise BadInputError(
                f"{self.name} has no partition {partition}", hint=f"published: {self.partitions()[-5:]}"
            )
        tables = []
        for uri in uris:
            with opened(uri) as file:
                tables.append(pq.read_table(file, columns=columns))
        return pa.concat_tables(tables)

    def read_as(self, partition: str, schema: pa.Schema) -> pa.Table:
        """Read the columns of a schema (`conformed`). Raises BadInputError when the partition is not published."""
        present = [name for name in self.columns(partition) if name in schema.names]
        return conformed(self.read(partition, present), schema)

    def read_range(self, first: str, last: str, columns: list[str] | None = None) -> pa.Table | None:
        """Read the partitions with `first <= value of the key <= last`, in order; None when there is none."""
        chosen = [p for p in self.partitions() if first <= p <= last]
        return pa.concat_tables([self.read(p, columns) for p in chosen]) if chosen else None

    def publish(
        self, partition: str, table: pa.Table | Iterable[pa.Table], made_from: Mapping[str, str] | None = None
    ) -> Manifest:
        """Replace a partition. `table` is a table or an iterable of tables, which need not fit into memory together.

        Returns the manifest. Nothing changes when it equals the published one.
        """
        return self.commit(partition, [self.put(partition, piece) for piece in _pieces(table)], made_from)

    def put(self, partition: str, table: pa.Table, *, dictionary: bool = True) -> DataObject:
        """Write one data object, named by its content. It is not visible to readers before `commit`.

        `dictionary`: encode columns with dictionaries, which costs time and pays off when values repeat.
        """
        buffer = io.BytesIO()
        pq.write_table(
            table, buffer, compression="zstd", row_group_size=ROWS_PER_GROUP, use_dictionary=dictionary
        )  # fmt: skip
        data = buffer.getvalue()
        digest = sha256(data).hexdigest()
        written = DataObject(name=f"{digest[:24]}.parquet", rows=table.num_rows, bytes=len(data), sha256=digest)
        put_atomically(f"{self.partition_uri(partition)}/{written.name}", data)
        return written

    def commit(
        self, partition: str, objects: Sequence[DataObject], made_from: Mapping[str, str] | None = None
    ) -> Manifest:
        """Publish a partition of objects that `put` wrote, in this order. Nothing is written when nothing changed."""
        manifest = Manifest(
            dataset=self.name, partition=partition, rows=sum(o.rows for o in objects), objects=tuple(objects),
            made_from=dict(sorted((made_from or {}).items())),
        )  # fmt: skip
        if manifest != self.manifest(partition):
            text = json.dumps(manifest.model_dump(mode="json"), indent=1, sort_keys=True)
            put_atomically(f"{self.partition_uri(partition)}/{MANIFEST}", text.encode())
        return manifest

    def drop(self, partition: str) -> None:
        """Remove a partition. The manifest is removed first, so that a killed run leaves no visible partition."""
        fs, path = located(self.partition_uri(partition))
        with suppress(FileNotFoundError):
            fs.rm_file(f"{path}/{MANIFEST}")
        with suppress(FileNotFoundError):
            fs.rm(path, recursive=True)

    def retention_watermark(self) -> str:
        """The first partition that retention keeps; "" before the first one expired."""
        try:
            found: dict[str, str] = json.loads(self._fs.cat_file(f"{self._path}/{_WATERMARK}"))
        except FileNotFoundError:
            return ""
        return found["starts"]

    def expire(self, first_kept: str) -> None:
        """Remove the partitions before `first_kept`. The watermark is written first: no job builds them again."""
        if first_kept > self.retention_watermark():
            put_atomically(f"{self.uri}/{_WATERMARK}", json.dumps({"starts": first_kept}).encode())
        for partition in self.partitions():
            if partition < first_kept:
                self.drop(partition)

    def verify(self, partition: str) -> Manifest:
        """Read every object and compare its hash with the manifest. Raises BadInputError with the object's URI."""
        manifest = self.manifest(partition)
        if manifest is None:
            raise BadInputError(f"{self.name} has no partition {partition}")
        for expected, uri in zip(manifest.objects, self.object_uris(partition), strict=True):
            fs, path = located(uri)
            data: Any = fs.cat_file(path)
            digest = sha256(data).hexdigest()
            if digest != expected.sha256:
                raise BadInputError(f"{uri} differs from the published object", expected=expected.sha256, got=digest)
        return manifest


def _pieces(table: pa.Table | Iterable[pa.Table]) -> Iterator[pa.Table]:
    for whole in [table] if isinstance(table, pa.Table) else table:
        for start in range(0, max(whole.num_rows, 1), ROWS_PER_OBJECT):
            yield whole.slice(start, ROWS_PER_OBJECT)
