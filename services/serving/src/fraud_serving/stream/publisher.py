"""Publishes decisions and rejected messages, and counts what the broker acknowledges.

The producer is idempotent and retries without end. What it gives up nevertheless, as for a topic that is missing, is
published again in the same order; nothing else is published until then.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from fraud_serving.scoring.messages import Decision
from fraud_serving.stream.errors import ClientErrors
from fraud_serving.stream.messages import REJECTED, Headers, Rejection, decision_headers, rejected_headers
from fraud_serving.stream.metrics import StreamMetrics
from fraud_serving.stream.progress import Batch, Progress
from fraud_serving.stream.settings import StreamSettings

_log = logging.getLogger(__name__)
TRUNCATED_BYTES: Final = 65_536
"""What is published of a rejected message that the broker refuses as too large."""
_POLL_S: Final = 0.2
_RETRY_S: Final = 1.0

Outcome = Decision | Rejection


class _Item:
    """What is published for one message."""

    __slots__ = ("batch", "headers", "key", "message", "outcome", "topic", "value")

    def __init__(
        self, batch: Batch, message: Message, outcome: Outcome, topic: str, value: bytes | None, headers: Headers
    ) -> None:
        self.batch, self.message, self.outcome, self.topic = batch, message, outcome, topic
        self.key, self.value, self.headers = message.key(), value, headers


class Publisher:
    """One producer and the thread that runs its callbacks. `publish` and `close` run on the event loop."""

    def __init__(
        self, settings: StreamSettings, progress: Progress, metrics: StreamMetrics, errors: ClientErrors
    ) -> None:
        self._settings, self._progress, self._metrics, self._errors = settings, progress, metrics, errors
        self._producer = Producer({**settings.producer(), "error_cb": errors.seen}, logger=errors.logger)
        self._failed: list[_Item] = []
        self._ready = asyncio.Event()
        self._ready.set()
        self._retrying: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="stream-producer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    async def close(self) -> None:
        """End the thread. What is not acknowledged is dropped: its offsets are not committed."""
        self._stop.set()
        if self._retrying is not None:
            self._retrying.cancel()
        await asyncio.to_thread(self._thread.join)
        self._producer.purge()

    async def publish(self, batch: Batch, outcomes: Sequence[Outcome]) -> None:
        """Pass the outcomes of a batch to the producer, in order of the messages."""
        decisions, rejected = self._settings.decisions_topic, self._settings.rejected_topic
        versions: dict[str, bytes] = {}
        for message, outcome in zip(batch.messages, outcomes, strict=True):
            if isinstance(outcome, Rejection):
                headers: Headers = rejected_headers(message, outcome)
                item = _Item(batch, message, outcome, rejected, message.value(), headers)
            else:
                version = versions.get(outcome.version) or versions.setdefault(
                    outcome.version, outcome.version.encode()
                )
                item = _Item(batch, message, outcome, decisions, outcome.body, decision_headers(message, version))
            while not self._ready.is_set():
                await self._ready.wait()
            while not self._produced(item):
                await asyncio.sleep(_POLL_S)

    def _produced(self, item: _Item) -> bool:
        """Pass an item to the producer; False while its queue is full."""
        try:
            self._producer.produce(
                item.topic, item.value, item.key, headers=list(item.headers), on_delivery=partial(self._delivered, item)
            )
        except BufferError:
            return False
        except KafkaException as error:
            self._give_up(item, error.args[0])
        return True

    def _delivered(self, item: _Item, error: KafkaError | None, _message: Message) -> None:
        """The broker acknowledged an item, or it was given up. Called on the producer's thread."""
        if error is not None:
            self._loop.call_soon_threadsafe(self._give_up, item, error)
            return
        metrics, outcome, batch = self._metrics, item.outcome, item.batch
        if isinstance(outcome, Rejection):
            metrics.rejected[outcome.reason] += 1
        elif outcome.repeated:
            metrics.repeated += 1
        else:
            metrics.decided += 1
        metrics.decision.observe(max(0.0, time.time() - item.message.timestamp()[1] / 1e3))
        batch.unacknowledged -= 1
        if not batch.unacknowledged:
            self._progress.acknowledged(batch)

    def _give_up(self, item: _Item, error: KafkaError) -> None:
        """Publish an item again later, and nothing before."""
        if error.code() == KafkaError._PURGE_QUEUE or error.code() == KafkaError._PURGE_INFLIGHT:  # noqa: SLF001
            return
        self._errors.seen(error)
        if error.code() == KafkaError.MSG_SIZE_TOO_LARGE and item.value is not None and len(item.value) > TRUNCATED_BYTES:
            item.value = item.value[:TRUNCATED_BYTES]
            item.headers = [*item.headers, (f"{REJECTED}truncated", "true")]
        self._failed.append(item)
        self._ready.clear()
        if self._retrying is None:
            self._retrying = self._loop.create_task(self._retry())

    async def _retry(self) -> None:
        """Wait for the outcome of all items that were passed to the producer, then publish the failed ones again."""
        while self._failed:
            await asyncio.sleep(_RETRY_S)
            while len(self._producer):
                await asyncio.sleep(_POLL_S)
            failed, self._failed = self._failed, []
            _log.warning("%d messages are published again", len(failed))
            for item in failed:
                while not self._produced(item):
                    await asyncio.sleep(_POLL_S)
        self._retrying = None
        self._ready.set()

    def _poll(self) -> None:
        while not self._stop.is_set():
            self._producer.poll(_POLL_S)
