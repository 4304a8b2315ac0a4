"""The decision path, in the order in which a request takes it:

1. `RequestType.validated` checks the transaction;
2. `reads` appends it to the stored histories and reads the daily rows, in one round trip;
3. `inputs` computes the features;
4. `retries` returns the first answer if this is a retry;
5. `inference` scores the vector;
6. `answer` builds the answer and its prediction record;
7. the answer is kept for retries, counted in the metrics and logged.

A request reads `Scorer.state` once, before it is parsed, so one version makes the whole answer, also of a batch and
with reasons, whatever is swapped in meanwhile.
"""

import asyncio
import secrets
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import msgspec
import numpy as np

from fraud.core.contract import MAX_FUTURE_SKEW_US
from fraud.core.vector import Floats
from fraud_serving.log.prediction_log import PredictionLog
from fraud_serving.log.prediction_record import Lines, PredictionRecord
from fraud_serving.metrics import Metrics
from fraud_serving.request import ValidTransaction
from fraud_serving.schema import Answer, Answers, ContractError
from fraud_serving.scoring.answer import Verdicts, answer_to, record_of
from fraud_serving.scoring.batch_inputs import BatchFeatures
from fraud_serving.scoring.challenger import shadow_of
from fraud_serving.scoring.inference import RULE_VERSION, Inference, rule_probability, score_batch
from fraud_serving.scoring.inputs import NO_FEATURES, BaseValues, Features
from fraud_serving.scoring.reads import Reads, fill, read_all
from fraud_serving.scoring.reasons import reasons_of
from fraud_serving.scoring.retries import FirstAnswers
from fraud_serving.scoring.state import State
from fraud_serving.store.daily_snapshots import DailySnapshots
from fraud_serving.store.store import Store

_encode = msgspec.json.Encoder().encode
ROWS_PER_ITERATION: Final = 200
"""Rows of a batch that are processed in one event-loop iteration, so that single requests are answered meanwhile."""


