"""Read a Kafka topic by offsets, without a consumer group: the reader decides the range of each partition."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple, cast
from uuid import UUID

from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka import TopicCollection as Topics

from fraud.errors import UnavailableError
from fraud.settings import Settings
from fraud.streams import kafka
from fraud.streams.kafka import ClientErrors

_END: Final = KafkaError._PARTITION_EOF  # noqa: SLF001 - the name of librdkafka's own event
_REMOVED: Final = (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE)  # noqa: SLF001
_AT_ONCE: Final = 5_000
_MESSAGE_BYTES: Final = 32 * 2**20


class Record(NamedTuple):
    """One message of a partition."""

    offset: int
    key: bytes | None
    value: bytes | None
    timestamp_us: int | None
    """Of the message: when the broker, or the producer, stored it. None without one."""
    headers: tuple[tuple[str, bytes | None], ...]


class Chunk(NamedTuple):
    """The messages at the offsets `first` <= offset < `end`. Not every offset has a message."""

    first: int
    end: int
    records: list[Record]


class Topic(NamedTuple):
    """A topic of the cluster. `id` identifies it also after it was deleted and created again with the same name."""

    name: str
    id: UUID
    partitions: tuple[int, ...]


def describe(settings: Settings, name: str) -> Topic:
    """Raises BadInputError when there is no such topic, BadConfigError without access, UnavailableError."""
    errors = ClientErrors()
    client = kafka.admin(settings, errors)
    try:
        answer = client.describe_topics(Topics([name]), request_timeout=kafka.REQUEST_SECONDS)
        found = answer[name].result()
    except KafkaException as error:
        raise kafka.raised(name, error, errors) from error
    high, low = found.topic_id.get_most_significant_bits(), found.topic_id.get_least_significant_bits()
    identity = UUID(int=(high % 2**64) << 64 | low % 2**64)
    return Topic(name, identity, tuple(sorted(partition.id for partition in found.partitions)))


class TopicReader:
    """Reads the partitions of one topic, one after the other. Use `reading` to create one."""

    def __init__(self, settings: Settings, topic: str) -> None:
        self.topic = topic
        self._errors = ClientErrors()
        self._consumer = Consumer(
            {
                **kafka.client_config(settings, self._errors),
                # Required by the client; nothing is committed, and `assign` does not join the group.
                "group.id": "fraud-topic-reader", "enable.auto.commit": False,
                "auto.offset.reset": "error", "enable.partition.eof": True, "isolation.level": "read_committed",
                "fetch.wait.max.ms": 100, "fetch.message.max.bytes": _MESSAGE_BYTES,
                "receive.message.max.bytes": 4 * _MESSAGE_BYTES,
            }
        )  # fmt: skip

    def close(self) -> None:
        self._consumer.close()

    def oldest(self, partition: int) -> int:
        """The offset from which the broker keeps the partition; the end of an empty one."""
        try:
            where = TopicPartition(self.topic, partition)
            low, _ = self._consumer.get_watermark_offsets(where, timeout=kafka.REQUEST_SECONDS)
        except KafkaException as error:
            raise kafka.raised(self.topic, error, self._errors) from error
        return int(low)

    def end(self, partition: int) -> int:
        """The offset after the last message of the partition."""
        where = TopicPartition(self.topic, partition)
        self._consumer.assign([TopicPartition(self.topic, partition, self.oldest(partition))])
        (found,) = self._next(1)
        if found.error() is not None:
            return found.offset() or 0
        return int(self._consumer.get_watermark_offsets(where, cached=True)[1])

    def chunks(self, partition: int, start: int, end: int | None, size: int) -> Iterator[Chunk]:
        """The messages from `start` up to `end`, by default the end of the partition when it is first read.

        A chunk has at most `size` messages. Raises UnavailableError when the brokers do not answer, or when retention
        removes messages that were about to be read.
        """
        where = TopicPartition(self.topic, partition)
        self._consumer.assign([TopicPartition(self.topic, partition, start)])
        first, position, records = start, start, list[Record]()
        while end is None or position < end:
            for message in self._next(min(_AT_ONCE, size - len(records))):
                offset = message.offset() or 0
                if message.error() is not None:
                    end = min(end or offset, offset)
                    position = max(position, end)
                    break
                if end is None:
                    _, end = self._consumer.get_watermark_offsets(where, cached=True)
                if offset >= end:
                    position = end
                    break
                records.append(as_record(message))
                position = offset + 1
            if len(records) >= size:
                yield Chunk(first, position, records)
                first, records = position, []
        if records:
            yield Chunk(first, position, records)

    def _next(self, count: int) -> Sequence[Message]:
        """Up to `count` messages. The last one may be the event `end of the partition`."""
        deadline = time.monotonic() + kafka.REQUEST_SECONDS
        while (message := self._consumer.poll(0.5)) is None:
            if time.monotonic() > deadline:
                raise kafka.as_fraud_error(self.topic, None, self._errors)
        found = [message]
        if message.error() is None and count > 1:
            found += self._consumer.consume(count - 1, timeout=0)
        for place, candidate in enumerate(found):
            error = candidate.error()
            if error is None:
                continue
            if error.code() == _END:
                return found[: place + 1]
            if error.code() in _REMOVED:
                raise UnavailableError(
                    f"retention removed messages of topic {self.topic} while they were read", got=error.str(),
                    hint="run again: the next run counts what is missing",
                )  # fmt: skip
            raise kafka.as_fraud_error(self.topic, error, self._errors)
        return found


def as_record(message: Message) -> Record:
    """A message without an error."""
    kind, milliseconds = message.timestamp()
    known = kind != TIMESTAMP_NOT_AVAILABLE and milliseconds > 0
    return Record(
        message.offset() or 0, message.key(), message.value(), milliseconds * 1_000 if known else None,
        tuple(cast("list[tuple[str, bytes | None]]", message.headers() or [])),
    )  # fmt: skip


@contextmanager
def follow(settings: Settings, topics: Sequence[str]) -> Iterator[Callable[[float], list[tuple[str, Record]]]]:
    """Read the messages that arrive in these topics from now on: a function of the seconds to wait for the first one.

    It returns (topic, message). Raises as `TopicReader` does.
    """
    starts = []
    for name in topics:
        with reading(settings, name) as reader:
            starts += [TopicPartition(name, p, reader.end(p)) for p in describe(settings, name).partitions]
    errors = ClientErrors()
    consumer = Consumer(
        {
            **kafka.client_config(settings, errors), "group.id": "fraud-topic-reader", "enable.auto.commit": False,
            "auto.offset.reset": "error", "isolation.level": "read_committed", "fetch.wait.max.ms": 10,
        }
    )  # fmt: skip
    consumer.assign(starts)

    def read(wait_seconds: float) -> list[tuple[str, Record]]:
        first = consumer.poll(wait_seconds)
        found = [] if first is None else [first, *consumer.consume(_AT_ONCE, timeout=0)]
        for message in found:
            error = message.error()
            if error is not None:
                raise kafka.as_fraud_error(message.topic() or "", error, errors)
        return [(message.topic() or "", as_record(message)) for message in found]

    try:
        yield read
    finally:
        consumer.close()


@contextmanager
def reading(settings: Settings, topic: str) -> Iterator[TopicReader]:
    reader = TopicReader(settings, topic)
    try:
        yield reader
    finally:
        reader.close()
