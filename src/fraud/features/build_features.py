"""Build the window features of the days whose inputs changed.

The inputs of a day are its own rows, the look-back of the longest window and, where events were late, other partitions
that affect the history of its users (`_inputs`). A day is built again when one of its inputs or the feature definition
changed.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

import pyarrow.parquet as pq
from pydantic import Field

from fraud.core.contract import US_PER_DAY
from fraud.core.features import WINDOW_FEATURES, definition_hash
from fraud.errors import BadInputError, UnavailableError
from fraud.job import Context, JobConfig, JobResult
from fraud.lake import catalog
from fraud.lake.dataset import DataObject, Dataset, opened

if TYPE_CHECKING:
    from fraud.features.days import Part

Build = Callable[[list["Part"]], Iterator[tuple[str, list[DataObject]]]]
LOOK_BACK = timedelta(days=-(-max(feature.window_us for feature in WINDOW_FEATURES) // US_PER_DAY))
ROWS_IN_MEMORY = 6_000_000
"""Input rows in memory at once, per core (about 1 GiB). More days are built in several steps."""


class Config(JobConfig):
    """The days to build. Without bounds: all days of the lake that are not up to date."""

    first: date | None = Field(default=None, alias="from", description="first day")
    last: date | None = Field(default=None, alias="to", description="last day")
    full: bool = Field(default=False, description="also build days whose inputs did not change")


class Result(JobResult):
    """Numbers of days and rows."""

    days_built: int
    days_changed: int
    """Built days whose published content changed."""
    days_unchanged: int
    """Days that were up to date and were not read."""
    rows: int
    """Rows of the built days."""
    first_day: str
    last_day: str
    definition_hash: str


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
    """Build the days that are not up to date. Raises BadInputError when the lake has no, or unsorted, transactions."""
    transactions = catalog.TRANSACTIONS.at(context.settings.lake_uri)
    features = catalog.FEATURES.at(context.settings.lake_uri)
    sources = {day: _source(transactions, day) for day in transactions.partitions()}
    if not sources:
        raise BadInputError("the lake has no transactions", hint="fraud ingest")
    first = config.first.isoformat() if config.first else min(sources)
    last = config.last.isoformat() if config.last else max(sources)
    # Transactions before the watermark are kept for the look-back only. Such a day would be built without its own one.
    requested = [day for day in sources if max(first, features.retention_watermark()) <= day <= last]
    inputs = {day: _inputs(day, sources) for day in requested}
    made_from = {day: _made_from(day, inputs[day], sources) for day in requested}
    stale = [day for day in requested if config.full or not _up_to_date(features, day, made_from[day])]
    changed = 0
    with _engine(context, features, bool(stale)) as (build, rows_at_once):
        for chunk in _chunks(stale, inputs, sources, rows_at_once):
            context.log.info("building features", first=chunk[0], last=chunk[-1], days=len(chunk))
            for day, objects in build(_parts(chunk, inputs, sources)):
                before = features.manifest(day)
                after = features.commit(day, objects, made_from[day])
                changed += before is None or before.content_sha256 != after.content_sha256
    return Result(
        days_built=len(stale), days_changed=changed, days_unchanged=len(requested) - len(stale),
        rows=sum(sources[day].rows for day in stale), first_day=min(requested, default=first),
        last_day=max(requested, default=last), definition_hash=definition_hash(),
    )  # fmt: skip


@contextmanager
def _engine(context: Context, features: Dataset, work: bool) -> Iterator[tuple[Build, int]]:
    """The build function of `settings.feature_engine`, and the number of input rows it can process at once."""
    from fraud.features import days  # noqa: PLC0415 - numba is slow to import

    if context.settings.feature_engine == "one-machine" or not work:
        yield partial(days.build_here, features), ROWS_IN_MEMORY
        return
    from fraud.features.spark_days import build_on_spark  # noqa: PLC0415
    from fraud.lake.spark import spark_session  # noqa: PLC0415 - Spark is imported only if needed

    with spark_session(context.settings, "build-features") as session:
        rows_at_once = ROWS_IN_MEMORY * session.sparkContext.defaultParallelism
        yield lambda parts: build_on_spark(session, features, parts, context.log), rows_at_once


def _source(transactions: Dataset, day: str) -> Source:
    manifest = transactions.manifest(day)
    if manifest is None:
        raise UnavailableError(f"partition {day} of transactions was removed while being read", hint="run again")
    ingested: list[datetime] = []
    uris = transactions.object_uris(day)
    for uri in uris:
        with opened(uri) as file:
            footer = pq.read_metadata(file)
        column = footer.schema.to_arrow_schema().get_field_index("created_timestamp")
        for group in range(footer.num_row_groups):
            bounds = footer.row_group(group).column(column).statistics
            ingested += [bounds.min, bounds.max] if bounds else []  # an empty group has none
    objects = tuple((uri, made.rows) for uri, made in zip(uris, manifest.objects, strict=True))
    return Source(
        manifest.content_sha256, objects, manifest.rows, min(ingested, default=None), max(ingested, default=None)
    )  # fmt: skip


def _inputs(day: str, sources: Mapping[str, Source]) -> list[str]:
    """The partitions that can affect the features of `day`.

    These are the day and its look-back, which contains every event of its windows. An older partition is an input when
    it has rows ingested after the first row of the look-back: they may displace events from the bounded history. A
    newer partition is an input when it has rows ingested before the last row of the day.
    """
    since = (date.fromisoformat(day) - LOOK_BACK).isoformat()
    near = [p for p in sources if since <= p <= day]
    began = min((s.first_ingested for p in near if (s := sources[p]).first_ingested), default=None)
    ended = sources[day].last_ingested
    if began is None or ended is None:
        return near
    older = [p for p, s in sources.items() if p < since and s.last_ingested and s.last_ingested > began]
    newer = [p for p, s in sources.items() if p > day and s.first_ingested and s.first_ingested < ended]
    return [*older, *near, *newer]


def _made_from(day: str, inputs: list[str], sources: Mapping[str, Source]) -> dict[str, str]:
    named = "\n".join(f"{day} {sources[day].sha256}" for day in inputs)
    own = sources[day].sha256
    return {"definition": definition_hash(), "inputs": sha256(named.encode()).hexdigest(), "transactions": own}


def _up_to_date(features: Dataset, day: str, made_from: dict[str, str]) -> bool:
    manifest = features.manifest(day)
    return manifest is not None and manifest.made_from == made_from


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


def _parts(chunk: list[str], inputs: Mapping[str, list[str]], sources: Mapping[str, Source]) -> list["Part"]:
    """The parts of the input partitions that the days of a chunk need, in order of days."""
    from fraud.features.days import Part, Stored  # noqa: PLC0415 - numba is slow to import

    near_from = (date.fromisoformat(chunk[0]) - LOOK_BACK).isoformat()
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