class Scorer:
    """The decision path of one process. A swap replaces `state`."""

    def __init__(self, store: Store, log: PredictionLog, metrics: Metrics) -> None:
        self.state = State()
        self.snapshots: Final = DailySnapshots(store, metrics, lambda: self.state.reads.tables)
        self._store, self._log, self.metrics = store, log, metrics
        self._first_answers, self._inference = FirstAnswers(store, metrics), Inference()
        self._process, self._count = secrets.token_hex(8), 0

    async def decide(self, state: State, request: Any, start_ns: int, *, explain: bool = False) -> bytes:  # noqa: ANN401
        """The answer to one transaction, as JSON; `explain` adds its reasons. Raises ContractError, InferenceError.

        `request` is what `state.requests` parsed.
        """
        transaction = state.requests.validated(request, _latest_us())
        reads, commands = state.reads.commands(transaction, self.snapshots)
        if commands:
            future = self._store.send(commands, len(commands))
            fill(reads, None if future is None else await future)
        inputs, model = state.inputs, state.production
        base: BaseValues = ()
        if inputs is None or model is None:
            features, probability = NO_FEATURES, rule_probability(transaction)
        else:
            features = inputs.features(transaction, transaction.values, reads)
            if features.repeated and (first := await self._first_answers.find(transaction)) is not None:
                return _encode(first)
            base = inputs.base_values(transaction, transaction.values, features.values)
            probability = await self._inference.score(model, base)

        answer = answer_to(state, transaction, features, probability, self._new_prediction_id())
        record = record_of(answer, state, transaction, features)
        if explain:
            reasons = [] if model is None or inputs is None else await reasons_of(model, inputs, base)
            answer = msgspec.structs.replace(answer, reasons=reasons)
        body = _encode(answer)

        if features.sequences and not features.store_failed:
            self._first_answers.keep(transaction, body)
        self._count_input(state, transaction, features)
        self._finish(state, record, transaction, features, reads, start_ns)
        return body

    async def decide_batch(self, state: State, requests: Sequence[Any], start_ns: int) -> bytes:
        """The answers to 1..MAX_BATCH_ROWS transactions, as JSON. Raises ContractError naming the row."""
        rows = await _validated_batch(state, requests)
        reads = await read_all(state.reads, self._store, self.snapshots, rows, ROWS_PER_ITERATION)
        model, inputs = state.production, state.batch_inputs
        features: list[Features] = []
        if model is None or inputs is None:
            features = [NO_FEATURES] * len(rows)
            probabilities = [rule_probability(row) for row in rows]
        else:
            values: list[Floats] = []
            for start, of in zip(range(0, len(rows), ROWS_PER_ITERATION), reads, strict=True):
                found = inputs.features(rows[start : start + ROWS_PER_ITERATION], of)
                features += found.of_rows()
                values.append(found.values)
                await asyncio.sleep(0)
            base = partial(inputs.base_columns, rows, np.concatenate(values, axis=1))
            probabilities = await score_batch(model, len(rows), base)
        answers: list[Answer] = []
        logged: list[tuple[PredictionRecord, object]] = []
        counted: list[tuple[ValidTransaction, Features]] = []
        shadowed = state.challenger is not None
        for i, (row, own, probability) in enumerate(zip(rows, features, probabilities, strict=True)):
            answer = await self._first_answers.find(row) if own.repeated else None
            if answer is None:
                answer = answer_to(state, row, own, probability, self._new_prediction_id())
                shadow = None
                if shadowed:
                    part, at = divmod(i, ROWS_PER_ITERATION)
                    shadow = shadow_of(state, row, own.values, reads[part].of_row(at))
                logged.append((record_of(answer, state, row, own), shadow))
                counted.append((row, own))
                if own.sequences and not own.store_failed:
                    self._first_answers.keep(row, _encode(answer))
            answers.append(answer)
            if i % ROWS_PER_ITERATION == ROWS_PER_ITERATION - 1:
                await asyncio.sleep(0)
        for row, own in counted:
            self._count_input(state, row, own)
        body = _encode(Answers(model.version if model else RULE_VERSION, answers))
        self.finish_batch(logged, start_ns)
        return body

    def _new_prediction_id(self) -> str:
        self._count += 1
        return f"{self._process}-{self._count:x}"

    def _count_input(self, state: State, transaction: ValidTransaction, features: Features) -> None:
        """`count_inputs` of a single request."""
        metrics, inputs = self.metrics, state.inputs
        metrics.history[features.source] += 1
        for table in features.daily:
            metrics.daily[table] += 1
        if features.store_failed:
            metrics.degraded["store"] += 1
        if inputs is None:
            metrics.degraded["model"] += 1
        else:
            metrics.unknown_category += inputs.unknown_categories(transaction, transaction.values)

    def count_inputs(
        self, state: State, transactions: Sequence[ValidTransaction], features: BatchFeatures, rows: Sequence[int]
    ) -> None:
        """Count what the answers at `rows` were computed from."""
        metrics, inputs = self.metrics, state.batch_inputs
        columns: list[Sequence[Any]] = [features.sources, features.store_failed, transactions, *features.daily]
        if len(rows) < len(transactions):
            columns = [[column[i] for i in rows] for column in columns]
        sources, failed, counted, *daily = columns
        # Counted in C: a loop takes ten times as long.
        metrics.history.update(sources)
        for states in daily:
            metrics.daily.update(filter(None, states))
        metrics.degraded["store"] += sum(failed)
        if inputs is None:
            metrics.degraded["model"] += len(rows)
        else:
            metrics.unknown_category += inputs.unknown_categories(counted)

    def _finish(
        self,
        state: State,
        record: PredictionRecord,
        transaction: ValidTransaction,
        features: Features,
        reads: Reads,
        start_ns: int,
    ) -> None:
        """Count the answer and queue its record."""
        elapsed_ns = time.perf_counter_ns() - start_ns
        record.served_us = time.time_ns() // 1000
        record.latency_us = elapsed_ns // 1000
        self.metrics.observe(record.amount, record.fraud_probability, record.threshold, elapsed_ns * 1e-9)
        self._log.append(record, shadow_of(state, transaction, features.values, reads))

    def finish_batch(self, logged: Sequence[tuple[PredictionRecord, object]], start_ns: int) -> None:
        """Count the answers of a batch, which share one time and latency, and queue their records."""
        if not logged:
            return
        elapsed_ns, now_us = time.perf_counter_ns() - start_ns, time.time_ns() // 1000
        records, latency_us = [record for record, _ in logged], elapsed_ns // 1000
        for record in records:
            record.served_us, record.latency_us = now_us, latency_us
        self._log.append_all(logged)
        self.metrics.observe_all(
            [r.amount for r in records], [r.fraud_probability for r in records], records[0].threshold, elapsed_ns * 1e-9
        )

    def finish_lines(
        self,
        lines: Lines,
        rows: Sequence[int],
        amounts: Sequence[float],
        verdicts: Verdicts,
        start_ns: int,
        traceparents: Sequence[str | None] = (),
    ) -> None:
        """`finish_batch` of the answers at `rows`, whose records are encoded already. `traceparents`: of all rows."""
        if not rows:
            return
        elapsed_ns, now_us = time.perf_counter_ns() - start_ns, time.time_ns() // 1000
        self._log.append_lines(lines.served(rows, now_us, elapsed_ns // 1000, traceparents), len(rows))
        probabilities = verdicts.probabilities
        if len(rows) < len(amounts):
            amounts, probabilities = [amounts[i] for i in rows], [probabilities[i] for i in rows]
        self.metrics.observe_all(amounts, probabilities, verdicts.threshold, elapsed_ns * 1e-9)


async def _validated_batch(state: State, requests: Sequence[Any]) -> list[ValidTransaction]:
    latest_us, rows, validated = _latest_us(), list[ValidTransaction](), state.requests.validated
    for i, request in enumerate(requests):
        try:
            rows.append(validated(request, latest_us))
        except ContractError as error:
            raise ContractError(f"transactions[{i}].{error.field}", error.reason) from None
        if i % ROWS_PER_ITERATION == ROWS_PER_ITERATION - 1:
            await asyncio.sleep(0)
    return rows


def _latest_us() -> int:
    return time.time_ns() // 1000 + MAX_FUTURE_SKEW_US
