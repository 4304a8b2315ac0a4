"""Datasets of Parquet partitions `dt=YYYY-MM-DD`, published by manifest.

Data objects are named by their content, then one small manifest per partition is replaced: `os.replace` on files, one
PUT on S3, which has no rename. Readers go through the manifest, so they see the old partition or the new one, never
half; a rerun with the same rows writes the same names and the same manifest, byte for byte.
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
"""A row group is the least that can be read of an object: what several tasks share the reading of."""


class DataObject(BaseModel):
    """One Parquet file of a partition."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    rows: int
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """What a partition is: its objects, and what they were made from. No clock in it: same rows, same bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    partition: str
    rows: int
    objects: tuple[DataObject, ...]
    made_from: dict[str, str]
    """Input fingerprints and facts about the making, by name; a job compares them to see whether it has work."""

    @property
    def content_sha256(self) -> str:
        """Hash over the objects' hashes in order: equal exactly when the partition's bytes are."""
        return sha256("".join(o.sha256 for o in self.objects).encode()).hexdigest()


def located(uri: str) -> tuple[Any, str]:
    """The file system of a URI and the path in it.

    Listings are asked for again each time: fsspec would answer them from memory, and a process that lives on would
    never see what others publish on S3.
    """
    if (local := path_of(uri)) is not None:  # fsspec would read `::` in the path as a chain of file systems
        return fsspec.filesystem("file"), str(local)
    found: tuple[Any, str] = fsspec.core.url_to_fs(uri, use_listings_cache=False)
    return found


def opened(uri: str) -> IO[bytes]:
    """The object for reading. Raises FileNotFoundError."""
    fs, path = located(uri)
    found: IO[bytes] = fs.open(path, "rb")
    return found


def listed(uri: str, depth: int | None = None) -> list[str]:
    """The files below a URI, at most `depth` levels down: paths relative to it, sorted; [] when it is not there."""
    fs, path = located(uri)
    return sorted(found[len(path) :].lstrip("/") for found in fs.find(path, maxdepth=depth))


def put_atomically(uri: str, data: bytes) -> None:
    """Write one object so that a reader sees all of it or the one before. Durable when it returns."""
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
    """A named dataset below a lake URI. Partition keys are `dt=...` values unless `key` says otherwise."""

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
        """The partition's manifest, None when it was never published."""
        fs, path = located(f"{self.partition_uri(partition)}/{MANIFEST}")
        try:
            return Manifest.model_validate_json(fs.cat_file(path))
        except FileNotFoundError:
            return None

    def object_uris(self, partition: str) -> list[str]:
        """URIs of the partition's data objects, in order; empty when it was never published."""
        manifest = self.manifest(partition)
        return [f"{self.partition_uri(partition)}/{o.name}" for o in manifest.objects] if manifest else []

    def read(self, partition: str, columns: list[str] | None = None) -> pa.Table:
        """One partition. Raises BadInputError when it was never published."""
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

    def read_range(self, first: str, last: str, columns: list[str] | None = None) -> pa.Table | None:
        """The published partitions with `first <= key <= last` in order, None when there is none."""
        chosen = [p for p in self.partitions() if first <= p <= last]
        return pa.concat_tables([self.read(p, columns) for p in chosen]) if chosen else None

    def publish(
        self, partition: str, table: pa.Table | Iterable[pa.Table], made_from: Mapping[str, str] | None = None
    ) -> Manifest:
        """Replace the partition as a whole. `table` is a table, or an iterable of tables that never all fit memory.

        Returns the manifest; when it equals the published one nothing was changed.
        """
        return self.commit(partition, [self.put(partition, piece) for piece in _pieces(table)], made_from)

    def put(self, partition: str, table: pa.Table) -> DataObject:
        """Write one data object, named by its content. No reader sees it before `commit` names it in the manifest."""
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd", row_group_size=ROWS_PER_GROUP)
        data = buffer.getvalue()
        digest = sha256(data).hexdigest()
        written = DataObject(name=f"{digest[:24]}.parquet", rows=table.num_rows, bytes=len(data), sha256=digest)
        put_atomically(f"{self.partition_uri(partition)}/{written.name}", data)
        return written

    def commit(
        self, partition: str, objects: Sequence[DataObject], made_from: Mapping[str, str] | None = None
    ) -> Manifest:
        """Make the partition these objects, in this order, which `put` wrote. Replaces nothing when nothing changed."""
        manifest = Manifest(
            dataset=self.name, partition=partition, rows=sum(o.rows for o in objects), objects=tuple(objects),
            made_from=dict(sorted((made_from or {}).items())),
        )  # fmt: skip
        if manifest != self.manifest(partition):
            text = json.dumps(manifest.model_dump(mode="json"), indent=1, sort_keys=True)
            put_atomically(f"{self.partition_uri(partition)}/{MANIFEST}", text.encode())
        return manifest

    def drop(self, partition: str) -> None:
        """Remove a partition, the manifest first: what a killed run leaves behind is unseen and goes with the next."""
        fs, path = located(self.partition_uri(partition))
        with suppress(FileNotFoundError):
            fs.rm_file(f"{path}/{MANIFEST}")
        with suppress(FileNotFoundError):
            fs.rm(path, recursive=True)

    def retention_watermark(self) -> str:
        """The first key that retention keeps; "" while it let nothing go. What lies before it is not missing."""
        try:
            found: dict[str, str] = json.loads(self._fs.cat_file(f"{self._path}/{_WATERMARK}"))
        except FileNotFoundError:
            return ""
        return found["starts"]

    def expire(self, first_kept: str) -> None:
        """Drop the partitions before `first_kept`. It is remembered first, so that no job makes them again."""
        if first_kept > self.retention_watermark():
            put_atomically(f"{self.uri}/{_WATERMARK}", json.dumps({"starts": first_kept}).encode())
        for partition in self.partitions():
            if partition < first_kept:
                self.drop(partition)

    def verify(self, partition: str) -> Manifest:
        """Read every object again and compare sizes, hashes and row counts. Raises BadInputError naming the object."""
        manifest = self.manifest(partition)
        if manifest is None:
            raise BadInputError(f"{self.name} has no partition {partition}")
        for expected, uri in zip(manifest.objects, self.object_uris(partition), strict=True):
            fs, path = located(uri)
            data: Any = fs.cat_file(path)
            digest = sha256(data).hexdigest()
            if digest != expected.sha256:
                raise BadInputError(f"{uri} is not what was published", expected=expected.sha256, got=digest)
        return manifest


def _pieces(table: pa.Table | Iterable[pa.Table]) -> Iterator[pa.Table]:
    for whole in [table] if isinstance(table, pa.Table) else table:
        for start in range(0, max(whole.num_rows, 1), ROWS_PER_OBJECT):
            yield whole.slice(start, ROWS_PER_OBJECT)
