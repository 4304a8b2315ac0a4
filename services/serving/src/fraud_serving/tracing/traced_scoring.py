"""Store, inference and scorer with traces: the parts of an answer are timed, and records have the traceparent."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from fraud_serving.log.prediction_log import PredictionLog
from fraud_serving.log.prediction_record import PredictionRecord
from fraud_serving.metrics import Metrics
from fraud_serving.model.model import Model
from fraud_serving.request import ValidTransaction
from fraud_serving.scoring.inference import Inference
from fraud_serving.scoring.inputs import BaseValues, Features
from fraud_serving.scoring.reads import Reads
from fraud_serving.scoring.scorer import Scorer
from fraud_serving.scoring.state import State
from fraud_serving.store.cluster import ClusterStore
from fraud_serving.store.store import Replies, ServerStore, Store
from fraud_serving.tracing.trace import CURRENT


class _TracedStore(Store):
    """Adds the part `store` to the trace of the request: from the commands to their replies."""

    def send(self, commands: Sequence[bytes], count: int) -> Replies | None:
        future = super().send(commands, count)  # type: ignore[safe-super]
        if future is not None and (trace := CURRENT.get()) is not None and trace.sampled:
            trace.add_when_done("store", future)
        return future


class TracedServerStore(_TracedStore, ServerStore):
    """The store on one server, with traces."""


class TracedClusterStore(_TracedStore, ClusterStore):
    """The store on a cluster, with traces."""


class TracedInference(Inference):
    """Adds the part `inference`: from the features to the probability, with the other rows of the micro-batch."""

    def score(self, model: Model, base: BaseValues) -> "asyncio.Future[float]":
        future = super().score(model, base)
        if (trace := CURRENT.get()) is not None and trace.sampled:
            trace.add_when_done("inference", future)
        return future


class TracedScorer(Scorer):
    """Adds the part `parse` and the ids of the answers, and writes the traceparent to the prediction records."""

    def __init__(self, store: Store, log: PredictionLog, metrics: Metrics) -> None:
        super().__init__(store, log, metrics)
        self._inference = TracedInference()

    async def decide(self, state: State, request: Any, start_ns: int, *, explain: bool = False) -> bytes:  # noqa: ANN401
        if (trace := CURRENT.get()) is not None:
            trace.add("parse", start_ns)
        return await super().decide(state, request, start_ns, explain=explain)

    async def decide_batch(self, state: State, requests: Sequence[Any], start_ns: int) -> bytes:
        if (trace := CURRENT.get()) is not None:
            trace.add("parse", start_ns)
        return await super().decide_batch(state, requests, start_ns)

    def _finish(
        self,
        state: State,
        record: PredictionRecord,
        transaction: ValidTransaction,
        features: Features,
        reads: Reads,
        start_ns: int,
    ) -> None:
        _carry((record,))
        super()._finish(state, record, transaction, features, reads, start_ns)

    def finish_batch(self, logged: Sequence[tuple[PredictionRecord, object]], start_ns: int) -> None:
        _carry(record for record, _ in logged)
        super().finish_batch(logged, start_ns)


def _carry(records: Iterable[PredictionRecord]) -> None:
    """Write the traceparent of the request to its records, and their ids to its trace."""
    trace = CURRENT.get()
    if trace is None:
        return
    for record in records:
        record.traceparent = trace.header
        trace.prediction_ids.append(record.prediction_id)
        trace.version = record.model_version
