"""Bring serving's prediction log into the lake, each answer exactly once, and let go of what is too old to keep.

Retention is `FRAUD_PREDICTION_RETENTION_DAYS`, counted from the day of served_at: older partitions leave the lake. A
local segment goes when all of it is in the lake and nothing can follow in it.
"""

import datetime as dt
import json
from collections import defaultdict
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from fraud.audit import prediction_log
from fraud.core.contract import US_PER_DAY, US_PER_SECOND
from fraud.job import Context, JobConfig, JobResult
from fraud.lake import catalog
from fraud.lake.dataset import Dataset, located, put_atomically

_OFFSETS: Final = "_shipped.json"


class Config(JobConfig):
    """Everything that was not shipped yet; retention counts back from today."""

    today: dt.date | None = Field(default=None, description="day that retention counts from; default: today, UTC")


class Result(JobResult):
    """What was shipped."""

    segments: int
    """With something new."""
    rows: int
    repeated: int
    """Read again after an earlier run died between publishing and remembering; dropped."""
    unreadable: int
    """Lines that are no prediction record."""
    days: list[str]
    """Partitions that changed."""
    expired: list[str]
    """Partitions that left the lake."""
    removed: int
    """Segments that were removed from serving's disk."""


def run(config: Config, context: Context) -> Result:
    """Publish what is new by day of served_at, then remember how far every segment was read.

    In that order: when the run dies in between, the next one reads the same lines again, finds their ids in the
    partition, and publishes the same bytes.
    """
    lake = catalog.PREDICTIONS.at(context.settings.lake_uri)
    shipped = _offsets(lake)
    read = repeated = unreadable = 0
    days: set[str] = set()
    touched: set[str] = set()
    for segment in prediction_log.segments(context.settings.prediction_log):
        for part in prediction_log.read(segment, shipped.get(segment.name, 0)):
            known = _publish(lake, part.table, days)
            read, repeated = read + part.table.num_rows - known, repeated + known
            unreadable += part.unreadable
            shipped[segment.name] = part.end
            touched.add(segment.name)
            put_atomically(f"{lake.uri}/{_OFFSETS}", json.dumps(shipped, indent=1, sort_keys=True).encode())
            context.log.info("shipped", segment=segment.name, rows=part.table.num_rows, unreadable=part.unreadable)
    today = config.today or dt.datetime.now(dt.UTC).date()
    expired = _expire(lake, str(today - dt.timedelta(days=context.settings.prediction_retention_days)))
    removed = _remove(lake, context.settings.prediction_log, shipped, today)
    if expired or removed:
        context.log.info("retention", expired=expired, removed=removed)
    return Result(
        segments=len(touched), rows=read, repeated=repeated, unreadable=unreadable,
        days=sorted(days - set(expired)), expired=expired, removed=removed,
    )  # fmt: skip


def _expire(lake: Dataset, first_kept: str) -> list[str]:
    """Drop the partitions before `first_kept`, and return them."""
    old = [day for day in lake.partitions() if day < first_kept]
    for day in old:
        lake.drop(day)
    return old


def _remove(lake: Dataset, folder: Path, shipped: dict[str, int], today: dt.date) -> int:
    """Remove finished segments. The file goes before its offset: the other way round it would be shipped again."""
    now_us = int(dt.datetime.combine(today, dt.time.max, dt.UTC).timestamp() * US_PER_SECOND)
    finished = [
        segment
        for segment in prediction_log.segments(folder)
        if prediction_log.is_finished(segment, shipped.get(segment.name, 0), now_us)
    ]
    for segment in finished:
        segment.unlink()
    left = {segment.name for segment in prediction_log.segments(folder)}
    if shipped.keys() - left:
        kept = {name: offset for name, offset in shipped.items() if name in left}
        put_atomically(f"{lake.uri}/{_OFFSETS}", json.dumps(kept, indent=1, sort_keys=True).encode())
    return len(finished)


def _offsets(lake: Dataset) -> dict[str, int]:
    fs, path = located(f"{lake.uri}/{_OFFSETS}")
    try:
        offsets: dict[str, int] = json.loads(fs.cat_file(path))
    except FileNotFoundError:
        return {}
    return offsets


def _publish(lake: Dataset, table: pa.Table, days: set[str]) -> int:
    """Add the rows to their days' partitions. Returns how many were there already."""
    known = 0
    rows: dict[int, list[int]] = defaultdict(list)
    for index, day in enumerate((table["served_us"].to_numpy() // US_PER_DAY).tolist()):
        rows[day].append(index)
    for day, indexes in sorted(rows.items()):
        name = str(np.datetime64(day, "D"))
        new, repeated = _merged(lake, name, table.take(indexes))
        known += repeated
        if new is not None:
            lake.publish(name, new)
            days.add(name)
    return known


def _merged(lake: Dataset, day: str, rows: pa.Table) -> tuple[pa.Table | None, int]:
    """The partition with the rows that it lacks, sorted (None when it lacks none), and how many it had."""
    there = lake.read(day) if lake.manifest(day) else prediction_log.SCHEMA.empty_table()
    there = pa.concat_tables([prediction_log.SCHEMA.empty_table(), there], promote_options="default")  # older: less
    first_of_id = np.sort(np.unique(rows["prediction_id"].to_numpy(zero_copy_only=False), return_index=True)[1])
    fresh = rows.take(first_of_id)
    fresh = fresh.filter(pc.invert(pc.is_in(fresh["prediction_id"], value_set=there["prediction_id"].combine_chunks())))
    if not fresh.num_rows:
        return None, rows.num_rows
    merged = pa.concat_tables([there, fresh]).sort_by(catalog.PREDICTIONS.order).combine_chunks()
    return merged, rows.num_rows - fresh.num_rows
