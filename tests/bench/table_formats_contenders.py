"""The contenders of table_formats.py, in the environment that it makes. `publish FORMAT` or `log FORMAT NIGHTS`."""

# ruff: noqa: PLC0415 - a run imports the libraries of its contender only

import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FIRST: Final = date(2016, 1, 1)
ROWS: Final = 10_000
DAYS: Final = (1, 30, 180)
READS: Final = 10
STAMP: Final = pa.timestamp("us", "UTC")
SCHEMA: Final = pa.schema([
    ("transaction_id", pa.string()), ("event_timestamp", STAMP), ("created_timestamp", STAMP), ("user_id", pa.string()),
    ("merchant_id", pa.string()), ("amount", pa.float64()), ("card_present", pa.bool_()), ("country", pa.string()),
    ("device_id", pa.string()), ("distance_from_home", pa.float64()), ("merchant_category", pa.string()),
])  # fmt: skip
Object = tuple[date, str, int, int]
"""Day, path below the table, bytes, rows."""


def rows_of(day: date, seed: int = 0) -> pa.Table:
    random = np.random.default_rng([seed, day.toordinal()])
    start = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1e6)
    at = np.sort(random.integers(start, start + 86_400_000_000, ROWS))
    ids = [f"{n:032x}" for n in random.integers(0, 2**63, ROWS).tolist()]
    return pa.table(
        [
            ids, pa.array(at, STAMP), pa.array(at, STAMP),
            [f"u{n}" for n in random.integers(0, 5_000, ROWS)], [f"m{n}" for n in random.integers(0, 2_000, ROWS)],
            random.lognormal(3, 1, ROWS).round(2), random.random(ROWS) < 0.8,
            [("US", "DE", "FR")[n] for n in random.integers(0, 3, ROWS)],
            [f"d{n}" for n in random.integers(0, 9_000, ROWS)], random.exponential(20, ROWS),
            [f"c{n}" for n in random.integers(0, 14, ROWS)],
        ],
        SCHEMA,
    )  # fmt: skip


def put(root: Path, day: date, table: pa.Table) -> Object:
    """One object, named by its content, durable when the function returns."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    data = buffer.getvalue()
    path = f"dt={day}/{sha256(data).hexdigest()[:24]}.parquet"
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return day, path, len(data), table.num_rows


class Format(Protocol):
    def publish(self, objects: Iterable[Object]) -> None: ...
    def read(self, day: date) -> int: ...


class Delta:
    """Our objects as add actions of one commit; replaced ones as remove actions."""

    def __init__(self, root: Path, configuration: dict[str, str] | None = None, *, hooks: bool = True) -> None:
        from deltalake import DeltaTable, Schema
        from deltalake.transaction import AddAction, CommitProperties, PostCommitHookProperties, RemoveAction

        self.root, self.open, self.add, self.remove = root, DeltaTable, AddAction, RemoveAction
        self.schema = Schema.from_arrow(SCHEMA.append(pa.field("dt", pa.date32())))
        self.retries = CommitProperties(max_commit_retries=0)
        self.hooks = PostCommitHookProperties(create_checkpoint=hooks, cleanup_expired_logs=hooks)
        DeltaTable.create(str(root), schema=self.schema, partition_by=["dt"], configuration=configuration)

    def publish(self, objects: Iterable[Object]) -> None:
        table, now = self.open(str(self.root)), int(time.time() * 1e3)
        days = sorted({str(day) for day, *_ in objects})
        published = pa.table(table.get_add_actions(flatten=True)).select(["path", "size_bytes", "partition.dt"])
        old = {
            path: (size, day)
            for path, size, day in zip(*(c.to_pylist() for c in published.columns), strict=True)
            if str(day) in set(days)
        }
        actions: list[Any] = [
            self.add(path, size, {"dt": str(day)}, now, True, json.dumps({"numRecords": rows}))
            for day, path, size, rows in objects
        ]
        actions += [self.remove(path, True, now, size, {"dt": str(day)}) for path, (size, day) in old.items()]
        table.create_write_transaction(
            actions, mode="append", schema=self.schema, partition_by=["dt"], commit_properties=self.retries,
            post_commithook_properties=self.hooks,
        )  # fmt: skip

    def uris(self, day: date) -> list[str]:
        found: list[str] = self.open(str(self.root)).file_uris([("dt", "=", str(day))])
        return found

    def read(self, day: date) -> int:
        tables = [pq.ParquetFile(uri.removeprefix("file://")).read() for uri in self.uris(day)]
        return pa.concat_tables(tables).num_rows


class UncheckedDelta(Delta):
    """A log that never gets a checkpoint. Commits are written as text, because making one takes longer with each."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, hooks=False)
        self.current: dict[date, str] = {}
        self.version = 0

    def publish(self, objects: Iterable[Object]) -> None:
        self.version += 1
        actions: list[dict[str, Any]] = [{"commitInfo": {"timestamp": self.version, "operation": "WRITE"}}]
        for day, path, size, rows in objects:
            shared = {"partitionValues": {"dt": str(day)}, "size": size, "dataChange": True}
            if day in self.current:
                removed = {"path": self.current[day], "deletionTimestamp": self.version, "extendedFileMetadata": True}
                actions.append({"remove": removed | shared})
            stats = json.dumps({"numRecords": rows})
            actions.append({"add": {"path": path, "modificationTime": self.version, "stats": stats} | shared})
            self.current[day] = path
        target = self.root / f"_delta_log/{self.version:020d}.json"
        target.write_text("".join(json.dumps(action) + "\n" for action in actions))


