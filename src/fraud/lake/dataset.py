"""Datasets of Parquet partitions, such as `dt=YYYY-MM-DD`, each a Delta table that other engines read.

Data objects are named by their content and written before they are committed. One commit replaces any number of
partitions: readers see all of them or none. A rerun with the same rows writes the same objects and adds no commit.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any, Final

import pyarrow as pa

from fraud.errors import BadInputError
from fraud.lake import objects
from fraud.lake.objects import DataObject, listed, located, name_of, parquet, put_atomically, read_parquet
from fraud.lake.records import PARTITION_JSON, Contents, Partition
from fraud.lake.table import DatasetTable, columns_of

STAGED: Final = "_staged"
"""Folder of the records of partitions that are written and not committed."""


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


@dataclass(frozen=True)
class DatasetVersion:
    """One version of a dataset: what a job that opens it reads, whatever others commit meanwhile."""

    name: str
    key: str
    uri: str
    number: int
    """The version of the Delta table; -1 before the first commit."""
    contents: Contents

    def partitions(self) -> list[str]:
        """Names of the published partitions, sorted."""
        return list(self.contents.partitions)

    def partition(self, name: str) -> Partition | None:
        """A partition, None when it is not published."""
        return self.contents.partitions.get(name)

    def content_sha256(self, name: str) -> str:
        """`Partition.content_sha256` of a partition; "" when it is not published."""
        found = self.partition(name)
        return found.content_sha256 if found else ""

    @property
    def rows(self) -> int:
        """Rows of all partitions."""
        return sum(partition.rows for partition in self.contents.partitions.values())

    def retention_watermark(self) -> str:
        """The first partition that retention keeps; "" before the first one expired."""
        return self.contents.first_kept

    def object_uris(self, name: str) -> list[str]:
        """URIs of the data objects of a partition, in order; empty when it is not published."""
        found = self.partition(name)
        return [f"{self.uri}/{path}" for path in found.paths(self.key)] if found else []

    def column_types(self) -> dict[str, str]:
        """The Delta type of each column that a partition has, by name."""
        objects = (o for partition in self.contents.partitions.values() for o in partition.objects)
        return {name: kind for columns in {o.columns for o in objects} for name, kind in columns}

    def columns(self, name: str) -> list[str]:
        """The columns of a partition, in order; empty when it is not published."""
        found = self.partition(name)
        return [column for column, _ in found.objects[0].columns] if found else []

    def read(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """Read one partition. Raises BadInputError when it is not published."""
        uris = self.object_uris(name)
        if not uris:
            raise BadInputError(f"{self.name} has no partition {name}", hint=f"published: {self.partitions()[-5:]}")
        return pa.concat_tables([read_parquet(uri, columns) for uri in uris])

    def read_as(self, name: str, schema: pa.Schema) -> pa.Table:
        """Read the columns of a schema (`conformed`). Raises BadInputError when the partition is not published."""
        present = [column for column in self.columns(name) if column in schema.names]
        return conformed(self.read(name, present), schema)

    def read_range(self, first: str, last: str, columns: list[str] | None = None) -> pa.Table | None:
        """Read the partitions with `first <= name <= last`, in order; None when there is none."""
        chosen = [name for name in self.partitions() if first <= name <= last]
        return pa.concat_tables([self.read(name, columns) for name in chosen]) if chosen else None

    def verify(self, name: str) -> Partition:
        """Read every object and compare its hash with the record. Raises BadInputError with the object's URI."""
        found = self.partition(name)
        if found is None:
            raise BadInputError(f"{self.name} has no partition {name}")
        for expected, uri in zip(found.objects, self.object_uris(name), strict=True):
            fs, path = located(uri)
            data: Any = fs.cat_file(path)
            digest = sha256(data).hexdigest()
            if digest != expected.sha256:
                raise BadInputError(f"{uri} differs from the published object", expected=expected.sha256, got=digest)
        return found


