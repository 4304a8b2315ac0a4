"""The Delta table of a dataset: one version of it, and atomic commits of objects that are written already.

A version refers, by the application transaction `fraud-partitions` of the Delta log, to a record of its partitions
(`fraud.lake.records`). The reference is committed with the version, and survives checkpoints and log clean-up.
"""

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import pyarrow as pa
import structlog
from deltalake import CommitProperties, DeltaTable, Field, Schema
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction, Transaction, create_table_with_add_actions

from fraud.errors import BadConfigError, BadInputError, UnavailableError, full_disk
from fraud.lake.objects import DataObject, synchronized
from fraud.lake.records import Contents, Partition, read_record, record_name, write_record
from fraud.uris import encoded_uri, path_of

_APPLICATION: Final = "fraud-partitions"
_ATTEMPTS: Final = 50
_CHECKPOINT_EVERY: Final = 20
"""Commits between two checkpoints: an open reads one checkpoint and at most this many commits."""
LOG_DAYS: Final = 30
"""Days that the log of replaced versions, and so time travel, is kept."""
_PROPERTIES: Final = {
    "delta.checkpointInterval": str(_CHECKPOINT_EVERY),
    "delta.logRetentionDuration": f"interval {LOG_DAYS} days",
    "delta.deletedFileRetentionDuration": f"interval {LOG_DAYS} days",
}


class ConflictError(UnavailableError):
    """Another job committed to the table. The run changed nothing; a retry starts from the new contents."""


_READ: Final[dict[str, tuple[int, str, Contents]]] = {}
"""The version of each table that was read last: number, name of the record, contents."""


