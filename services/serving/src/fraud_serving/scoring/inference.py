"""Inference: requests of one event-loop iteration share one call of the model."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from fraud.core import rule
from fraud.core.vector import Floats
from fraud_serving.model.model import Model
from fraud_serving.request import ValidTransaction
from fraud_serving.scoring.inputs import BaseValues

RULE_VERSION: Final = "rule"
RULE_THRESHOLD: Final = 0.5
_FLOAT_BYTES: Final = 4
_ROWS_IN_LOOP: Final = 64
"""A larger batch is scored in a thread, so that single requests are answered meanwhile."""


class InferenceError(Exception):
    """The model call failed. The cause is in the log."""


class _MicroBatch:
    """Single requests whose histories arrived in one event-loop iteration: one inference call by one version.

    Requests are not delayed to fill a batch: the call runs before the event loop reads its sockets again. Batching
    changes no bit of a row's score (`Model.micro_batch_rows`).
    """

    __slots__ = ("_futures", "_rows", "loop", "model")

    def __init__(self, model: Model, loop: asyncio.AbstractEventLoop) -> None:
        self.model, self.loop = model, loop
        self._rows: list[BaseValues] = []
        self._futures: list[asyncio.Future[float]] = []

    @property
    def full(self) -> bool:
        return len(self._futures) == self.model.micro_batch_rows

    def add(self, base: BaseValues) -> "asyncio.Future[float]":
        future: asyncio.Future[float] = self.loop.create_future()
        self._rows.append(base)
        self._futures.append(future)
        return future

    def run(self) -> None:
        """Score the rows and set the futures; set InferenceError if the model call raised."""
        probabilities: list[float] | None = None
        try:
            vector, count = self.model.plan.vector, len(self._rows)
            row_bytes = _FLOAT_BYTES * len(vector.names)
            buffer = bytearray(count * row_bytes)
            for i, base in enumerate(self._rows):
                vector.write(buffer, i * row_bytes, base)
            probabilities = self.model.score(np.frombuffer(buffer, np.float32).reshape(count, -1)).tolist()
        finally:  # the event loop's exception handler logs the exception once
            for i, future in enumerate(self._futures):
                if future.done():  # cancelled
                    continue
                if probabilities is None:
                    future.set_exception(InferenceError())
                else:
                    future.set_result(probabilities[i])


class Inference:
    """Collects single requests into micro-batches."""

    def __init__(self) -> None:
        self._open: _MicroBatch | None = None

    def score(self, model: Model, base: BaseValues) -> "asyncio.Future[float]":
        """The fraud probability, at the end of this event-loop iteration. The future may hold InferenceError."""
        batch = self._open
        if batch is None or batch.model is not model or batch.full:
            batch = self._open = _MicroBatch(model, asyncio.get_running_loop())  # a system call: once per batch
            batch.loop.call_soon(self._run, batch)
        return batch.add(base)

    def _run(self, batch: _MicroBatch) -> None:
        if self._open is batch:
            self._open = None
        batch.run()


async def score_batch(model: Model, rows: int, base: Callable[[], Sequence[Floats]]) -> list[float]:
    """The fraud probabilities of the rows of one batch request. `base` returns the argument of `Vector.table`."""

    def score() -> list[float]:
        scores: list[float] = model.score(model.plan.vector.table(base())).tolist()
        return scores

    return score() if rows <= _ROWS_IN_LOOP else await asyncio.to_thread(score)


def rule_probability(transaction: ValidTransaction) -> float:
    """The score while no model is loaded: 1.0 or 0.0, by the level 0 rule."""
    return 1.0 if rule.is_fraud(transaction.amount, transaction.hour) else 0.0
