"""Bring serving's prediction log into the lake, each answer exactly once."""

import json
from collections import defaultdict
from typing import Final

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fraud.core.contract import US_PER_DAY
from fraud.io import prediction_log
from fraud.io.lake import Dataset, put_atomically
from fraud.jobs import Context, JobConfig, JobResult

DATASET: Final = "predictions"
_OFFSETS: Final = "_shipped.json"
_ORDER: Final = [("served_us", "ascending"), ("prediction_id", "ascending")]


class Config(JobConfig):
    """Nothing to choose: everything that was not shipped yet."""


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


def run(config: Config, context: Context) -> Result:  # noqa: ARG001 - a job's signature
    """Publish what is new by day of served_at, then remember how far every segment was read.

    In that order: when the run dies in between, the next one reads the same lines again, finds their ids in the
    partition, and publishes the same bytes.
    """
    lake = Dataset(context.settings.lake_uri, DATASET)
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
    return Result(segments=len(touched), rows=read, repeated=repeated, unreadable=unreadable, days=sorted(days))


def _offsets(lake: Dataset) -> dict[str, int]:
    fs, path = fsspec.core.url_to_fs(f"{lake.uri}/{_OFFSETS}")
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
    first_of_id = np.sort(np.unique(rows["prediction_id"].to_numpy(zero_copy_only=False), return_index=True)[1])
    fresh = rows.take(first_of_id)
    fresh = fresh.filter(pc.invert(pc.is_in(fresh["prediction_id"], value_set=there["prediction_id"].combine_chunks())))
    if not fresh.num_rows:
        return None, rows.num_rows
    return pa.concat_tables([there, fresh]).sort_by(_ORDER).combine_chunks(), rows.num_rows - fresh.num_rows
