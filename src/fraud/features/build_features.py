"""Build the window and daily features of the days whose inputs changed.

The inputs of a day are its own rows, the look-back of the longest window of any entity, the daily snapshots that hold
on the day and, where events were late, other partitions that affect the history of its entities (`_inputs`). A day is
built again when one of its inputs changed. Each declaration has its own dataset; declarations whose features have the
same meaning share one (`Declaration.stored_hash`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import pyarrow.parquet as pq
from pydantic import Field

from fraud import declaration_file
from fraud.core.contract import US_PER_DAY
from fraud.core.declaration import Declaration
from fraud.core.plan import tables
from fraud.errors import BadInputError
from fraud.job import Context, JobConfig, JobResult
from fraud.lake import catalog
from fraud.lake.dataset import DatasetVersion
from fraud.lake.objects import DataObject, opened
from fraud.lake.records import Partition

if TYPE_CHECKING:
    from fraud.features.days import Part

Build = Callable[[list["Part"]], Iterator[tuple[str, list[DataObject]]]]
ROWS_IN_MEMORY = 6_000_000
"""Input rows in memory at once on one machine. More days are built in several steps."""
ROWS_ON_SPARK = 200_000_000
"""Input rows that are shuffled at once, about 50 bytes per row and entity on the disks of the workers. More days are
built in several steps, which read their look-back again."""
_ONE_DAY: Final = timedelta(days=1)


class Config(JobConfig):
    """The days to build. Without bounds: all days of the lake that are not up to date.

    Features are built for the project's declaration, for `declaration`, and with `live` for those of versions with an
    alias.
    """

    first: date | None = Field(default=None, alias="from", description="first day")
    last: date | None = Field(default=None, alias="to", description="last day")
    full: bool = Field(default=False, description="also build days whose inputs did not change")
    declaration: Path | None = Field(default=None, description="also the features of this declaration file")
    live: bool = Field(default=False, description="also the features of versions with an alias")


class Result(JobResult):
    """Numbers of days and rows, over all declarations."""

    declarations: int
    """Datasets of features: declarations with different window and daily features."""
    days_built: int
    days_changed: int
    """Built days whose published content changed."""
    days_unchanged: int
    """Days that were up to date and were not read."""
    rows: int
    """Rows of the built days."""
    first_day: str
    last_day: str


class Source(NamedTuple):
    """One partition of transactions, for planning."""

    sha256: str
    objects: tuple[tuple[str, int], ...]
    """URI and rows of each data object."""
    rows: int
    first_ingested: datetime | None
    last_ingested: datetime | None
    """Earliest and latest created_timestamp; None without rows."""


def run(config: Config, context: Context) -> Result:
    """Build the features of the declarations. Raises BadInputError when the lake has no, or unsorted, transactions."""
    declared = [context.declaration]
    if config.declaration:
        declared.append(declaration_file.load(config.declaration))
    if config.live:
        declared += context.live_declarations()
    results = [build(each, config, context) for each in {each.stored_hash: each for each in declared[::-1]}.values()]
    return Result(
        declarations=len(results), days_built=sum(r.days_built for r in results),
        days_changed=sum(r.days_changed for r in results), days_unchanged=sum(r.days_unchanged for r in results),
        rows=sum(r.rows for r in results), first_day=results[-1].first_day, last_day=results[-1].last_day,
    )  # fmt: skip


def build(declaration: Declaration, config: Config, context: Context) -> Result:
    """Build the days of one declaration that are not up to date. Raises the errors of `run`."""
    lake_uri = context.settings.lake_uri
    transactions, target = (
        catalog.TRANSACTIONS.at(lake_uri).open(),
        catalog.features(declaration.stored_hash).at(lake_uri),
    )
    features = target.open()
    sources = {day: _source(transactions, day) for day in transactions.partitions()}
    if not sources:
        raise BadInputError("the lake has no transactions", hint="fraud ingest")
    first = config.first.isoformat() if config.first else min(sources)
    last = config.last.isoformat() if config.last else max(sources)
    # Transactions before the watermark are kept for the look-back only. Such a day would be built without its own one.
    requested = [day for day in sources if max(first, features.retention_watermark()) <= day <= last]
    look_back = _look_back(declaration)
    inputs = {day: _inputs(day, sources, look_back) for day in requested}
    made_from = _Fingerprints(declaration, lake_uri, sources)
    stale = [
        day
        for day in requested
        if config.full or not _up_to_date(features.partition(day), made_from.of(day, inputs[day]))
    ]
    for table in tables(declaration) if stale else ():
        if not catalog.daily(table).at(lake_uri).partitions():
            context.log.warning(
                "no snapshot, daily features get their defaults", table=table.id, hint="fraud build-daily"
            )
    of_killed_run = {} if config.full else target.staged()
    built = [of_killed_run[d] for d in stale if _up_to_date(of_killed_run.get(d), made_from.of(d, inputs[d]))]
    to_build = [day for day in stale if day not in {partition.name for partition in built}]
    with _engine(context, declaration, made_from.snapshots, work=bool(to_build)) as (build_days, rows_at_once):
        for chunk in _chunks(to_build, inputs, sources, rows_at_once):
            context.log.info("building features", first=chunk[0], last=chunk[-1], days=len(chunk))
            for day, objects in build_days(_parts(chunk, inputs, sources, look_back)):
                built.append(Partition(name=day, objects=tuple(objects), made_from=made_from.of(day, inputs[day])))
                target.stage(built[-1])
    target.commit(built)
    changed = sum(partition.content_sha256 != features.content_sha256(partition.name) for partition in built)
    return Result(
        declarations=1, days_built=len(stale), days_changed=changed, days_unchanged=len(requested) - len(stale),
        rows=sum(sources[day].rows for day in stale), first_day=min(requested, default=first),
        last_day=max(requested, default=last),
    )  # fmt: skip


def stale_days(
    declaration: Declaration, lake_uri: str, transactions: DatasetVersion, features: DatasetVersion, days: Sequence[str]
) -> list[str]:
    """Those of `days` whose features were not built from these transactions and the present daily snapshots."""
    sources = {day: _source(transactions, day) for day in transactions.partitions()}
    made_from, look_back = _Fingerprints(declaration, lake_uri, sources), _look_back(declaration)
    return [
        day for day in days
        if not _up_to_date(features.partition(day), made_from.of(day, _inputs(day, sources, look_back)))
    ]  # fmt: skip


def _look_back(declaration: Declaration) -> timedelta:
    """The whole days before a day that contain every window of its rows."""
    longest = max((feature.window_us for feature in declaration.windows()), default=0)
    return timedelta(days=-(-longest // US_PER_DAY))


@contextmanager
def _engine(
    context: Context, declaration: Declaration, snapshots: Mapping[str, DatasetVersion], *, work: bool
) -> Iterator[tuple[Build, int]]:
    """The build function of `settings.feature_engine`, and the number of input rows of a step."""
    from fraud.features import days  # noqa: PLC0415 - numba is slow to import

    target = days.Target(context.settings.lake_uri, declaration, snapshots)
    if context.settings.feature_engine == "one-machine" or not work:
        yield partial(days.build_here, target), ROWS_IN_MEMORY
        return
    from fraud.features.engines.spark_days import build_on_spark  # noqa: PLC0415
    from fraud.lake.spark import spark_session  # noqa: PLC0415 - Spark is imported only if needed

    with spark_session(context.settings, "build-features") as session:
        yield lambda parts: build_on_spark(session, target, parts, context.log), ROWS_ON_SPARK


def _source(transactions: DatasetVersion, day: str) -> Source:
    partition = transactions.contents.partitions[day]
    ingested: list[datetime] = []
    uris = transactions.object_uris(day)
    for uri in uris:
        with opened(uri) as file:
            footer = pq.read_metadata(file)
        column = footer.schema.to_arrow_schema().get_field_index("created_timestamp")
        for group in range(footer.num_row_groups):
            bounds = footer.row_group(group).column(column).statistics
            ingested += [bounds.min, bounds.max] if bounds else []  # an empty group has none
    objects = tuple((uri, made.rows) for uri, made in zip(uris, partition.objects, strict=True))
    return Source(
        partition.content_sha256, objects, partition.rows, min(ingested, default=None), max(ingested, default=None)
    )  # fmt: skip


def _inputs(day: str, sources: Mapping[str, Source], look_back: timedelta) -> list[str]:
    """The partitions of transactions that can affect the window features of `day`.

    These are the day and its look-back, which contains every event of its windows. An older partition is an input when
    it has rows ingested after the first row of the look-back: they may displace events from the bounded history. A
    newer partition is an input when it has rows ingested before the last row of the day.
    """
    since = (date.fromisoformat(day) - look_back).isoformat()
    near = [p for p in sources if since <= p <= day]
    began = min((s.first_ingested for p in near if (s := sources[p]).first_ingested), default=None)
    ended = sources[day].last_ingested
    if began is None or ended is None:
        return near
    older = [p for p, s in sources.items() if p < since and s.last_ingested and s.last_ingested > began]
    newer = [p for p, s in sources.items() if p > day and s.first_ingested and s.first_ingested < ended]
    return [*older, *near, *newer]


class _Fingerprints:
    """The `made_from` of the features of a day."""

    def __init__(self, declaration: Declaration, lake_uri: str, sources: Mapping[str, Source]) -> None:
        self._declaration, self._sources = declaration, sources
        self.snapshots = {table.id: catalog.daily(table).at(lake_uri).open() for table in tables(declaration)}
        self._content: dict[tuple[str, str], str] = {}

    def of(self, day: str, inputs: Sequence[str]) -> dict[str, str]:
        """The fingerprints of a day with these partitions of transactions as inputs."""
        named = "\n".join(f"{p} {self._sources[p].sha256}" for p in inputs)
        found = {
            "definition": self._declaration.stored_hash, "inputs": sha256(named.encode()).hexdigest(),
            "transactions": self._sources[day].sha256,
        }  # fmt: skip
        if self.snapshots:
            # A snapshot holds from its time of day until that time of the next day.
            held = ((date.fromisoformat(day) - _ONE_DAY).isoformat(), day)
            daily = "\n".join(f"{table} {d} {self._snapshot(table, d)}" for table in self.snapshots for d in held)
            found["daily"] = sha256(daily.encode()).hexdigest()
        return found

    def _snapshot(self, table: str, day: str) -> str:
        """Hash of the content of a snapshot; "" for none."""
        if (table, day) not in self._content:
            self._content[table, day] = self.snapshots[table].content_sha256(day)
        return self._content[table, day]


def _up_to_date(partition: Partition | None, made_from: dict[str, str]) -> bool:
    return partition is not None and partition.made_from == made_from


def _chunks(
    stale: list[str], inputs: Mapping[str, list[str]], sources: Mapping[str, Source], rows_at_once: int
) -> Iterator[list[str]]:
    """Split stale days into chunks with at most `rows_at_once` input rows; a single day may have more."""
    chunk: list[str] = []
    held: set[str] = set()
    for day in stale:
        needed = held.union(inputs[day])
        if chunk and sum(sources[p].rows for p in needed) > rows_at_once:
            yield chunk
            chunk, needed = [], set(inputs[day])
        chunk.append(day)
        held = needed
    if chunk:
        yield chunk


def _parts(
    chunk: list[str], inputs: Mapping[str, list[str]], sources: Mapping[str, Source], look_back: timedelta
) -> list["Part"]:
    """The parts of the input partitions that the days of a chunk need, in order of days."""
    from fraud.features.days import Part, Stored  # noqa: PLC0415 - numba is slow to import

    near_from = (date.fromisoformat(chunk[0]) - look_back).isoformat()
    needed = sorted({p for day in chunk for p in inputs[day]})
    began = min((s.first_ingested for p in needed if p >= near_from and (s := sources[p]).first_ingested), default=None)
    ended = max((s.last_ingested for day in chunk if (s := sources[day]).last_ingested), default=None)
    return [
        Part(
            day=p, objects=tuple(Stored(*stored) for stored in sources[p].objects),
            ingested_after=began if p < near_from else None, ingested_before=ended if p > chunk[-1] else None,
            to_build=p in chunk,
        )
        for p in needed
    ]  # fmt: skip