class DatasetTable(NamedTuple):
    """The Delta table at a URI, partitioned by one key. The key is a date when its name is `dt`, else a string."""

    uri: str
    key: str

    def open(self, version: int | None = None) -> tuple[int, Contents]:
        """A version, by default the newest, and its contents; -1 when the table does not exist.

        Raises BadInputError for a version that does not exist (any more), UnavailableError without the object store.
        """
        table = self._delta(version)
        return (-1, Contents({})) if table is None else (table.version(), self._contents(table))

    def commit(
        self, change: Callable[[Contents], Contents], base: int | None = None, at: datetime | None = None
    ) -> int:
        """Commit what `change` makes of the newest contents; the version then. No commit when it changes nothing.

        When another process commits first, `change` is applied to its contents, unless `base` is given: the version
        that `change` was computed from. `at`: the time of publication, by default now. Raises ConflictError when
        another process committed since `base`, or many times in a row, BadInputError for a column whose type differs
        from the table's.
        """
        for attempt in range(_ATTEMPTS):
            table = self._delta()
            before = Contents({}) if table is None else self._contents(table)
            after = change(before)
            version = -1 if table is None else table.version()
            if after == before:
                return version
            if base not in (None, version):
                raise ConflictError(
                    f"another job committed to {self.uri} while this one ran", expected=f"version {base}",
                    got=f"version {version}", hint="run this job again",
                )  # fmt: skip
            try:
                with store_errors():
                    committed = self._write(table, before, after, at)
            except DeltaError as error:
                newest = self._delta()
                if newest is None or newest.version() == version:
                    raise _unexpected(self.uri, error) from error
                time.sleep(0.01 * attempt)
            else:
                self._synchronize(committed)
                return committed
        raise ConflictError(
            f"other jobs commit to {self.uri} all the time", got=f"{_ATTEMPTS} attempts", hint="run this job again"
        )

    def published(self) -> dict[str, datetime]:
        """The time at which each partition last changed, by name."""
        table = self._delta()
        if table is None:
            return {}
        with store_errors():
            actions = pa.table(table.get_add_actions(flatten=True))
        found: dict[str, datetime] = {}
        for name, at in zip(
            *(actions[c].to_pylist() for c in (f"partition.{self.key}", "modification_time")), strict=True
        ):
            moment = at if isinstance(at, datetime) else datetime.fromtimestamp(at / 1000, UTC)
            found[str(name)] = max(moment, found.get(str(name), moment))
        return found

    def unreferenced(self, hours: int) -> list[str]:
        """Paths below the URI of data objects that no version of the last `hours` hours refers to."""
        table = self._delta()
        if table is None:
            return []
        with store_errors():
            return table.vacuum(hours, dry_run=True, enforce_retention_duration=False, full=True)

    def record_of_newest(self) -> str:
        """Path below the URI of the record of the newest version; "" when the table does not exist."""
        table = self._delta()
        return "" if table is None else _record(table)

    def history(self) -> list[dict[str, Any]]:
        """The commits in the log, newest first: version, time, and the job and run that made it."""
        table = self._delta()
        with store_errors():
            return [] if table is None else table.history()

    def _delta(self, version: int | None = None) -> DeltaTable | None:
        try:
            with store_errors():
                return DeltaTable(_location(self.uri), version=version, storage_options=_options(self.uri))
        except TableNotFoundError:
            return None
        except DeltaError as error:
            if version is None:
                raise _unexpected(self.uri, error) from error
            raise BadInputError(
                f"{self.uri} has no version {version}", expected=f"a version of the last {LOG_DAYS} days",
                got=str(error),
            ) from error  # fmt: skip

    def _contents(self, table: DeltaTable) -> Contents:
        name = _record(table)
        if (known := _READ.get(self.uri)) is not None and known[:2] == (table.version(), name):
            return known[2]
        try:
            found = read_record(self.uri, name)
        except FileNotFoundError:
            raise BadInputError(
                f"version {table.version()} of {self.uri} has no record of its partitions",
                expected="a version of the last FRAUD_HISTORY_DAYS days, written by this platform",
            ) from None
        if {"/".join(uri.rsplit("/", 2)[1:]) for uri in table.file_uris()} != _paths(found.partitions, self.key).keys():
            raise BadInputError(
                f"version {table.version()} of {self.uri} contains objects that this platform did not write",
                expected="a table that only this platform writes",
                hint="restore the version before with Delta Lake's RESTORE, then run the job again",
            )
        _READ[self.uri] = (table.version(), name, found)
        return found

    def _write(self, table: DeltaTable | None, before: Contents, after: Contents, at: datetime | None) -> int:
        """Write the record, then the commit, which fails when another one was made since the table was opened.

        Returns the version of the commit.
        """
        record = write_record(self.uri, after)
        run = structlog.contextvars.get_contextvars()
        properties = CommitProperties(
            custom_metadata={name: run[name] for name in ("job", "run") if name in run},
            max_commit_retries=0, app_transactions=[Transaction(_APPLICATION, record)],
        )  # fmt: skip
        old, new = _paths(before.partitions, self.key), _paths(after.partitions, self.key)
        now = int(time.time() * 1000)
        published = now if at is None else int(at.timestamp() * 1000)
        adds = [
            AddAction(
                path, stored.bytes, {self.key: name}, published, True, json.dumps({"numRecords": stored.rows}),
            ) for path, (name, stored) in new.items() if path not in old
        ]  # fmt: skip
        columns = {n: kind for path, (_, stored) in new.items() if path not in old for n, kind in stored.columns}
        if table is None:
            create_table_with_add_actions(
                _location(self.uri), _schema({**columns, self.key: self._key_type}), adds, partition_by=[self.key],
                configuration=_PROPERTIES, storage_options=_options(self.uri), commit_properties=properties,
            )  # fmt: skip
            return 0
        known = {field["name"]: _kind(field["type"]) for field in json.loads(table.schema().to_json())["fields"]}
        changed = [name for name, kind in columns.items() if known.get(name, kind) != kind]
        if changed and not old.keys() & new.keys():  # every object is replaced, so the columns can be, too
            committed = table.version() + 1
            table._table.create_write_transaction(  # noqa: SLF001 - the only call that commits objects written before
                [*adds], "overwrite", [self.key], _schema({**columns, self.key: self._key_type}), None, properties, None
            )
            return committed
        for name in changed:
            raise BadInputError(
                f"the table {self.uri} has a column {name} of another type", expected=known[name],
                got=columns[name], hint="give the new column another name in features.yaml",
            )  # fmt: skip
        added = {name: kind for name, kind in columns.items() if name not in table.schema().to_arrow().names}
        if added:
            fields = [Field.from_json(json.dumps(_delta_field(*each))) for each in added.items()]
            table.alter.add_columns(fields, commit_properties=CommitProperties(max_commit_retries=0))
        removes = [
            RemoveAction(path, data_change=True, deletion_timestamp=now, size=stored.bytes,
                         partition_values={self.key: name})
            for path, (name, stored) in old.items() if path not in new
        ]  # fmt: skip
        committed = table.version() + 1
        table._table.create_write_transaction(  # noqa: SLF001
            [*removes, *adds], "append", [self.key], table.schema(), None, properties, None
        )
        return committed

    @property
    def _key_type(self) -> str:
        return "date" if self.key == "dt" else "string"

    def _synchronize(self, version: int) -> None:
        """Make a commit durable on a local disk, which delta-rs does not do."""
        if (folder := path_of(f"{self.uri}/_delta_log")) is not None:
            with suppress(FileNotFoundError):  # a later commit may have cleaned the log
                synchronized(folder / f"{version:020}.json")
            synchronized(folder)


