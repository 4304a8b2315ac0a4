"""Build the daily snapshots whose inputs changed: first the parts of changed event days, then the snapshots.

A part depends on its day's transactions and on the labels of the days from which a snapshot can use them. A snapshot
depends on what the parts of its days knew when it began (`daily_parts.Days`), so a late row or label changes the
snapshots that know it, and no older one.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date, timedelta
from hashlib import sha256
from typing import Any, Final, NamedTuple

import pyarrow as pa
from pydantic import Field

from fraud.core.daily import Table
from fraud.core.declaration import Declaration
from fraud.core.plan import tables
from fraud.errors import BadInputError
from fraud.features.engines import daily_parts
from fraud.features.engines.daily_parts import Days
from fraud.features.engines.daily_snapshots import Parts, parts_of, snapshot
from fraud.job import Context, JobConfig, JobResult
from fraud.lake import catalog, declarations
from fraud.lake.dataset import DatasetVersion
from fraud.lake.labels import NO_LABELS
from fraud.lake.objects import DataObject
from fraud.lake.records import Partition

PART_ROWS_IN_MEMORY: Final = 8_000_000
"""Rows of parts in memory at once, about 60 bytes each. More snapshots are built in several steps."""
_EPOCH: Final = date(1970, 1, 1)
Each = Callable[[Callable[[Any], Any], list[Any], Callable[[Any], int]], list[Any]]
"""`fraud.lake.spark.run_tasks` on a session: (task, inputs, rows of an input) -> results."""


class Config(JobConfig):
    """The declarations whose daily tables are built: the project's, and with `live` those of versions with an alias."""

    live: bool = Field(default=False, description="also the tables of versions with an alias")
    full: bool = Field(default=False, description="also build days whose inputs did not change")


class Result(JobResult):
    """Counts over all daily tables."""

    tables: int
    parts_built: int
    """Event days that were aggregated."""
    days_built: int
    """Snapshots that were built."""
    days_changed: int
    """Built snapshots whose published content changed."""
    days_unchanged: int
    """Snapshots that were up to date."""
    rows: int
    """Transactions of the event days that were aggregated."""
    first_day: str
    last_day: str


def run(config: Config, context: Context) -> Result:
    """Build the daily tables of the declarations. Raises BadInputError when the lake has no transactions."""
    declared = [context.declaration, *(context.live_declarations() if config.live else ())]
    return _built(declared, context, full=config.full)


def build(declaration: Declaration, context: Context) -> Result:
    """Build the daily tables of one declaration. Raises BadInputError when the lake has no transactions."""
    return _built([declaration], context, full=False)


def stale_days(declaration: Declaration, lake_uri: str) -> list[str]:
    """The days of transactions and of snapshots that `build` would build. Raises BadInputError without transactions."""
    with ThreadPoolExecutor(1) as threads:
        inputs = _Inputs(lake_uri, threads)
        stale: set[int] = set()
        for table in tables(declaration):
            plan = _Plan(table, inputs)
            stale |= {day for day in plan.part_days if not plan.is_fresh(day)}
            stale |= {day for day in plan.days if not plan.is_built(day, plan.fingerprint(day))}
    return [_text(day) for day in sorted(stale)]


def _built(declared: Sequence[Declaration], context: Context, *, full: bool) -> Result:
    lake_uri = context.settings.lake_uri
    for declaration in declared:
        declarations.record(lake_uri, declaration)
    unique = {table.id: table for declaration in declared for table in tables(declaration)}
    counts = Counter[str]()
    days: list[int] = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        inputs = _Inputs(lake_uri, threads)
        for table in unique.values():
            plan = _Plan(table, inputs)
            stale_parts = [day for day in plan.part_days if full or not plan.is_fresh(day)]
            context.log.info("building a daily table", entity=table.entity, table=table.id, days=len(stale_parts))
            with _engine(context, work=bool(stale_parts)) as each:
                _build_parts(plan, stale_parts, inputs, each)
                fingerprints = {day: plan.fingerprint(day) for day in plan.days}
                stale = [day for day in plan.days if full or not plan.is_built(day, fingerprints[day])]
                counts["changed"] += _build_snapshots(plan, stale, fingerprints, threads, each)
            counts["parts"] += len(stale_parts)
            counts["built"] += len(stale)
            counts["unchanged"] += len(plan.days) - len(stale)
            counts["rows"] += sum(inputs.transactions[day].rows for day in stale_parts)
            days += plan.days
    return Result(
        tables=len(unique), parts_built=counts["parts"], days_built=counts["built"], days_changed=counts["changed"],
        days_unchanged=counts["unchanged"], rows=counts["rows"], first_day=_text(min(days)) if days else "",
        last_day=_text(max(days)) if days else "",
    )  # fmt: skip