class Dataset:
    """A dataset below a lake URI, partitioned by `key`. Use `fraud.lake.catalog` to open one of the platform's.

    The reading methods open the newest version at each call. A job that reads several partitions opens one version.
    """

    def __init__(self, lake_uri: str, name: str, key: str = "dt") -> None:
        self.name, self.key = name, key
        self.uri = f"{lake_uri.rstrip('/')}/{name}"
        self.table = DatasetTable(self.uri, key)

    def open(self, version: int | None = None) -> DatasetVersion:
        """A version, by default the newest. Raises BadInputError for one that does not exist (any more)."""
        return DatasetVersion(self.name, self.key, self.uri, *self.table.open(version))

    def partitions(self) -> list[str]:
        """Names of the published partitions, sorted."""
        return self.open().partitions()

    def partition(self, name: str) -> Partition | None:
        """A partition, None when it is not published."""
        return self.open().partition(name)

    def object_uris(self, name: str) -> list[str]:
        """URIs of the data objects of a partition, in order; empty when it is not published."""
        return self.open().object_uris(name)

    def read(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """Read one partition. Raises BadInputError when it is not published."""
        return self.open().read(name, columns)

    def read_range(self, first: str, last: str, columns: list[str] | None = None) -> pa.Table | None:
        """Read the partitions with `first <= name <= last`, in order; None when there is none."""
        return self.open().read_range(first, last, columns)

    def verify(self, name: str) -> Partition:
        """Read every object and compare its hash with the record. Raises BadInputError with the object's URI."""
        return self.open().verify(name)

    def uris_of(self, partition: Partition) -> list[str]:
        """URIs of the objects of a partition, published or not, in order."""
        return [f"{self.uri}/{path}" for path in partition.paths(self.key)]

    def put(self, name: str, table: pa.Table, *, dictionary: bool = True) -> DataObject:
        """Write one data object of a partition. It is not visible to readers before `commit`.

        `dictionary`: encode columns with dictionaries, which costs time and pays off when values repeat.
        """
        data = parquet(table, dictionary=dictionary)
        object_name, digest = name_of(data)
        put_atomically(f"{self.uri}/{self.key}={name}/{object_name}", data)
        return DataObject(
            name=object_name, rows=table.num_rows, bytes=len(data), sha256=digest, columns=columns_of(table.schema)
        )

    def commit(self, partitions: Iterable[Partition], base: int | None = None, at: datetime | None = None) -> int:
        """Publish partitions of objects that `put` wrote, in one commit. Returns the version of the table then.

        The partitions are replaced; no commit is made when nothing changes. `base`: the version that the partitions
        were merged with; raises ConflictError when another job committed since. `at`: time of publication, by default
        now.
        """
        new = {partition.name: partition for partition in partitions}
        version = self.table.commit(
            lambda before: Contents(dict(sorted({**before.partitions, **new}.items())), before.first_kept), base, at
        )
        self._unstage(new)
        return version

    def stage(self, partition: Partition) -> None:
        """Record a written partition for `staged`, until it is committed: a long job that is killed resumes with it."""
        put_atomically(f"{self.uri}/{STAGED}/{partition.name}.json", PARTITION_JSON.dump_json(partition))

    def staged(self) -> dict[str, Partition]:
        """The partitions by name that killed runs wrote, recorded and did not commit. Readers do not see them."""
        fs, path = located(self.uri)
        found = {}
        for name in listed(f"{self.uri}/{STAGED}", 1):
            partition = PARTITION_JSON.validate_json(fs.cat_file(f"{path}/{STAGED}/{name}"))
            if all(fs.exists(located(uri)[1]) for uri in self.uris_of(partition)):
                found[partition.name] = partition
        return found

    def _unstage(self, names: Collection[str]) -> None:
        fs, path = located(self.uri)
        for name in listed(f"{self.uri}/{STAGED}", 1):
            if name.removesuffix(".json") in names:
                fs.rm_file(f"{path}/{STAGED}/{name}")

    def written(
        self, name: str, table: pa.Table | Iterable[pa.Table], made_from: Mapping[str, str] | None = None
    ) -> Partition:
        """A partition of new objects that readers do not see before `commit`. `table`: as `publish` takes it."""
        made = tuple(self.put(name, piece) for piece in _pieces(table))
        return Partition(name=name, objects=made, made_from=dict(made_from or {}))

    def publish(
        self, name: str, table: pa.Table | Iterable[pa.Table], made_from: Mapping[str, str] | None = None
    ) -> Partition:
        """Replace one partition. `table` is a table or an iterable of tables, which need not fit into memory together.

        Returns the partition. Nothing changes when it equals the published one.
        """
        made = self.written(name, table, made_from)
        self.commit([made])
        return made

    def drop(self, names: Collection[str]) -> None:
        """Remove partitions in one commit. `fraud retention` removes their objects, once no version needs them."""
        self.table.commit(
            lambda before: Contents(
                {name: each for name, each in before.partitions.items() if name not in names}, before.first_kept
            )
        )

    def expire(self, first_kept: str) -> None:
        """Remove the partitions before `first_kept` and set the watermark, in one commit: no job builds them again."""
        self.table.commit(
            lambda before: Contents(
                {name: each for name, each in before.partitions.items() if name >= first_kept},
                max(before.first_kept, first_kept),
            )
        )


def _pieces(table: pa.Table | Iterable[pa.Table]) -> Iterator[pa.Table]:
    for whole in [table] if isinstance(table, pa.Table) else table:
        for start in range(0, max(whole.num_rows, 1), objects.ROWS_PER_OBJECT):
            yield whole.slice(start, objects.ROWS_PER_OBJECT)
