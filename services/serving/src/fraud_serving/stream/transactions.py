"""Publishes a batch and the offsets after it in one transaction of Kafka: an option that correctness does not rest on.

A reader of committed records sees the decisions of a batch at its commit, and none of a transaction that was aborted.
The online store is no part of the transaction: what is published a second time is recognised as without it.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from confluent_kafka import KafkaException, Message, TopicPartition

from fraud_serving.stream.consumer import TopicConsumer
from fraud_serving.stream.errors import ClientErrors
from fraud_serving.stream.messages import REJECTED, Rejection, decision_headers, rejected_headers, version_headers
from fraud_serving.stream.metrics import StreamMetrics
from fraud_serving.stream.progress import Batch, Progress
from fraud_serving.stream.publisher import TRUNCATED_BYTES, Outcome, Published, Publisher
from fraud_serving.stream.settings import StreamSettings

_log = logging.getLogger(__name__)
WHOLE_BYTES: Final = 900_000
"""A larger rejected message is truncated at once: Kafka's default bound is 1 MiB, and a message that the broker refuses
aborts its transaction each time."""
_TIMEOUT_S: Final = 5.0
"""Of one call, which is repeated: the end of the process waits for it."""
_RETRY_S: Final = 1.0


class TransactionalPublisher(Publisher):
    """One transaction at a time, on the event loop; calls that wait for the broker run in a thread."""

    def __init__(
        self, settings: StreamSettings, progress: Progress, metrics: StreamMetrics, errors: ClientErrors,
        consumer: Callable[[], TopicConsumer],
    ) -> None:  # fmt: skip
        super().__init__(settings, progress, metrics, errors)
        self._topic, self._consumer = settings.transactions_topic, consumer
        self._started = False

    async def publish(self, batch: Batch, outcomes: Sequence[Outcome]) -> None:
        """Produce and commit, and do both again after an abort. Raises KafkaException if only a restart helps.

        Messages of a partition that was given up meanwhile are left out: its new consumer decides them.
        """
        if not self._started:
            # Ends what an earlier process with this id left open.
            await self._call(self._producer.init_transactions)
            self._started = True
        while True:
            owned = self._consumer().owned(batch)
            self._producer.begin_transaction()
            for message, outcome in zip(batch.messages, outcomes, strict=True):
                if message.partition() in owned:
                    self._produce(message, outcome)
            offsets = [TopicPartition(self._topic, of, batch.next_offsets[of]) for of in owned]
            if await self._committed(offsets):
                break
            self._metrics.commits["failed"] += 1
            _log.warning("a transaction of %d messages was aborted and is repeated", len(batch.messages))
            await self._call(self._producer.abort_transaction)
            await asyncio.sleep(_RETRY_S)
        self._metrics.commits["done"] += 1
        batch.unacknowledged = 0
        self.complete(Published(self, batch, outcomes))

    def _produce(self, message: Message, outcome: Outcome) -> None:
        """Without a delivery report: the commit fails if the message is not delivered."""
        if isinstance(outcome, Rejection):
            value, headers = message.value(), rejected_headers(message, outcome)
            if value is not None and len(value) > WHOLE_BYTES:
                value, headers = value[:TRUNCATED_BYTES], [*headers, (f"{REJECTED}truncated", "true")]
            self._producer.produce(self._rejected, value, message.key(), headers=headers)
            return
        headers = decision_headers(message, version_headers(outcome.version))
        self._producer.produce(self._decisions, outcome.body, message.key(), headers=headers)

    async def _committed(self, offsets: list[TopicPartition]) -> bool:
        """Commit; False if the transaction must be aborted."""
        try:
            if offsets:
                await self._call(self._producer.send_offsets_to_transaction, offsets, self._consumer().group)
            await self._call(self._producer.commit_transaction)
        except KafkaException as error:
            if not error.args[0].txn_requires_abort():
                raise
            self._errors.seen(error.args[0])
            return False
        return True

    async def _call(self, call: Callable[..., None], *arguments: object) -> None:
        """Call in a thread, again while the error says that it may be repeated. Raises KafkaException."""
        while True:
            try:
                await asyncio.to_thread(call, *arguments, _TIMEOUT_S)
            except KafkaException as error:
                if not error.args[0].retriable():
                    raise
                self._errors.seen(error.args[0])
                await asyncio.sleep(_RETRY_S)
            else:
                return