class Iceberg:
    """Our objects as data files of one overwriting snapshot; a SQL catalog on SQLite."""

    def __init__(self, root: Path, properties: dict[str, str] | None = None) -> None:
        from pyiceberg.catalog.sql import SqlCatalog
        from pyiceberg.transforms import DayTransform

        self.root, self.catalog = root, SqlCatalog("c", uri=f"sqlite:///{root}/catalog.db", warehouse=f"file://{root}")
        self.catalog.create_namespace("lake")
        table = self.catalog.create_table("lake.t", schema=SCHEMA, properties=properties or {})
        with table.update_spec() as spec:
            spec.add_field("event_timestamp", DayTransform(), "dt")

    def files(self, table: Any, day: date) -> list[Any]:  # noqa: ANN401 - a library of another environment
        rows = f"event_timestamp >= '{day}T00:00:00+00:00' and event_timestamp < '{day + timedelta(1)}T00:00:00+00:00'"
        return [task.file for task in table.scan(row_filter=rows).plan_files()]

    def data_files(self, table: Any, objects: Iterable[Object]) -> list[Any]:  # noqa: ANN401
        from pyiceberg.io.pyarrow import parquet_files_to_data_files  # what `add_files` does

        paths = [f"file://{self.root}/{path}" for _, path, *_ in objects]
        return list(parquet_files_to_data_files(table.io, table.metadata, iter(paths)))

    def publish(self, objects: Iterable[Object]) -> None:
        from pyiceberg.table import TableProperties

        table, objects = self.catalog.load_table("lake.t"), list(objects)
        with table.transaction() as transaction:
            if table.name_mapping() is None:
                mapping = table.schema().name_mapping.model_dump_json()
                transaction.set_properties(**{TableProperties.DEFAULT_NAME_MAPPING: mapping})
            with transaction.update_snapshot().overwrite() as snapshot:
                for day in {day for day, *_ in objects}:
                    for old in self.files(table, day):
                        snapshot.delete_data_file(old)
                for file in self.data_files(table, objects):
                    snapshot.append_data_file(file)

    def read(self, day: date) -> int:
        table = self.catalog.load_table("lake.t")
        return pa.concat_tables(
            [pq.ParquetFile(f.file_path.removeprefix("file://")).read() for f in self.files(table, day)]
        ).num_rows


class Manifests:
    """A manifest per day, as `fraud.lake.dataset` of the checkout writes it."""

    def __init__(self, root: Path) -> None:
        from fraud.lake.dataset import DataObject, Dataset

        self.dataset, self.object = Dataset(f"file://{root.parent}", root.name), DataObject

    def publish(self, objects: Iterable[Object]) -> None:
        for day, path, size, rows in objects:
            name = path.split("/")[-1]
            self.dataset.commit(str(day), [self.object(name=name, rows=rows, bytes=size, sha256=name[:24] * 2)])

    def read(self, day: date) -> int:
        assert str(day) in self.dataset.partitions()
        return self.dataset.read(str(day)).num_rows


def timed(call: Any, *arguments: Any) -> float:  # noqa: ANN401
    began = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - began


def days(n: int) -> list[date]:
    return [FIRST + timedelta(k) for k in range(n)]


MAKE: Final[dict[str, Any]] = {"delta": Delta, "iceberg": Iceberg, "manifests": Manifests}