def _number(day: str) -> int:
    return (date.fromisoformat(day) - _EPOCH).days


def _text(day: int) -> str:
    return (_EPOCH + timedelta(day)).isoformat()


def _by_number(dataset: DatasetVersion) -> dict[int, Partition]:
    return {_number(day): partition for day, partition in dataset.contents.partitions.items()}


class _Inputs:
    """The partitions of transactions and labels, by day."""

    def __init__(self, lake_uri: str, threads: ThreadPoolExecutor) -> None:
        self.lake_uri, self.threads = lake_uri, threads
        self.transactions_read, self.labels_read = (
            definition.at(lake_uri).open() for definition in (catalog.TRANSACTIONS, catalog.LABELS)
        )
        self.transactions = _by_number(self.transactions_read)
        if not self.transactions:
            raise BadInputError("the lake has no transactions", hint="fraud ingest")
        self.labels = _by_number(self.labels_read)
        watermark = self.transactions_read.retention_watermark()
        self.first_kept = _number(watermark) if watermark else None

    def reports(self, table: Table, days: Sequence[int]) -> pa.Table:
        """The reports of fraud that the parts of these days need."""
        if not days or not daily_parts.uses_labels(table):
            return NO_LABELS
        first, end = min(days) - daily_parts.EARLY_LABEL_DAYS, max(days) + table.days_before
        chosen = [_text(day) for day in sorted(self.labels) if first <= day < end]
        return daily_parts.fraud_reports(self.labels_read, chosen, self.threads)


class _Plan:
    """What of one table is up to date."""

    def __init__(self, table: Table, inputs: _Inputs) -> None:
        self.table, self._inputs = table, inputs
        self.parts = catalog.daily_parts(table).at(inputs.lake_uri)
        self.snapshots = catalog.daily(table).at(inputs.lake_uri)
        self.schema = catalog.daily_schema(table)
        snapshots = self.snapshots.open()
        self._parts, self._built = _by_number(self.parts.open()), _by_number(snapshots)
        self.known = {
            day: Days.from_json(partition.made_from["known"])
            for day, partition in self._parts.items() if day in inputs.transactions
        }  # fmt: skip
        first, last = min(inputs.transactions) + 1, max(inputs.transactions) + 1
        if inputs.first_kept is not None:  # days before were expired: an older snapshot would lack them
            first = max(first, inputs.first_kept + table.days_before)
        if watermark := snapshots.retention_watermark():
            first = max(first, _number(watermark))
        self.days = list(range(first, last + 1))
        self.part_days = [day for day in sorted(inputs.transactions) if day >= first - table.days_before]
        spans = [(f.first_day_before - f.span_days, f.first_day_before) for f in table.features]
        self._row_offsets = {o for low, high in spans for o in range(low + 1, high + 1)}
        self._label_offsets = {
            o for f, (low, high) in zip(table.features, spans, strict=True) if f.aggregate == "fraud_rate"
            for o in range(low + 1, high + 1)
        }  # fmt: skip

    def made_from(self, day: int) -> dict[str, str]:
        """The inputs of a part."""
        labels = ""
        if daily_parts.uses_labels(self.table):
            near = range(day - daily_parts.EARLY_LABEL_DAYS, day + self.table.days_before)
            found = self._inputs.labels
            named = "\n".join(f"{_text(d)} {found[d].content_sha256}" for d in near if d in found)
            labels = sha256(named.encode()).hexdigest()
        return {"transactions": self._inputs.transactions[day].content_sha256, "labels": labels}

    def is_fresh(self, day: int) -> bool:
        """Whether the part of a day is up to date."""
        part = self._parts.get(day)
        return part is not None and {**part.made_from, **self.made_from(day)} == part.made_from

    def publish_parts(self, made: Iterable[tuple[int, DataObject, Days]]) -> None:
        """Publish the parts of days, in one commit."""
        parts = []
        for day, written, known in made:
            made_from = {**self.made_from(day), "known": known.to_json()}
            self._parts[day] = Partition(name=_text(day), objects=(written,), made_from=made_from)
            self.known[day] = known
            parts.append(self._parts[day])
        self.parts.commit(parts)

    def inputs_of(self, day: int) -> list[int]:
        """The parts that a snapshot reads."""
        return [day - o for o in sorted(self._row_offsets, reverse=True) if day - o in self.known]

    def part_rows(self, day: int) -> int:
        return self._parts[day].rows

    def part_uris(self, day: int) -> tuple[str, ...]:
        return tuple(self.parts.uris_of(self._parts[day]))

    def fingerprint(self, day: int) -> str:
        """Hash of what was known of the parts of a snapshot when its day began."""
        lines = []
        for part in self.inputs_of(day):
            known = self.known[part]
            rows = daily_parts.known_before(known.rows, day)
            labels = daily_parts.known_before(known.labels, day) if day - part in self._label_offsets else ""
            if rows:
                lines.append(f"{_text(part)} {rows} {labels}")
        return sha256("\n".join(lines).encode()).hexdigest()

    def is_built(self, day: int, fingerprint: str) -> bool:
        """Whether the snapshot of a day is up to date."""
        built = self._built.get(day)
        return built is not None and built.made_from == {"known": fingerprint}

    def publish(self, made: Iterable[tuple[int, DataObject]], fingerprints: Mapping[int, str]) -> int:
        """Publish the snapshots of days, in one commit. Returns the number of those whose content changed."""
        new = {
            day: Partition(name=_text(day), objects=(written,), made_from={"known": fingerprints[day]})
            for day, written in made
        }
        self.snapshots.commit(new.values())
        before = {day: partition.content_sha256 for day, partition in self._built.items()}
        return sum(partition.content_sha256 != before.get(day) for day, partition in new.items())


