"""The consumer and its thread: polls batches, pauses under back-pressure, commits offsets, follows rebalances."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from fraud_serving.stream.errors import ClientErrors
from fraud_serving.stream.metrics import StreamMetrics
from fraud_serving.stream.progress import Batch, Progress
from fraud_serving.stream.settings import StreamSettings

_log = logging.getLogger(__name__)
_POLL_S: Final = 0.2
COMMIT_S: Final = 0.2
_LAG_S: Final = 1.0
_COMMITTED_S: Final = 1.0
"""Limit of reading the committed offsets. Nothing is polled meanwhile."""
PAUSE_AFTER_S: Final = 1.0
"""Without room for this long, the consumer pauses its partitions. Not at once: librdkafka drops what it has fetched
ahead of a paused partition. Meanwhile it does not poll, which delays a rebalance."""


class TopicConsumer:
    """One consumer of the group. `take` gets each batch, on the consumer's thread; it must not block."""

    def __init__(
        self,
        settings: StreamSettings,
        progress: Progress,
        metrics: StreamMetrics,
        errors: ClientErrors,
        take: Callable[[Batch], None],
    ) -> None:
        self._settings, self._progress, self._metrics, self._errors = settings, progress, metrics, errors
        self._take = take
        self._consumer = Consumer(
            {**settings.consumer(), "error_cb": errors.seen, "on_commit": self._committed, "stats_cb": self._stats},
            logger=errors.logger,
        )
        self._epochs: dict[int, int] = {}
        """Assigned partition -> number of its assignment."""
        self._assignments = 0
        self._offsets: dict[int, int] = {}
        """Assigned partition -> offset to commit."""
        self._starts: dict[int, int] = {}
        """Assigned partition -> offset that the group had committed at its assignment."""
        self._commit: dict[int, int] = {}
        self._committed_s = self._lag_s = 0.0
        self.group: object = None
        """With transactions: the group's metadata as of the last poll. Read only here: the call of another thread does
        not return while this one polls."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stream-consumer", daemon=True)

    def start(self) -> None:
        """Join the group."""
        self._thread.start()

    def stop(self) -> None:
        """Poll nothing more. The thread waits for what was polled, commits and leaves the group."""
        self._stop.set()

    def owned(self, batch: Batch) -> set[int]:
        """The partitions of a batch that are still assigned as they were when it was polled."""
        epochs = self._epochs
        return {of for of in batch.next_offsets if of in epochs and epochs[of] == batch.epochs.get(of)}

    def join(self) -> None:
        """Wait for the end of the thread."""
        self._thread.join()

    def _run(self) -> None:
        with self._errors.fatal("the consumer"):
            self._consume()

    def _consume(self) -> None:
        consumer = self._consumer
        consumer.subscribe(
            [self._settings.transactions_topic],
            on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost,
        )  # fmt: skip
        try:
            while not self._stop.is_set():
                self._work()
            self._progress.wait_until_decided(self._settings.drain_seconds)
            self._commit_decided(wait=True)
        finally:
            consumer.close()

    def _work(self) -> None:
        if not self._progress.wait_for_room(PAUSE_AFTER_S):
            self._pause()
        messages = self._polled(_POLL_S)
        self._commit_decided(wait=False)
        if messages:
            self._pass_on(messages)

    def _polled(self, seconds: float) -> list[Message]:
        """Wait for a message, and take those that are there then."""
        first = self._consumer.poll(seconds)
        if first is None:
            return []
        more = self._settings.batch_messages - 1
        return [first, *(self._consumer.consume(more, 0) if more else ())]

    def _pass_on(self, polled: list[Message]) -> None:
        messages = []
        for message in polled:
            error = message.error()
            if error is None:
                messages.append(message)
            else:
                self._errors.seen(error)
        if messages:
            batch = Batch(messages, self._epochs)
            self._metrics.batch.observe(len(messages))
            self._progress.add(batch)
            self._take(batch)

    def _pause(self) -> None:
        """Poll without partitions until there is room: the group needs polls, and rebalances happen in them."""
        consumer, kept = self._consumer, list[Message]()
        self._metrics.paused = 1
        _log.info("consumption paused: decisions are not acknowledged")
        while not self._stop.is_set():
            consumer.pause(consumer.assignment())
            kept += self._polled(_POLL_S)
            self._commit_decided(wait=False)
            if self._progress.wait_for_room(0):
                break
        consumer.resume(consumer.assignment())
        self._metrics.paused = 0
        _log.info("consumption resumed")
        if kept:
            self._pass_on(kept)

    def _commit_decided(self, *, wait: bool) -> None:
        """Collect what was decided since the last call; commit it if it is time."""
        for batch in self._progress.decided():
            for partition, offset in batch.next_offsets.items():
                # Not of a partition that was given up after the poll: its new consumer commits it.
                if partition in self._epochs and self._epochs[partition] == batch.epochs.get(partition):
                    self._commit[partition] = offset
        now_s = time.monotonic()
        if now_s - self._lag_s >= _LAG_S:
            self._lag_s = now_s
            self._measure_lag()
        if self._settings.transactions:
            self.group = self._consumer.consumer_group_metadata()
            self._offsets |= self._commit
            self._commit = {}
        if not self._commit or not (wait or now_s - self._committed_s >= COMMIT_S):
            return
        self._committed_s, topic = now_s, self._settings.transactions_topic
        offsets = [TopicPartition(topic, partition, offset) for partition, offset in self._commit.items()]
        self._offsets |= self._commit
        self._commit = {}
        try:
            if wait:
                self._consumer.commit(offsets=offsets, asynchronous=False)
            else:
                self._consumer.commit(offsets=offsets)
        except KafkaException as error:
            self._committed(error.args[0], offsets)

    def _committed(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        failed = error or next((of.error for of in partitions if of.error), None)
        if failed is None:
            self._metrics.commits["done"] += 1
            return
        # The offsets of a later commit include these. After a failure, their messages are delivered again.
        self._metrics.commits["failed"] += 1
        self._errors.seen(failed)

    def _stats(self, statistics: str) -> None:
        """Whether a broker is connected."""
        brokers = msgspec.json.decode(statistics)["brokers"].values()
        self._metrics.broker_up = int(any(of["state"] == "UP" and of["nodeid"] >= 0 for of in brokers))

    def _measure_lag(self) -> None:
        topic, lag = self._settings.transactions_topic, dict[int, int]()
        self._read_starts(topic)
        for partition in self._epochs:
            of = TopicPartition(topic, partition)
            # Of the last fetch. A query of its own would be a round trip per partition.
            low, high = self._consumer.get_watermark_offsets(of, cached=True)
            if high >= 0 and partition in self._starts:
                next_offset = self._offsets.get(partition)
                if next_offset is None:  # the position is unknown until the first message after an assignment
                    next_offset = max(self._consumer.position([of])[0].offset, self._starts[partition], low)
                lag[partition] = max(0, high - next_offset)
        self._metrics.lag = lag

    def _read_starts(self, topic: str) -> None:
        """Read the committed offsets of the partitions that were assigned since the last call."""
        new = [TopicPartition(topic, partition) for partition in self._epochs if partition not in self._starts]
        if new:
            try:
                found = self._consumer.committed(new, _COMMITTED_S)
            except KafkaException as error:
                self._errors.seen(error.args[0])
            else:  # a negative offset: nothing was committed
                self._starts |= {of.partition: max(of.offset, 0) for of in found if of.error is None}

    def _assigned(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._assignments += 1
        self._change(self._epochs | {of.partition: self._assignments for of in partitions}, "assigned", partitions)

    def _revoked(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Another consumer gets the partitions: first finish and commit what was polled from them."""
        if not self._progress.wait_until_decided(self._settings.drain_seconds):
            _log.warning("partitions revoked before all decisions were acknowledged; these messages are repeated")
        self._commit_decided(wait=True)
        self._lost_or_revoked(partitions, "revoked")

    def _lost(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Another consumer has the partitions already."""
        self._lost_or_revoked(partitions, "lost")

    def _lost_or_revoked(self, partitions: list[TopicPartition], kind: str) -> None:
        gone = {of.partition for of in partitions}
        for offsets in (self._commit, self._offsets, self._starts):
            for partition in gone & offsets.keys():
                del offsets[partition]
        self._change({of: epoch for of, epoch in self._epochs.items() if of not in gone}, kind, partitions)

    def _change(self, epochs: dict[int, int], kind: str, partitions: list[TopicPartition]) -> None:
        self._epochs = epochs
        self._metrics.assigned = len(epochs)
        self._metrics.rebalances[kind] += 1
        _log.info("partitions %s %s; %d assigned", sorted(of.partition for of in partitions), kind, len(epochs))