def publish(name: str) -> dict[str, float]:
    """Seconds of the commit of 1, 30 and 180 days, of three of them replaced, and of reading one of 180 days."""
    found: dict[str, float] = {}
    for n in DAYS:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / "t"
            root.mkdir()
            table = MAKE[name](root)
            began = time.perf_counter()
            objects = [put(root, day, rows_of(day)) for day in days(n)]
            written = time.perf_counter() - began
            found[f"commit_{n}_s"] = timed(table.publish, objects)
            if n == DAYS[-1]:
                found[f"write_objects_{n}_s"] = written
                late = [put(root, day, rows_of(day, 1)) for day in days(n)[-3:]]
                found["replace_3_of_180_s"] = timed(table.publish, late)
                middle = days(n)[n // 2]
                assert table.read(middle) == ROWS
                found["read_1_of_180_ms"] = 1e3 * min(timed(table.read, middle) for _ in range(READS))
    return found


class Night(NamedTuple):
    new: Object
    old: Object | None
    """The day before, which is replaced."""


def nightly(n: int) -> Iterable[list[Object]]:
    """Objects that do not exist: each night brings a day and replaces the one before."""
    for k, day in enumerate(days(n)):
        yesterday = [(days_before(day), f"dt={days_before(day)}/{k:024d}b.parquet", 500_000, ROWS)] if k else []
        yield [(day, f"dt={day}/{k:024d}a.parquet", 500_000, ROWS), *yesterday]


def days_before(day: date) -> date:
    return day - timedelta(1)


def log(name: str, n: int) -> dict[str, float]:
    """Size of the log after n nightly commits, and the time to open the table and find the objects of one day."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "t"
        root.mkdir()
        table = simulated(name, root)
        last: list[float] = []
        for k, objects in enumerate(nightly(n)):
            last.append(timed(table.publish, objects))
            if name == "delta":  # as if the nights were days apart: clean-up goes by the age of the files
                at = time.time() - 86_400 * (n - k)
                for path in (root / "_delta_log").glob(f"{k + 1:020d}.*"):
                    os.utime(path, (at, at))
        logs = [path for path in root.rglob("*") if path.is_file() and "dt=" not in path.parts[-2]]
        if name == "manifests":
            logs = list(root.rglob("_manifest.json"))
        middle = days(n)[n // 2]
        return {
            f"log_{n}_mb": sum(path.stat().st_size for path in logs) / 1e6,
            f"log_{n}_files": len(logs),
            f"open_{n}_ms": 1e3 * min(timed(find, name, table, middle) for _ in range(READS)),
            f"commit_after_{n}_ms": 1e3 * sorted(last[-20:])[10],
            f"commit_slowest_of_last_200_{n}_ms": 1e3 * max(last[-200:]),
        }


def find(name: str, table: Any, day: date) -> None:  # noqa: ANN401
    """Open the table and find the objects of one day."""
    if name.startswith("delta"):
        found = table.uris(day)
    elif name.startswith("iceberg"):
        found = table.files(table.catalog.load_table("lake.t"), day)
    else:
        assert str(day) in table.dataset.partitions()
        found = table.dataset.object_uris(str(day))
    assert len(found) == 1, found


def simulated(name: str, root: Path) -> Any:  # noqa: ANN401
    if name == "delta":
        return Delta(root, {"delta.checkpointInterval": "30", "delta.logRetentionDuration": "interval 30 days"})
    if name == "delta_without_checkpoints":
        return UncheckedDelta(root)
    if name == "manifests":
        return Manifests(root)
    kept = {
        "write.metadata.delete-after-commit.enabled": "true",
        "write.metadata.previous-versions-max": "30",
        "commit.manifest-merge.enabled": "true",
    }
    return SimulatedIceberg(root, kept if name == "iceberg" else None)


class SimulatedIceberg(Iceberg):
    """Data files that do not exist, of which only the entry in a manifest is written; snapshots expire after 30."""

    def __init__(self, root: Path, properties: dict[str, str] | None) -> None:
        super().__init__(root, properties)
        self.expire = properties is not None
        self.current: dict[date, Any] = {}

    def data_files(self, table: Any, objects: Iterable[Object]) -> list[Any]:  # noqa: ANN401
        from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
        from pyiceberg.typedef import Record

        column = table.schema().find_field("event_timestamp").field_id
        return [
            DataFile.from_args(
                content=DataFileContent.DATA, file_path=f"file://{self.root}/{path}", file_format=FileFormat.PARQUET,
                partition=Record(day.toordinal() - date(1970, 1, 1).toordinal()), record_count=rows,
                file_size_in_bytes=size, column_sizes={}, value_counts={column: rows}, null_value_counts={},
                nan_value_counts={}, lower_bounds={}, upper_bounds={}, spec_id=table.spec().spec_id, sort_order_id=None,
            )
            for day, path, size, rows in objects
        ]  # fmt: skip

    def publish(self, objects: Iterable[Object]) -> None:
        super().publish(objects)
        if self.expire:
            table = self.catalog.load_table("lake.t")
            old = [snapshot.snapshot_id for snapshot in sorted(table.snapshots(), key=lambda s: s.timestamp_ms)[:-30]]
            if old:
                with table.maintenance.expire_snapshots() as expired:
                    expired.by_ids(old)


if __name__ == "__main__":
    if sys.argv[1] == "publish":
        print(json.dumps(publish(sys.argv[2])))
    else:
        print(json.dumps(log(sys.argv[2], int(sys.argv[3]))))
