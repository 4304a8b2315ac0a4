"""Land the messages of a Kafka topic as files of the landing zone, each message once; ingest takes them from there.

The run reads each partition from the end of what has landed to its end, and lands the messages in files that are named
after topic, partition and offsets (`fraud.ingest.topic_files`). The consumer group's offsets are not used. A run that
is killed before a file is put has landed nothing of it, and one that is killed after has landed all of it, so that the
next run continues with the next message.
"""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from pydantic import Field

from fraud.errors import BadInputError
from fraud.ingest.landing import Feed
from fraud.ingest.topic_files import Range, TopicFiles, missing
from fraud.ingest.topic_rows import rows_of
from fraud.job import Context, JobConfig, JobResult
from fraud.streams.rejected_topic import Place, Sender
from fraud.streams.topic_reader import Topic, TopicReader, describe, reading


class Config(JobConfig):
    """The topic, and what its messages are."""

    feed: Feed = Field(default="transactions", description="what the messages are")
    topic: str = Field(default="", description="the topic; default: the name of the feed")
    messages_per_file: int = Field(default=100_000, gt=0, description="most messages of one file")
    reject: bool | None = Field(
        default=None,
        description="send unreadable messages to <topic>.rejected too; default: labels only, because the scoring "
        "consumer rejects transactions",
    )
    accept_loss: bool = Field(
        default=False,
        description="continue with the oldest message of a partition whose next messages were removed by retention",
    )


class Result(JobResult):
    """Every message became one row. `fraud ingest` and `fraud ingest-labels` read the files."""

    topic: str
    partitions: int
    messages: int
    unreadable: int
    """Rows with a `parse_error`, which ingest quarantines."""
    rejected: int
    """Unreadable messages that were also sent to the rejected topic."""
    lost: int
    """Offsets that retention removed before they landed; only with --accept-loss."""
    gone_at_first: int
    """Offsets that a partition no longer had when it was read for the first time."""
    unknown_fields: dict[str, int]
    """Fields that no column stores, with the number of messages that have them."""
    files: int


class _Todo(NamedTuple):
    partition: int
    lost: Range
    """Offsets that retention removed; empty when it removed none."""
    start: int
    """The first offset that is read."""
    end: int | None
    """None: the end of the partition."""


def run(config: Config, context: Context) -> Result:
    """Land everything up to the present end of each partition.

    Raises BadInputError when there is no such topic, or when retention removed messages that had not landed and
    --accept-loss is not given; UnavailableError when Kafka does not answer; BadConfigError without access.
    """
    settings = context.settings
    topic = describe(settings, config.topic or config.feed)
    files = TopicFiles(settings.landing_uri, settings.lake_uri, config.feed, topic)
    reject = config.feed == "labels" if config.reject is None else config.reject
    counts, unknown = Counter[str](), Counter[str]()
    with reading(settings, topic.name) as reader:
        todo = list(_todo(reader, topic, files.landed(), counts))
        if counts["lost"] and not config.accept_loss:
            raise _lost(topic, todo)
        sender = Sender(settings) if reject else None
        for part in todo:
            if part.lost.end > part.lost.first:  # the empty file records that the loss was accepted
                files.put(part.partition, part.lost, rows_of(config.feed, context.declaration, []).table)
                counts["files"] += 1
            for chunk in reader.chunks(part.partition, part.start, part.end, config.messages_per_file):
                found = rows_of(config.feed, context.declaration, chunk.records)
                if sender is not None:
                    for record, reason in found.unreadable:
                        sender.reject(Place(topic.name, part.partition, record.offset), record, reason)
                    sender.flush()
                    counts["rejected"] += len(found.unreadable)
                name = files.put(part.partition, Range(chunk.first, chunk.end), found.table)
                context.log.info("messages landed", file=name, messages=len(chunk.records))
                unknown.update(found.unknown_fields)
                counts.update(files=1, messages=len(chunk.records), unreadable=len(found.unreadable))
    return Result(
        topic=topic.name, partitions=len(topic.partitions), messages=counts["messages"],
        unreadable=counts["unreadable"], rejected=counts["rejected"], lost=counts["lost"],
        gone_at_first=counts["gone_at_first"], unknown_fields=dict(sorted(unknown.items())), files=counts["files"],
    )  # fmt: skip


def _todo(reader: TopicReader, topic: Topic, landed: dict[int, list[Range]], counts: Counter[str]) -> Iterator[_Todo]:
    """What has to be read of each partition. Counts the offsets that the topic no longer has."""
    for partition in topic.partitions:
        oldest, before = reader.oldest(partition), landed.get(partition, [])
        if not before:
            counts["gone_at_first"] += oldest
        for gap in missing(before, oldest):
            end = None if gap.end < 0 else gap.end
            start = max(gap.first, oldest if end is None else min(oldest, end))
            counts["lost"] += start - gap.first
            yield _Todo(partition, Range(gap.first, start), start, end)


def _lost(topic: Topic, todo: list[_Todo]) -> BadInputError:
    gaps = [f"{t.lost.first} to {t.lost.end - 1} of partition {t.partition}" for t in todo if t.lost.end > t.lost.first]
    return BadInputError(
        f"retention removed messages of topic {topic.name} before they landed",
        expected="a run at least once within the topic's retention", got=f"offsets {', '.join(gaps)}",
        hint="send them again from their source, then run with --accept-loss: docs/streaming.md",
    )  # fmt: skip
