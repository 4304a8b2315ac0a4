"""Window features of the days that changed.

A day's features depend on its own rows, on the look-back of its longest window, and, where events came late, on
what else was known by then. `_inputs` names exactly those partitions; a day is built again when one of them, or the
definition of the features, changed since it was built.
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
"""Input rows held at once per core (about 1 GiB); more days than that are built in several steps."""


class Config(JobConfig):
    """Which days. Without bounds: every day of the lake that is not up to date."""

    first: date | None = Field(default=None, alias="from", description="first day")
    last: date | None = Field(default=None, alias="to", description="last day")
    full: bool = Field(default=False, description="build the days even where nothing changed")


class Result(JobResult):
    """Days and rows."""

    days_built: int
    days_changed: int
    """Of those built: published other content than before."""
    days_unchanged: int
    """Up to date already, not read."""
    rows: int
    """Rows in the days built."""
    first_day: str
    last_day: str
    definition_hash: str


class Source(NamedTuple):
    """One partition of transactions, as far as planning needs it."""

    sha256: str
    objects: tuple[tuple[str, int], ...]
    """URI and rows of each data object."""
    rows: int
    first_learned: datetime | None
    """Earliest and latest created_timestamp; None without rows."""
    latest_ingestion_us: datetime | None


def run(config: Config, context: Context) -> Result:
    """Build what is stale. Raises BadInputError when the lake has no transactions, or unsorted ones."""
    transactions = catalog.TRANSACTIONS.at(context.settings.lake_uri)
    features = catalog.FEATURES.at(context.settings.lake_uri)
    sources = {day: _source(transactions, day) for day in transactions.partitions()}
    if not sources:
        raise BadInputError("the lake has no transactions", hint="fraud ingest")
    first = config.first.isoformat() if config.first else min(sources)
    last = config.last.isoformat() if config.last else max(sources)
    # Transactions of before are kept as look-back alone: built, such a day would lack its own.
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
    """What builds the days of some parts, by `settings.feature_engine`, and how many input rows it takes at once."""
    from fraud.features import days  # noqa: PLC0415 - numba is slow to import

    if context.settings.feature_engine == "one-machine" or not work:
        yield partial(days.build_here, features), ROWS_IN_MEMORY
        return
    from fraud.features.spark_days import build_on_spark  # noqa: PLC0415
    from fraud.lake.spark import spark_session  # noqa: PLC0415 - Spark is started when there is work for it

    with spark_session(context.settings, "build-features") as session:
        rows_at_once = ROWS_IN_MEMORY * session.sparkContext.defaultParallelism
        yield lambda parts: build_on_spark(session, features, parts, context.log), rows_at_once


def _source(transactions: Dataset, day: str) -> Source:
    manifest = transactions.manifest(day)
    if manifest is None:
        raise UnavailableError(f"transactions lost partition {day} while being read", hint="run again")
    learned: list[datetime] = []
    uris = transactions.object_uris(day)
    for uri in uris:
        with opened(uri) as file:
            footer = pq.read_metadata(file)
        column = footer.schema.to_arrow_schema().get_field_index("created_timestamp")
        for group in range(footer.num_row_groups):
            bounds = footer.row_group(group).column(column).statistics
            learned += [bounds.min, bounds.max] if bounds else []  # an empty group has none
    objects = tuple((uri, made.rows) for uri, made in zip(uris, manifest.objects, strict=True))
    return Source(
        manifest.content_sha256, objects, manifest.rows, min(learned, default=None), max(learned, default=None)
    )  # fmt: skip


def _inputs(day: str, sources: Mapping[str, Source]) -> list[str]:
    """The partitions that can change a bit of `day`'s features.

    The look-back holds every event a window can hold. An older partition counts only when some of it was learned of
    after the look-back began, for it may push other events out of the bounded history; a newer one only when some of
    it was known before the last of the day's own events.
    """
    since = (date.fromisoformat(day) - LOOK_BACK).isoformat()
    near = [p for p in sources if since <= p <= day]
    began = min((s.first_learned for p in near if (s := sources[p]).first_learned), default=None)
    ended = sources[day].latest_ingestion_us
    if began is None or ended is None:
        return near
    older = [p for p, s in sources.items() if p < since and s.latest_ingestion_us and s.latest_ingestion_us > began]
    newer = [p for p, s in sources.items() if p > day and s.first_learned and s.first_learned < ended]
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
    """Runs of stale days whose inputs together stay within `rows_at_once`; a single day may exceed it."""
    chunk: list[str] = []
    held: set[str] = set()
    for day in stale:
        expected = held.union(inputs[day])
        if chunk and sum(sources[p].rows for p in expected) > rows_at_once:
            yield chunk
            chunk, expected = [], set(inputs[day])
        chunk.append(day)
        held = expected
    if chunk:
        yield chunk


def _parts(chunk: list[str], inputs: Mapping[str, list[str]], sources: Mapping[str, Source]) -> list["Part"]:
    """What the days of a chunk need of the partitions that are their inputs, in order of days."""
    from fraud.features.days import Part, Stored  # noqa: PLC0415 - numba is slow to import

    near_from = (date.fromisoformat(chunk[0]) - LOOK_BACK).isoformat()
    expected = sorted({p for day in chunk for p in inputs[day]})
    began = min((s.first_learned for p in expected if p >= near_from and (s := sources[p]).first_learned), default=None)
    ended = max((s.latest_ingestion_us for day in chunk if (s := sources[day]).latest_ingestion_us), default=None)
    return [
        Part(
            day=p, objects=tuple(Stored(*stored) for stored in sources[p].objects),
            learned_after=began if p < near_from else None, learned_before=ended if p > chunk[-1] else None,
            expected=p in chunk,
        )
        for p in expected
    ]  # fmt: skip
