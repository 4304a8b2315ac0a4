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

import numpy as np
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from fraud_serving.scoring.messages import Decision
from fraud_serving.stream.errors import ClientErrors
from fraud_serving.stream.messages import (
    REJECTED,
    Headers,
    Rejection,
    decision_headers,
    rejected_headers,
    version_headers,
)
from fraud_serving.stream.metrics import StreamMetrics
from fraud_serving.stream.progress import Batch, Progress
from fraud_serving.stream.settings import StreamSettings

_log = logging.getLogger(__name__)
TRUNCATED_BYTES: Final = 65_536
"""What is published of a rejected message that the broker refuses as too large."""
_POLL_S: Final = 0.2
_RETRY_S: Final = 1.0

Outcome = Decision | Rejection


class Published:
    """A batch whose outcomes are published. The producer's thread calls `delivered` for each decision."""

    __slots__ = ("_publisher", "batch", "outcomes")

    def __init__(self, publisher: "Publisher", batch: Batch, outcomes: Sequence[Outcome]) -> None:
        self._publisher, self.batch, self.outcomes = publisher, batch, outcomes

    def delivered(self, error: KafkaError | None, report: Message) -> None:
        """The broker acknowledged a decision, or it was given up."""
        if error is not None:
            self._publisher.given_up(self._item_of(report), error)
            return
        self.acknowledged()

    def acknowledged(self) -> None:
        """Count one message; the last one completes the batch."""
        batch = self.batch
        batch.unacknowledged -= 1
        if not batch.unacknowledged:
            self._publisher.complete(self)

    def _item_of(self, report: Message) -> "_Item":
        """What was published. Two decisions with equal bytes are the same answer."""
        value = report.value()
        message, decision = next(
            (message, outcome)
            for message, outcome in zip(self.batch.messages, self.outcomes, strict=True)
            if isinstance(outcome, Decision) and outcome.body == value
        )
        headers = decision_headers(message, version_headers(decision.version))
        return _Item(self, report.topic() or "", message.key(), value, headers)


class _Item:
    """A message that is published on its own: a rejected one, or a decision that was given up before."""

    __slots__ = ("headers", "key", "published", "topic", "value")

    def __init__(
        self, published: Published, topic: str, key: bytes | None, value: bytes | None, headers: Headers
    ) -> None:
        self.published, self.topic, self.key, self.value, self.headers = published, topic, key, value, headers


class Publisher:
    """One producer and the thread that runs its callbacks. `publish` and `close` run on the event loop."""

    def __init__(
        self, settings: StreamSettings, progress: Progress, metrics: StreamMetrics, errors: ClientErrors
    ) -> None:
        self._decisions, self._rejected = settings.decisions_topic, settings.rejected_topic
        self._progress, self._metrics, self._errors = progress, metrics, errors
        self._producer = Producer({**settings.producer(), "error_cb": errors.seen}, logger=errors.logger)
        self._headers: dict[str, Headers] = {}
        self._failed: list[_Item] = []
        self._ready = asyncio.Event()
        self._ready.set()
        self._retrying: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="stream-producer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
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
        published, produce, topic = Published(self, batch, outcomes), self._producer.produce, self._decisions
        delivered, known = published.delivered, self._headers
        for message, outcome in zip(batch.messages, outcomes, strict=True):
            if not self._ready.is_set():
                await self._ready.wait()
            if isinstance(outcome, Rejection):
                headers = rejected_headers(message, outcome)
                await self._publish_item(_Item(published, self._rejected, message.key(), message.value(), headers))
                continue
            body, version, _ = outcome
            headers = known.get(version) or known.setdefault(version, version_headers(version))
            if message.headers() is not None:
                headers = decision_headers(message, headers)
            try:
                produce(topic, body, message.key(), headers=headers, on_delivery=delivered)
            except (BufferError, KafkaException):
                await self._publish_item(_Item(published, topic, message.key(), body, headers))

    async def _publish_item(self, item: _Item) -> None:
        while not self._produced(item):  # noqa: ASYNC110 - the producer has no event for this
            await asyncio.sleep(_POLL_S)

    def _produced(self, item: _Item) -> bool:
        """Pass an item to the producer; False while its queue is full."""
        try:
            self._producer.produce(
                item.topic, item.value, item.key, headers=item.headers, on_delivery=partial(self._delivered, item)
            )
        except BufferError:
            return False
        except KafkaException as error:
            self._give_up(item, error.args[0])
        return True

    def _delivered(self, item: _Item, error: KafkaError | None, _report: Message) -> None:
        if error is None:
            item.published.acknowledged()
        else:
            self.given_up(item, error)

    def given_up(self, item: _Item, error: KafkaError) -> None:
        """The producer gave an item up. Called on its thread."""
        self._loop.call_soon_threadsafe(self._give_up, item, error)

    def complete(self, published: Published) -> None:
        """The broker has everything of a batch: count it. Called on the producer's thread."""
        metrics, rejections, repeated = self._metrics, 0, 0
        for outcome in published.outcomes:
            if isinstance(outcome, Rejection):
                metrics.rejected[outcome.reason] += 1
                rejections += 1
            else:
                repeated += outcome.repeated
        metrics.repeated += repeated
        metrics.decided += len(published.outcomes) - rejections - repeated
        sent_ms = np.array([message.timestamp()[1] for message in published.batch.messages], dtype=np.float64)
        metrics.decision.observe_all(np.maximum(time.time() - sent_ms / 1e3, 0.0))
        self._progress.acknowledged(published.batch)

    def _give_up(self, item: _Item, error: KafkaError) -> None:
        """Publish an item again later, and nothing before."""
        if error.code() in (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT):  # noqa: SLF001 - their names
            return
        self._errors.seen(error)
        if error.code() == KafkaError.MSG_SIZE_TOO_LARGE and item.value and len(item.value) > TRUNCATED_BYTES:
            item.value = item.value[:TRUNCATED_BYTES]
            item.headers = [*item.headers, (f"{REJECTED}truncated", "true")]
        self._failed.append(item)
        self._ready.clear()
        if self._retrying is None:
            self._retrying = self._loop.create_task(self._retry())

    async def _retry(self) -> None:
        """Wait for the reports of all that was passed to the producer, then publish the failed items again."""
        while self._failed:
            await asyncio.sleep(_RETRY_S)
            while len(self._producer):  # noqa: ASYNC110 - it has no event for this
                await asyncio.sleep(_POLL_S)
            await asyncio.sleep(_POLL_S)  # for the last reports to arrive on the event loop
            failed, self._failed = self._failed, []
            _log.warning("%d messages are published again", len(failed))
            for item in failed:
                await self._publish_item(item)
        self._retrying = None
        self._ready.set()

    def _poll(self) -> None:
        with self._errors.fatal("the producer"):
            while not self._stop.is_set():
                self._producer.poll(_POLL_S)