@contextmanager
def _engine(context: Context, *, work: bool) -> Iterator[Each | None]:
    """Runs a function for each of many inputs on Spark; None for one machine."""
    if context.settings.feature_engine == "one-machine" or not work:
        yield None
        return
    from fraud.lake.spark import run_tasks, spark_session  # noqa: PLC0415 - Spark is imported only if needed

    with spark_session(context.settings, "build-daily") as session:
        yield lambda task, inputs, rows: run_tasks(session, task, inputs, rows, context.log)


class _PartTask(NamedTuple):
    day: int
    uris: tuple[str, ...]
    rows: int


def _build_parts(plan: _Plan, days: list[int], inputs: _Inputs, each: Each | None) -> None:
    table, parts, reports = plan.table, plan.parts, inputs.reports(plan.table, days)
    columns = daily_parts.transaction_columns([table])

    def make(task: _PartTask) -> tuple[int, DataObject, Days]:
        rows = daily_parts.read_columns(task.uris, columns)
        made, known = daily_parts.part(table, task.day, rows, reports)
        return task.day, parts.put(_text(task.day), made, dictionary=False), known

    uris = inputs.transactions_read.object_uris
    tasks = [_PartTask(day, tuple(uris(_text(day))), inputs.transactions[day].rows) for day in days]
    made = each(make, tasks, lambda task: task.rows) if each else inputs.threads.map(make, tasks)
    plan.publish_parts(made)


class _SnapshotTask(NamedTuple):
    day: int
    parts: tuple[tuple[int, tuple[str, ...]], ...]
    """Event days and the URIs of their parts' objects."""
    rows: int


def _build_snapshots(
    plan: _Plan, days: list[int], fingerprints: Mapping[int, str], threads: ThreadPoolExecutor, each: Each | None
) -> int:
    """Build and publish snapshots. Returns how many changed."""
    table, snapshots, schema = plan.table, plan.snapshots, plan.schema
    names = catalog.part_schema(table).names

    def read(part: tuple[int, tuple[str, ...]]) -> tuple[int, pa.Table]:
        return part[0], daily_parts.read_columns(part[1], names)

    def put(day: int, parts: Parts) -> DataObject:
        return snapshots.put(_text(day), snapshot(table, parts, day, schema), dictionary=False)

    tasks = [
        _SnapshotTask(
            day, tuple((part, plan.part_uris(part)) for part in plan.inputs_of(day)),
            sum(map(plan.part_rows, plan.inputs_of(day))),
        )
        for day in days
    ]  # fmt: skip
    if each is not None:
        made = each(lambda task: put(task.day, parts_of(table, dict(map(read, task.parts)))), tasks, lambda t: t.rows)
        return plan.publish(zip(days, made, strict=True), fingerprints)
    written: list[DataObject] = []
    for chunk in _chunks(tasks, plan):
        needed = sorted({part for task in chunk for part in task.parts})
        parts = parts_of(table, dict(threads.map(read, needed)))
        written += threads.map(lambda task, parts=parts: put(task.day, parts), chunk)
    return plan.publish(zip(days, written, strict=True), fingerprints)


def _chunks(tasks: list[_SnapshotTask], plan: _Plan) -> Iterator[list[_SnapshotTask]]:
    """Split tasks, in order of days, so that the parts of a chunk have at most PART_ROWS_IN_MEMORY rows."""
    chunk: list[_SnapshotTask] = []
    held: set[int] = set()
    for task in tasks:
        needed = held.union(part for part, _ in task.parts)
        if chunk and sum(map(plan.part_rows, needed)) > PART_ROWS_IN_MEMORY:
            yield chunk
            chunk, needed = [], {part for part, _ in task.parts}
        chunk.append(task)
        held = needed
    if chunk:
        yield chunk
