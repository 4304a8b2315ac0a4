"""A consumer group on a Kafka topic as a source of events."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from fraud.settings import Settings
from fraud.streams import kafka
from fraud.streams.kafka import ClientErrors
from fraud.streams.rejected_topic import Place, Reason, Sender
from fraud.streams.source import Delivery
from fraud.streams.topic_reader import Record, as_record

_JOIN_SECONDS: Final = 90.0
"""Longest wait for the group to assign partitions. The brokers wait for a member of a killed run for _SESSION_MS."""
_SESSION_MS: Final = 10_000


class KafkaTopic:
    """Delivers the messages of the partitions that the group assigns to it. Rejected ones go to `<topic>.rejected`.

    Offsets are committed up to the oldest message that is not settled.
    """

    def __init__(self, settings: Settings, topic: str, group: str, consumer: str) -> None:
        self._topic = topic
        self._errors = ClientErrors()
        self._assigned = False
        self._early: list[Message] = []
        self._open: dict[tuple[int, int], Record] = {}
        """(partition, offset) -> the message, of those that were read and not settled."""
        self._next: dict[int, int] = {}
        """Partition -> the offset after the last message that was read."""
        self._sender = Sender(settings)
        self._consumer = Consumer(
            {
                **kafka.client_config(settings, self._errors),
                "group.id": group, "client.id": consumer, "enable.auto.commit": False, "auto.offset.reset": "earliest",
                "partition.assignment.strategy": "cooperative-sticky", "isolation.level": "read_committed",
                "session.timeout.ms": _SESSION_MS,
            }
        )  # fmt: skip
        self._consumer.subscribe([topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke)

    def close(self) -> None:
        self._consumer.close()

    def _on_assign(self, _consumer: Consumer, _partitions: list[TopicPartition]) -> None:
        self._assigned = True

    def _on_revoke(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Another reader gets what was not settled."""
        gone = {partition.partition for partition in partitions}
        self._open = {place: record for place, record in self._open.items() if place[0] not in gone}
        self._next = {partition: offset for partition, offset in self._next.items() if partition not in gone}

    def wait_until_assigned(self) -> None:
        """Raises UnavailableError when the group assigns no partitions in time."""
        deadline = time.monotonic() + _JOIN_SECONDS
        while not self._assigned:
            message = self._consumer.poll(0.2)
            if message is not None:
                self._check(message)
                self._early.append(message)
            if time.monotonic() > deadline:
                raise kafka.as_fraud_error(self._topic, None, self._errors)

    def read(self, count: int, wait_seconds: float) -> list[Delivery]:
        """Up to `count` messages; none when no message arrived within `wait_seconds`."""
        messages, self._early = self._early, []
        if not messages:
            first = self._consumer.poll(wait_seconds)
            messages = [] if first is None else [first, *self._consumer.consume(count - 1, timeout=0)]
        deliveries = []
        for message in messages:
            self._check(message)
            partition, record = message.partition() or 0, as_record(message)
            self._open[partition, record.offset] = record
            self._next[partition] = record.offset + 1
            deliveries.append(Delivery(f"{partition}@{record.offset}", record.value or b""))
        return deliveries

    def _check(self, message: Message) -> None:
        error = message.error()
        if error is not None:
            raise kafka.as_fraud_error(self._topic, error, self._errors)

    def settle(self, deliveries: Sequence[Delivery]) -> None:
        """Commit the offsets. Messages that were rejected since the last call are settled too."""
        for delivery in deliveries:
            self._open.pop(_position(delivery), None)
        self._sender.flush()
        oldest: dict[int, int] = {}
        for partition, offset in self._open:
            oldest[partition] = min(offset, oldest.get(partition, offset))
        commits = [
            TopicPartition(self._topic, partition, oldest.get(partition, offset))
            for partition, offset in sorted(self._next.items())
        ]
        if commits:
            try:
                self._consumer.commit(offsets=commits, asynchronous=False)
            except KafkaException as error:
                raise kafka.raised(self._topic, error, self._errors) from error

    def reject(self, delivery: Delivery, reason: str) -> None:
        """Send an invalid message to the rejected topic with the reason. `settle` waits for the acknowledgement."""
        position = _position(delivery)
        record = self._open.pop(position, None)
        if record is not None:
            self._sender.reject(Place(self._topic, *position), record, Reason("invalid", reason))


def _position(delivery: Delivery) -> tuple[int, int]:
    partition, _, offset = delivery.token.partition("@")
    return int(partition), int(offset)


@contextmanager
def connect(settings: Settings, topic: str, group: str, consumer: str) -> Iterator[KafkaTopic]:
    """Join the group. Raises BadConfigError without brokers or access, UnavailableError when they do not answer."""
    source = KafkaTopic(settings, topic, group, consumer)
    try:
        source.wait_until_assigned()
        yield source
    finally:
        source.close()
