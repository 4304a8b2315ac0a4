"""Takes polled batches and publishes their decisions: parse, read the store, score, keep the answers, publish.

Two batches overlap: while one waits for the store, the event loop works on the other. Each step of a batch is run after
the same step of the batch before, so that order per user holds over batches and inside them.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Final

from confluent_kafka import Message

from fraud.core.contract import MAX_FUTURE_SKEW_US
from fraud_serving.scoring.messages import MessageScorer, Replies
from fraud_serving.scoring.scorer import Scorer
from fraud_serving.store.connection import Reply
from fraud_serving.stream.errors import ClientErrors
from fraud_serving.stream.messages import Rejection, read_all, traceparent
from fraud_serving.stream.progress import Batch, Progress
from fraud_serving.stream.publisher import Outcome, Publisher

_log = logging.getLogger(__name__)
_STEPS: Final = 3


class _Steps:
    """The steps of one batch: when each is done, the next batch may run it."""

    __slots__ = ("done",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.done = [loop.create_future() for _ in range(_STEPS)]

    def finish(self, step: int) -> None:
        if not self.done[step].done():
            self.done[step].set_result(None)


class Worker:
    """Processes batches on the event loop."""

    def __init__(
        self, scorer: Scorer, messages: MessageScorer, publisher: Publisher, progress: Progress, errors: ClientErrors,
        max_bytes: int, *, traces: bool,
    ) -> None:  # fmt: skip
        self._scorer, self._messages, self._publisher, self._progress = scorer, messages, publisher, progress
        self._errors = errors
        self._max_bytes, self._traces = max_bytes, traces
        self._loop = asyncio.get_running_loop()
        self._last: _Steps | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def take(self, batch: Batch) -> None:
        """Process a batch on the event loop, after those before. Called on the consumer's thread."""
        self._loop.call_soon_threadsafe(self._start, batch)

    def _start(self, batch: Batch) -> None:
        before, steps = self._last, _Steps(self._loop)
        self._last = steps
        task = self._loop.create_task(self._process(batch, before, steps))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _process(self, batch: Batch, before: _Steps | None, steps: _Steps) -> None:
        with self._errors.fatal("a batch"):
            outcomes = await self._outcomes_or_reasons(batch, before, steps)
            if before is not None:
                await before.done[2]
            batch.log_mark = self._messages.log.accepted
            await self._publisher.publish(batch, outcomes)
            for step in range(_STEPS):
                steps.finish(step)
            self._progress.published()

    async def _outcomes_or_reasons(self, batch: Batch, before: _Steps | None, steps: _Steps) -> Sequence[Outcome]:
        """The outcome of each message. If scoring the batch raises, each message is scored alone."""
        try:
            return await self._outcomes(batch.messages, before, steps)
        except Exception:  # noqa: BLE001 - whatever it is, it must not stop the partition
            _log.exception("a batch of %d messages could not be scored", len(batch.messages))
        if before is not None:
            await before.done[2]
        found: list[Outcome] = []
        for message in batch.messages:
            try:
                found += await self._outcomes([message], None, None)
            except Exception as error:  # noqa: BLE001 - as above
                _log.exception("the message at %d, %d is rejected", message.partition(), message.offset())
                found.append(Rejection("internal", f"scoring raised {type(error).__name__}; its log has the cause"))
        return found

    async def _outcomes(
        self, messages: Sequence[Message], before: _Steps | None, steps: _Steps | None
    ) -> Sequence[Outcome]:
        start_ns, latest_us = time.perf_counter_ns(), time.time_ns() // 1000 + MAX_FUTURE_SKEW_US
        state = self._scorer.state
        found = read_all(messages, state.requests, self._max_bytes, latest_us)
        rows = [of for of in found if not isinstance(of, Rejection)]
        if not rows:
            return [of for of in found if isinstance(of, Rejection)]
        if before is not None:
            await before.done[0]
        reading = self._messages.read(state, rows, start_ns)
        if self._traces:
            pairs = zip(messages, found, strict=True)
            reading.traceparents = [traceparent(message) for message, of in pairs if not isinstance(of, Rejection)]
        if steps is not None:
            steps.finish(0)
        replies = await _replies(reading.replies)
        if before is not None:
            await before.done[1]
        scored = self._messages.score(reading, replies)
        if steps is not None:
            steps.finish(1)
        decisions = iter(self._messages.finish(scored, await _replies(scored.replies)))
        return [of if isinstance(of, Rejection) else next(decisions) for of in found]


async def _replies(future: Replies) -> list[Reply] | None:
    return None if future is None else await future
