"""The decision path, in the order in which a request takes it:

1. `schema.validated` checks the transaction;
2. `history` appends it to the user's stored history and computes the window features;
3. `retries` returns the first answer if this is a retry;
4. `inference` scores the vector;
5. `answer` builds the answer and its prediction record;
6. the answer is kept for retries, counted in the metrics and logged.

A request reads `Scorer.model` once, so one version makes the whole answer, also of a batch and with reasons, whatever
is swapped in meanwhile.
"""

import asyncio
import secrets
import time
from collections.abc import Sequence

import msgspec

from fraud.core.contract import CATEGORY_INDEX, MAX_FUTURE_SKEW_US, OTHER_INDEX
from fraud_serving.log.prediction_log import PredictionLog
from fraud_serving.log.prediction_record import PredictionRecord
from fraud_serving.metrics import Metrics
from fraud_serving.model.model import Model
from fraud_serving.schema import Answer, Answers, ContractError, Transaction, ValidTransaction, validated
from fraud_serving.scoring.answer import answer_to, record_of
from fraud_serving.scoring.history import (
    ROWS_PER_ITERATION,
    UserHistory,
    append_event,
    histories_of,
    history_from_reply,
    history_from_request,
)
from fraud_serving.scoring.inference import RULE_VERSION, Inference, rule_probability, score_batch
from fraud_serving.scoring.reasons import reasons_of
from fraud_serving.scoring.retries import FirstAnswers
from fraud_serving.store.store import Store

_encode = msgspec.json.Encoder().encode


class Scorer:
    """The decision path of one process. A swap replaces `model`; None: the level 0 rule decides."""

    def __init__(self, store: Store, log: PredictionLog, metrics: Metrics) -> None:
        self.model: Model | None = None
        self._store, self._log, self._metrics = store, log, metrics
        self._first_answers, self._inference = FirstAnswers(store, metrics), Inference()
        self._process, self._count = secrets.token_hex(8), 0

    async def decide(self, request: Transaction, start_ns: int, *, explain: bool = False) -> bytes:
        """The answer to one transaction, as JSON; `explain` adds its reasons. Raises ContractError, InferenceError."""
        transaction = validated(request, _latest_us())
        request = transaction.request

        if request.user_id is None:
            history = history_from_request(request)
        else:
            reply = append_event(self._store, transaction)
            history = history_from_reply(transaction, None if reply is None else await reply)
        if history.repeated and (first := await self._first_answers.find(request)) is not None:
            return _encode(first)

        model = self.model
        if model is None:
            probability = rule_probability(transaction)
        else:
            probability = await self._inference.score(model, transaction, history)

        answer = answer_to(transaction, history, model, probability, self._new_prediction_id())
        record = record_of(answer, transaction, history, model)
        if explain:
            reasons = [] if model is None else await reasons_of(model, transaction, history)
            answer = msgspec.structs.replace(answer, reasons=reasons)
        body = _encode(answer)

        if history.sequence is not None:
            self._first_answers.keep(request, body)
        self._count_inputs(transaction, history, model)
        self._finish(record, start_ns)
        return body

    async def decide_batch(self, requests: Sequence[Transaction], start_ns: int) -> bytes:
        """The answers to 1..MAX_BATCH_ROWS transactions, as JSON. Raises ContractError naming the row."""
        rows = await _validated_batch(requests)
        histories = await histories_of(self._store, rows)
        model = self.model
        if model is None:
            probabilities = [rule_probability(row) for row in rows]
        else:
            probabilities = await score_batch(model, rows, histories)
        answers: list[Answer] = []
        records: list[PredictionRecord] = []
        for i, (row, history, probability) in enumerate(zip(rows, histories, probabilities, strict=True)):
            answer = await self._first_answers.find(row.request) if history.repeated else None
            if answer is None:
                answer = answer_to(row, history, model, probability, self._new_prediction_id())
                records.append(record_of(answer, row, history, model))
                self._count_inputs(row, history, model)
                if history.sequence is not None:
                    self._first_answers.keep(row.request, _encode(answer))
            answers.append(answer)
            if i % ROWS_PER_ITERATION == ROWS_PER_ITERATION - 1:
                await asyncio.sleep(0)
        body = _encode(Answers(model.version if model else RULE_VERSION, answers))
        self._finish_batch(records, start_ns)
        return body

    def _new_prediction_id(self) -> str:
        self._count += 1
        return f"{self._process}-{self._count:x}"

    def _count_inputs(self, transaction: ValidTransaction, history: UserHistory, model: Model | None) -> None:
        metrics = self._metrics
        metrics.history[history.source] += 1
        if history.store_failed:
            metrics.degraded["store"] += 1
        if model is None:
            metrics.degraded["model"] += 1
        if transaction.category == OTHER_INDEX and transaction.request.merchant_category not in CATEGORY_INDEX:
            metrics.unknown_category += 1

    def _finish(self, record: PredictionRecord, start_ns: int) -> None:
        """Count the answer and queue its record."""
        elapsed_ns = time.perf_counter_ns() - start_ns
        record.served_us = time.time_ns() // 1000
        record.latency_us = elapsed_ns // 1000
        self._metrics.observe(record.amount, record.fraud_probability, record.threshold, elapsed_ns * 1e-9)
        self._log.append(record)

    def _finish_batch(self, records: Sequence[PredictionRecord], start_ns: int) -> None:
        """Count the answers of a batch, which share one time and latency, and queue their records."""
        if not records:
            return
        elapsed_ns, now_us = time.perf_counter_ns() - start_ns, time.time_ns() // 1000
        for record in records:
            record.served_us, record.latency_us = now_us, elapsed_ns // 1000
            self._log.append(record)
        self._metrics.observe_all(
            [r.amount for r in records], [r.fraud_probability for r in records], records[0].threshold, elapsed_ns * 1e-9
        )


async def _validated_batch(requests: Sequence[Transaction]) -> list[ValidTransaction]:
    latest_us, rows = _latest_us(), list[ValidTransaction]()
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
