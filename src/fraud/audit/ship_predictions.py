"""Write serving's prediction log to the lake, each answer exactly once, and expire old answers.

Several hosts, each with its own prediction log, may ship to one lake at the same time. No two segments have one name.

Partitions older than `FRAUD_PREDICTION_RETENTION_DAYS`, by the day of served_at, are removed from the lake. A local
segment is removed when it is complete and all its lines are in the lake.
"""

import datetime as dt
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from fraud.audit import prediction_log
from fraud.core.contract import US_PER_DAY, US_PER_SECOND
from fraud.core.declaration import Declaration
from fraud.job import Context, JobConfig, JobResult
from fraud.lake import catalog
from fraud.lake.dataset import Dataset, DatasetVersion
from fraud.lake.objects import listed, located, put_atomically
from fraud.lake.records import Partition
from fraud.lake.table import ConflictError, columns_of

_OFFSETS: Final = "_shipped"
"""Folder of an object per segment: the offset up to which it is in the lake. Each is written by one host only."""
_MERGES: Final = 50
"""How often a part is merged again because another host committed meanwhile."""


class Config(JobConfig):
    """Date for retention. All answers that were logged before the start and are not shipped yet are shipped."""

    today: dt.date | None = Field(default=None, description="date that retention is counted from; default today, UTC")


class Result(JobResult):
    """Counts of shipped and removed data."""

    segments: int
    """Segments with new lines."""
    rows: int
    repeated: int
    """Lines that were in the lake already, because an earlier run was killed before it stored its offsets."""
    unreadable: int
    """Lines that are not a prediction record."""
    days: list[str]
    """Partitions that changed."""
    expired: list[str]
    """Partitions that were removed from the lake."""
    removed: int
    """Segments that were removed from serving's folder."""


def run(config: Config, context: Context) -> Result:
    """Publish new answers by day of served_at, then store the offset of every segment.

    If the run is killed in between, the next run reads the same lines again, finds their ids in the partition and skips
    them.
    """
    lake = catalog.PREDICTIONS.at(context.settings.lake_uri)
    read = repeated = unreadable = 0
    days: set[str] = set()
    touched: set[str] = set()
    # What is written from now on is left to the next run; otherwise a run would last as long as payments arrive.
    ends = {segment: segment.stat().st_size for segment in prediction_log.segments(context.settings.prediction_log)}
    for segment, end in ends.items():
        for part in prediction_log.read(segment, _offset(lake, segment.name), context.declaration, end=end):
            existing = _publish(lake, part.table, days, context)
            read, repeated = read + part.table.num_rows - existing, repeated + existing
            unreadable += part.unreadable
            touched.add(segment.name)
            put_atomically(f"{lake.uri}/{_OFFSETS}/{segment.name}", str(part.end).encode())
            context.log.info(
                "segment shipped", segment=segment.name, rows=part.table.num_rows, unreadable=part.unreadable
            )
    today = config.today or dt.datetime.now(dt.UTC).date()
    first_kept = today - dt.timedelta(days=context.settings.prediction_retention_days)
    expired = _expire(lake, str(first_kept))
    removed = _remove(lake, context.settings.prediction_log, today, first_kept)
    if expired or removed:
        context.log.info("retention applied", expired=expired, removed=removed)
    return Result(
        segments=len(touched), rows=read, repeated=repeated, unreadable=unreadable,
        days=sorted(days - set(expired)), expired=expired, removed=removed,
    )  # fmt: skip


def _expire(lake: Dataset, first_kept: str) -> list[str]:
    """Remove the partitions before `first_kept`; returns their names."""
    old = [day for day in lake.partitions() if day < first_kept]
    lake.drop(old)
    return old


