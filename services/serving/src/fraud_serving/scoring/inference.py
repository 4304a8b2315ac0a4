"""Inference: requests of one event-loop iteration share one call of the model."""

import asyncio
from collections.abc import Sequence
from typing import Final

import numpy as np

from fraud.core import rule, vector
from fraud.core.features import VECTOR_NAMES
from fraud_serving.model.model import Model
from fraud_serving.schema import ValidTransaction
from fraud_serving.scoring.history import UserHistory

RULE_VERSION: Final = "rule"
RULE_THRESHOLD: Final = 0.5
_NAN: Final = float("nan")
_ROWS_IN_LOOP: Final = 64
"""A larger batch is scored in a thread, so that single requests are answered meanwhile."""


class InferenceError(Exception):
    """The model call failed. The cause is in the log."""


class _MicroBatch:
    """Single requests whose histories arrived in one event-loop iteration: one inference call by one version.

    Requests are not delayed to fill a batch: the call runs before the event loop reads its sockets again. Batching
    changes no bit of a row's score (`Model.micro_batch_rows`).
    """

    __slots__ = ("_futures", "_rows", "model")

    def __init__(self, model: Model) -> None:
        self.model = model
        self._rows = np.empty((model.micro_batch_rows, len(VECTOR_NAMES)), dtype=np.float32)
        self._futures: list[asyncio.Future[float]] = []

    @property
    def full(self) -> bool:
        return len(self._futures) == len(self._rows)

    def add(self, transaction: ValidTransaction, history: UserHistory, future: "asyncio.Future[float]") -> None:
        velocity, average, merchants = history.windows
        vector.fill_row(
            self._rows[len(self._futures)], transaction.amount, transaction.hour, transaction.weekday,
            transaction.request.distance_from_home, transaction.category,
            velocity, average, merchants,  # type: ignore[arg-type] # the first and third are never null
        )  # fmt: skip
        self._futures.append(future)

    def run(self) -> None:
        """Score the rows and set the futures; set InferenceError if the model call raised."""
        probabilities: list[float] | None = None
        try:
            probabilities = self.model.score(self._rows[: len(self._futures)]).tolist()
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

    def score(self, model: Model, transaction: ValidTransaction, history: UserHistory) -> "asyncio.Future[float]":
        """The fraud probability, at the end of this event-loop iteration. The future may hold InferenceError."""
        loop, batch = asyncio.get_running_loop(), self._open
        if batch is None or batch.model is not model or batch.full:
            batch = self._open = _MicroBatch(model)
            loop.call_soon(self._run, batch)
        future: asyncio.Future[float] = loop.create_future()
        batch.add(transaction, history, future)
        return future

    def _run(self, batch: _MicroBatch) -> None:
        if self._open is batch:
            self._open = None
        batch.run()


async def score_batch(model: Model, rows: Sequence[ValidTransaction], histories: Sequence[UserHistory]) -> list[float]:
    """The fraud probabilities of the rows of one batch request."""
    table = vector.fill_table(
        np.array([row.amount for row in rows], dtype=np.float64),
        np.array([row.hour for row in rows], dtype=np.int64),
        np.array([row.weekday for row in rows], dtype=np.int64),
        np.array([nan_if_none(row.request.distance_from_home) for row in rows], dtype=np.float64),
        np.array([row.category for row in rows], dtype=np.int64),
        np.array([history.windows[0] for history in histories], dtype=np.float64),
        np.array([nan_if_none(history.windows[1]) for history in histories], dtype=np.float64),
        np.array([history.windows[2] for history in histories], dtype=np.int64),
    )
    scores = model.score(table) if len(rows) <= _ROWS_IN_LOOP else await asyncio.to_thread(model.score, table)
    probabilities: list[float] = scores.tolist()
    return probabilities


def rule_probability(transaction: ValidTransaction) -> float:
    """The score while no model is loaded: 1.0 or 0.0, by the level 0 rule."""
    return 1.0 if rule.is_fraud(transaction.amount, transaction.hour) else 0.0


def nan_if_none(value: float | None) -> float:
    return _NAN if value is None else value
