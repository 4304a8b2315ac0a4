"""Publishes a batch and the offsets after it in one transaction of Kafka: an option, and not what correctness rests on.

Readers of committed records see a batch at its commit, and none of one that was aborted. The online store is no part of
the transaction: what is published a second time is recognised as without it. Prediction records are not waited for.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from confluent_kafka import KafkaException, Producer, TopicPartition

from fraud_serving.stream.errors import ClientErrors
from fraud_serving.stream.progress import Batch

_log = logging.getLogger(__name__)
_TIMEOUT_S: Final = 30.0
_RETRY_S: Final = 1.0
OffsetsOf = Callable[[Batch], tuple[list[TopicPartition], Any]]
"""The offsets after a batch of the partitions that are still assigned, and the group's metadata of the consumer."""


class Transactions:
    """One transaction at a time. Used on the event loop; what blocks runs in a thread."""

    def __init__(self, producer: Producer, errors: ClientErrors) -> None:
        self._producer, self._errors = producer, errors

    async def start(self) -> None:
        """Get an id from the broker. Waits for the broker."""
        await self._call(self._producer.init_transactions)

    async def publish(self, batch: Batch, produce: Callable[[], None], offsets_of: OffsetsOf) -> None:
        """Produce and commit, and do both again after an abort. Raises KafkaException if only a restart helps."""
        while True:
            self._producer.begin_transaction()
            produce()
            if await self._committed(batch, offsets_of):
                return
            _log.warning("a transaction of %d messages was aborted and is repeated", len(batch.messages))
            await self._call(self._producer.abort_transaction)

    async def _committed(self, batch: Batch, offsets_of: OffsetsOf) -> bool:
        """Commit; False if the transaction must be aborted."""
        offsets, metadata = offsets_of(batch)
        try:
            if offsets:
                await self._call(self._producer.send_offsets_to_transaction, offsets, metadata)
            await self._call(self._producer.commit_transaction)
        except KafkaException as error:
            if not error.args[0].txn_requires_abort():
                raise
            self._errors.seen(error.args[0])
            return False
        return True

    async def _call(self, call: Callable[..., None], *arguments: Any) -> None:  # noqa: ANN401 - passed on
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