def _remove(lake: Dataset, folder: Path, today: dt.date, first_kept: dt.date) -> int:
    """Remove finished segments: first the file, then its offset. Otherwise it could be shipped again.

    An offset that a killed run left is removed once the lake keeps no answer of its segment.
    """
    now_us = _us(dt.datetime.combine(today, dt.time.max, dt.UTC))
    finished = [
        segment
        for segment in prediction_log.segments(folder)
        if prediction_log.is_finished(segment, _offset(lake, segment.name), now_us)
    ]
    for segment in finished:
        segment.unlink()
        _forget(lake, segment.name)
    first_us = _us(dt.datetime.combine(first_kept, dt.time.min, dt.UTC)) - US_PER_DAY
    left = {segment.name for segment in prediction_log.segments(folder)}
    for name in listed(f"{lake.uri}/{_OFFSETS}", 1):
        if name not in left and prediction_log.opened_us(name) < first_us:
            _forget(lake, name)
    return len(finished)


def _us(moment: dt.datetime) -> int:
    return int(moment.timestamp() * US_PER_SECOND)


def _offset(lake: Dataset, segment: str) -> int:
    """Up to which byte the segment is in the lake."""
    fs, path = located(f"{lake.uri}/{_OFFSETS}/{segment}")
    try:
        return int(fs.cat_file(path))
    except FileNotFoundError:
        return 0


def _forget(lake: Dataset, segment: str) -> None:
    """Remove the offset of a segment. Another host may remove an expired one at the same time."""
    fs, path = located(f"{lake.uri}/{_OFFSETS}/{segment}")
    with suppress(FileNotFoundError):
        fs.rm_file(path)


def _publish(lake: Dataset, table: pa.Table, days: set[str], context: Context) -> int:
    """`_merge_and_commit`, again when another host has committed meanwhile. Raises ConflictError after many times."""
    for _ in range(_MERGES - 1):
        try:
            return _merge_and_commit(lake, table, days, context.declaration)
        except ConflictError:
            context.log.info("another host committed; merging again", rows=table.num_rows)
    return _merge_and_commit(lake, table, days, context.declaration)


def _merge_and_commit(lake: Dataset, table: pa.Table, days: set[str], declaration: Declaration) -> int:
    """Add the rows to the partitions of their days. Returns the number of rows that existed already."""
    existing = 0
    rows: dict[int, list[int]] = defaultdict(list)
    for index, day in enumerate((table["served_us"].to_numpy() // US_PER_DAY).tolist()):
        rows[day].append(index)
    published, new = lake.open(), {}
    for day, indexes in sorted(rows.items()):
        name = str(np.datetime64(day, "D"))
        merged, repeated = _merged(published, name, table.take(indexes), declaration)
        existing += repeated
        if merged is not None:
            new[name] = merged
    lake.commit(_written(lake, published, new), published.number)
    days.update(new)
    return existing


def _written(lake: Dataset, published: DatasetVersion, new: Mapping[str, pa.Table]) -> Iterator[Partition]:
    """The new partitions. A column has one type in a table: where declarations differ, it is text in all partitions."""
    types = published.column_types()
    kinds = {(name, kind) for part in new.values() for name, kind in columns_of(part.schema)}
    differ = {name for name, kind in kinds if types.get(name, kind) != kind}
    if any(types[name] != "string" for name in differ):
        for name in published.partitions():
            if name not in new:
                yield lake.written(name, prediction_log.as_text(published.read(name), differ))
    for name, part in new.items():
        yield lake.written(name, prediction_log.as_text(part, differ) if differ else part)


def _merged(lake: DatasetVersion, day: str, rows: pa.Table, declaration: Declaration) -> tuple[pa.Table | None, int]:
    """The sorted partition with the new rows added (None if there are none), and the number of existing rows."""
    stored = lake.read(day) if lake.partition(day) else rows.slice(0, 0)
    first_of_id = np.sort(np.unique(rows["prediction_id"].to_numpy(zero_copy_only=False), return_index=True)[1])
    fresh = rows.take(first_of_id)
    fresh = fresh.filter(
        pc.invert(pc.is_in(fresh["prediction_id"], value_set=stored["prediction_id"].combine_chunks()))
    )
    if not fresh.num_rows:
        return None, rows.num_rows
    merged = prediction_log.unified([stored, fresh], declaration).sort_by(catalog.PREDICTIONS.order).combine_chunks()
    return merged, rows.num_rows - fresh.num_rows
