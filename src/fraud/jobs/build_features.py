"""Window features of the days that changed.

A day's features depend on its own rows, on the look-back of its longest window, and, where events came late, on
what else was known by then. `_inputs` names exactly those partitions; a day is built again when one of them, or the
definition of the features, changed since it was built.
"""

from collections.abc import Iterator, Mapping
from datetime import date, datetime, timedelta
from hashlib import sha256
from typing import NamedTuple

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from fraud.core.contract import US_PER_DAY
from fraud.core.features import WINDOW_FEATURES, definition_hash
from fraud.errors import BadInputError, UnavailableError
from fraud.io.lake import Dataset
from fraud.jobs import Context, JobConfig, JobResult

LOOK_BACK = timedelta(days=-(-max(feature.window_us for feature in WINDOW_FEATURES) // US_PER_DAY))
ROWS_IN_MEMORY = 6_000_000
"""Input rows held at once (about 1 GiB); more days than that are built in several steps."""


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
    rows: int
    first_learned: datetime | None
    """Earliest and latest created_timestamp; None without rows."""
    last_learned: datetime | None


def run(config: Config, context: Context) -> Result:
    """Build what is stale. Raises BadInputError when the lake has no transactions, or unsorted ones."""
    transactions = Dataset(context.settings.lake_uri, "transactions")
    features = Dataset(context.settings.lake_uri, "features")
    sources = {day: _source(transactions, day) for day in transactions.partitions()}
    if not sources:
        raise BadInputError("the lake has no transactions", do="fraud ingest")
    first = config.first.isoformat() if config.first else min(sources)
    last = config.last.isoformat() if config.last else max(sources)
    asked = [day for day in sources if first <= day <= last]
    inputs = {day: _inputs(day, sources) for day in asked}
    made_from = {day: _made_from(day, inputs[day], sources) for day in asked}
    stale = [day for day in asked if config.full or not _up_to_date(features, day, made_from[day])]
    changed = 0
    for chunk in _chunks(stale, inputs, sources):
        context.log.info("building features", first=chunk[0], last=chunk[-1], days=len(chunk))
        for day, table in _build(transactions, chunk, inputs, sources):
            before = features.manifest(day)
            after = features.publish(day, table, made_from[day])
            changed += before is None or before.content_sha256 != after.content_sha256
    return Result(
        days_built=len(stale), days_changed=changed, days_unchanged=len(asked) - len(stale),
        rows=sum(sources[day].rows for day in stale), first_day=min(asked, default=first),
        last_day=max(asked, default=last), definition_hash=definition_hash(),
    )  # fmt: skip


def _source(transactions: Dataset, day: str) -> Source:
    manifest = transactions.manifest(day)
    if manifest is None:
        raise UnavailableError(f"transactions lost partition {day} while being read", do="run again")
    learned: list[datetime] = []
    for uri in transactions.object_uris(day):
        with fsspec.open(uri, "rb") as file:
            footer = pq.read_metadata(file)
        column = footer.schema.to_arrow_schema().get_field_index("created_timestamp")
        for group in range(footer.num_row_groups):
            bounds = footer.row_group(group).column(column).statistics
            learned += [bounds.min, bounds.max] if bounds else []  # an empty group has none
    return Source(
        manifest.content_sha256, manifest.rows, min(learned, default=None), max(learned, default=None)
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
    ended = sources[day].last_learned
    if began is None or ended is None:
        return near
    older = [p for p, s in sources.items() if p < since and s.last_learned and s.last_learned > began]
    newer = [p for p, s in sources.items() if p > day and s.first_learned and s.first_learned < ended]
    return [*older, *near, *newer]


def _made_from(day: str, inputs: list[str], sources: Mapping[str, Source]) -> dict[str, str]:
    named = "\n".join(f"{day} {sources[day].sha256}" for day in inputs)
    own = sources[day].sha256
    return {"definition": definition_hash(), "inputs": sha256(named.encode()).hexdigest(), "transactions": own}


def _up_to_date(features: Dataset, day: str, made_from: dict[str, str]) -> bool:
    manifest = features.manifest(day)
    return manifest is not None and manifest.made_from == made_from


def _chunks(stale: list[str], inputs: Mapping[str, list[str]], sources: Mapping[str, Source]) -> Iterator[list[str]]:
    """Runs of stale days whose inputs together stay within ROWS_IN_MEMORY; a single day may exceed it."""
    chunk: list[str] = []
    held: set[str] = set()
    for day in stale:
        wanted = held.union(inputs[day])
        if chunk and sum(sources[p].rows for p in wanted) > ROWS_IN_MEMORY:
            yield chunk
            chunk, wanted = [], set(inputs[day])
        chunk.append(day)
        held = wanted
    if chunk:
        yield chunk


def _build(
    transactions: Dataset, chunk: list[str], inputs: Mapping[str, list[str]], sources: Mapping[str, Source]
) -> Iterator[tuple[str, pa.Table]]:
    """The chunk's days with their window values, one table each."""
    from fraud.engines.arrow_windows import COLUMNS, window_values, with_windows  # noqa: PLC0415 - numba is slow to import

    near_from = (date.fromisoformat(chunk[0]) - LOOK_BACK).isoformat()
    wanted = sorted({p for day in chunk for p in inputs[day]})
    began = min((s.first_learned for p in wanted if p >= near_from and (s := sources[p]).first_learned), default=None)
    ended = max((s.last_learned for day in chunk if (s := sources[day]).last_learned), default=None)
    tables, offsets, rows = [], {}, 0
    for p in wanted:
        table = transactions.read(p, list(COLUMNS))
        if p < near_from and began is not None:
            table = table.filter(pc.greater(table["created_timestamp"], pa.scalar(began)))
        if p > chunk[-1] and ended is not None:
            table = table.filter(pc.less(table["created_timestamp"], pa.scalar(ended)))
        tables.append(table)
        offsets[p] = rows
        rows += table.num_rows
    values = window_values(pa.concat_tables(tables))
    for day in chunk:
        table = transactions.read(day)
        if table.num_rows != sources[day].rows:
            raise UnavailableError(f"transactions of {day} changed while being read", do="run again")
        yield day, with_windows(table, values[:, offsets[day] : offsets[day] + table.num_rows])
