"""Which polled messages are decided, and from that the offsets to commit and whether there is room for more.

Shared by three threads: the consumer's polls, the event loop scores and publishes, the producer's acknowledges.
"""

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Final

from confluent_kafka import Message

from fraud_serving.log.prediction_log import PredictionLog
from fraud_serving.stream.metrics import StreamMetrics

_LOG_POLL_S: Final = 0.02
BATCHES_AT_ONCE: Final = 2
"""While one batch waits for the store, the next one is parsed or scored. A batch is polled when there is room for it,
so that it has all messages that arrived until then."""


def position(message: Message) -> tuple[int, int]:
    """Partition and offset of a message that was consumed."""
    partition, offset = message.partition(), message.offset()
    assert partition is not None  # noqa: S101 - for the type checker: a consumed message has both
    assert offset is not None  # noqa: S101
    return partition, offset


class Batch:
    """The messages of one poll, in order."""

    __slots__ = ("epochs", "log_mark", "messages", "next_offsets", "polled_ms", "unacknowledged")

    def __init__(self, messages: Sequence[Message], epochs: dict[int, int]) -> None:
        self.messages = messages
        self.unacknowledged = len(messages)
        """Written by the producer's thread."""
        self.next_offsets: dict[int, int] = {partition: offset + 1 for partition, offset in map(position, messages)}
        self.epochs = epochs
        """Partition -> number of its assignment, so that the offset of an earlier assignment is not committed."""
        self.log_mark = 0
        """Records that the prediction log had accepted when the batch was published."""


class Progress:
    """The batches that are not committed, in the order in which they were polled."""

    def __init__(self, log: PredictionLog, max_unacknowledged: int, metrics: StreamMetrics) -> None:
        self._log, self._max, self._metrics = log, max_unacknowledged, metrics
        self._changed = threading.Condition()
        self._batches: deque[Batch] = deque()
        self._processing = self._unacknowledged = 0

    def add(self, batch: Batch) -> None:
        """A batch was polled."""
        with self._changed:
            self._batches.append(batch)
            self._processing += 1
            self._unacknowledged += len(batch.messages)
            self._metrics.unacknowledged = self._unacknowledged

    def published(self) -> None:
        """A batch was passed to the producer."""
        with self._changed:
            self._processing -= 1
            self._changed.notify_all()

    def acknowledged(self, batch: Batch) -> None:
        """The broker has all decisions of a batch."""
        with self._changed:
            self._unacknowledged -= len(batch.messages)
            self._metrics.unacknowledged = self._unacknowledged
            self._changed.notify_all()

    def wait_for_room(self, seconds: float) -> bool:
        """Wait until another batch may be polled."""
        with self._changed:
            return self._changed.wait_for(self._has_room, seconds)

    def _has_room(self) -> bool:
        return self._processing < BATCHES_AT_ONCE and self._unacknowledged < self._max

    def wait_until_decided(self, seconds: float) -> bool:
        """Wait until the decisions of everything that was polled are acknowledged and their records are written."""
        deadline_s = time.monotonic() + seconds
        with self._changed:
            while not all(map(self._is_decided, self._batches)):
                if time.monotonic() >= deadline_s:
                    return False
                self._changed.wait(_LOG_POLL_S)
        return True

    def _is_decided(self, batch: Batch) -> bool:
        return not batch.unacknowledged and batch.log_mark <= self._log.written

    def decided(self) -> list[Batch]:
        """Remove and return the first batches whose decisions are acknowledged and whose records are written."""
        found: list[Batch] = []
        with self._changed:
            while self._batches and self._is_decided(self._batches[0]):
                found.append(self._batches.popleft())
        return found
