"""The files of the landing zone that have the messages of a topic, and the progress that their names record.

A file is `<feed>/topic=<name>/id=<id>/partition=<p>/<first>-<last>.parquet`. It has the messages at the offsets first
to last, and is put into the landing zone in one step. No other record of the progress exists. A file that was ingested
and later removed by retention is found in the ledger. `id` is the topic's id, so that a topic that was deleted and
created again, or another cluster's topic of the same name, starts at its first offset.
"""

import io
import re
from itertools import pairwise
from typing import Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from fraud.ingest.commit import Ledger
from fraud.ingest.landing import Feed
from fraud.lake.objects import listed, put_atomically
from fraud.streams.topic_reader import Topic

_DIGITS: Final = 19
"""Of the largest offset, 2^63 - 1. With leading zeros, names have the order of the offsets."""


class Range(NamedTuple):
    """The offsets first <= offset < end."""

    first: int
    end: int


class TopicFiles:
    """The files of one topic in the landing zone of a feed."""

    def __init__(self, landing_uri: str, lake_uri: str, feed: Feed, topic: Topic) -> None:
        self._landing_uri, self._lake_uri, self._feed = landing_uri.rstrip("/"), lake_uri, feed
        self._folder = f"{feed}/topic={topic.name}/id={topic.id}"

    def landed(self) -> dict[int, list[Range]]:
        """Partition -> the ranges that landed, without gaps between adjacent ones, in the order of the offsets."""
        pattern = re.compile(rf"{re.escape(self._folder)}/partition=(\d+)/(\d+)-(\d+)\.parquet")
        present = (f"{self._folder}/{name}" for name in listed(f"{self._landing_uri}/{self._folder}"))
        names = {*present, *Ledger(self._lake_uri, self._feed).ingested_names()}
        found: dict[int, list[Range]] = {}
        for match in filter(None, map(pattern.fullmatch, names)):
            partition, first, last = map(int, match.groups())
            found.setdefault(partition, []).append(Range(first, last + 1))
        return {partition: _merged(ranges) for partition, ranges in sorted(found.items())}

    def put(self, partition: int, covered: Range, table: pa.Table) -> str:
        """Land the messages of a range. Returns the name of the file below the landing zone."""
        name = f"{self._folder}/partition={partition}/{covered.first:0{_DIGITS}}-{covered.end - 1:0{_DIGITS}}.parquet"
        buffer = io.BytesIO()
        # With the name, two files of equal rows differ: a file is identified by its bytes.
        pq.write_table(table.replace_schema_metadata({"messages": name}), buffer, compression="zstd")
        put_atomically(f"{self._landing_uri}/{name}", buffer.getvalue())
        return name


def missing(landed: list[Range], oldest: int) -> list[Range]:
    """What has to land: the gaps between landed ranges, of a file that was removed before it was ingested, and then
    everything from the end on. `oldest`: the first offset of a partition of which nothing has landed.

    The last range has no end yet: its `end` is -1.
    """
    gaps = [Range(before.end, after.first) for before, after in pairwise(landed)]
    return [*gaps, Range(landed[-1].end if landed else oldest, -1)]


def _merged(ranges: list[Range]) -> list[Range]:
    merged: list[Range] = []
    for one in sorted(ranges):
        if merged and one.first <= merged[-1].end:
            merged[-1] = Range(merged[-1].first, max(merged[-1].end, one.end))
        else:
            merged.append(one)
    return merged