@contextmanager
def store_errors() -> Iterator[None]:
    """Raise UnavailableError when the disk of the lake is full, or its object store does not answer."""
    try:
        yield
    except (DeltaError, OSError) as error:
        if full_disk(error):
            raise UnavailableError("the disk of the lake is full", got=str(error), hint="free some space") from error
        if "error sending request" in str(error):
            raise UnavailableError(
                "the object store does not answer", got=str(error),
                hint="check AWS_ENDPOINT_URL, and run again when the object store is available",
            ) from error  # fmt: skip
        raise


def _unexpected(uri: str, error: Exception) -> BadInputError:
    return BadInputError(f"the table {uri} cannot be read or written", got=str(error))


def _location(uri: str) -> str:
    path = path_of(uri)
    if path is None:
        return uri
    if escape := re.search(r"%[0-9a-fA-F]{2}", str(path)):
        raise BadConfigError(
            f"the lake cannot be in a folder with {escape[0]} in its name", got=str(path),
            expected="a path without % and two hexadecimal digits, which delta-rs decodes",
            hint="set FRAUD_HOME or FRAUD_LAKE_URI to another folder",
        )  # fmt: skip
    return encoded_uri(path)


def _options(uri: str) -> dict[str, str]:
    """delta-rs reads the variables AWS_... itself. It refuses an endpoint without TLS unless told to accept it."""
    plain = uri.startswith("s3://") and os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
    return {"aws_allow_http": "true"} if plain else {}


def _record(table: DeltaTable) -> str:
    return record_name(table.transaction_version(_APPLICATION) or 0)


def _paths(partitions: Mapping[str, Partition], key: str) -> dict[str, tuple[str, DataObject]]:
    """Partition and object by the path of the object in the table."""
    each = partitions.items()
    return {path: (name, o) for name, p in each for path, o in zip(p.paths(key), p.objects, strict=True)}


def columns_of(schema: pa.Schema) -> tuple[tuple[str, str], ...]:
    """Name and Delta type of each column. A column without a type (all null) is not part of the table."""
    named = [field.with_nullable(True) for field in schema if not pa.types.is_null(field.type)]
    fields = json.loads(Schema.from_arrow(pa.schema(named)).to_json())["fields"]
    return tuple((field["name"], _kind(field["type"])) for field in fields)


def _kind(kind: str | dict[str, Any]) -> str:
    return kind if isinstance(kind, str) else json.dumps(kind, sort_keys=True)


def _delta_field(name: str, kind: str) -> dict[str, Any]:
    return {"name": name, "type": json.loads(kind) if kind.startswith("{") else kind, "nullable": True, "metadata": {}}


def _schema(columns: Mapping[str, str]) -> Schema:
    fields = [_delta_field(*each) for each in columns.items()]
    try:
        return Schema.from_json(json.dumps({"type": "struct", "fields": fields}))
    except ValueError as error:  # two names that differ in case only
        raise BadInputError("the columns are not those of a Delta table", got=str(error)) from error
