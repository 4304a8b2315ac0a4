"""From a transaction to its decision: stored history, window features, vector, model, record.

Whoever decides takes a reference to `model` once and keeps it to the answer's bytes, reasons and a whole batch
included, so one answer is made by exactly one version whatever is swapped in meanwhile.
"""

import asyncio
import secrets
import time
from collections.abc import Sequence
from math import isnan
from typing import Final, NamedTuple

import msgspec
import numpy as np

from fraud.core import history as online
from fraud.core import rule, vector, windows
from fraud.core.contract import CATEGORIES, CATEGORY_INDEX, MAX_FUTURE_SKEW_US, OTHER_INDEX
from fraud.core.features import VECTOR_NAMES, WINDOW_FEATURES, definition_hash
from fraud_serving.http.schema import Answer, Answers, ContractError, Facts, History, Reason, Transaction, facts
from fraud_serving.log.prediction_log import PredictionLog
from fraud_serving.log.record import Record
from fraud_serving.metrics import Metrics
from fraud_serving.model import explain as shapley
from fraud_serving.model.model import Model
from fraud_serving.scoring.store import Reply, Store

RULE_VERSION: Final = "rule"
RULE_THRESHOLD: Final = 0.5
_FEATURE_HASH: Final = definition_hash()
_NO_HISTORY: Final[windows.WindowValues] = tuple(feature.empty for feature in WINDOW_FEATURES)
_ROWS_AT_ONCE: Final = 200
"""Rows of a batch between two breaths of the event loop, and in one write to the store."""
_ROWS_IN_LOOP: Final = 64
"""A larger batch is inferred in a thread, so that single requests go on meanwhile."""


class Evidence(NamedTuple):
    """What is known of a transaction besides itself."""

    windows: windows.WindowValues
    source: History
    sequence: int | None = None
    newest_us: int | None = None
    repeated: bool = False
    store_missing: bool = False


_NOTHING: Final = Evidence(_NO_HISTORY, "none")
_STORE_MISSING: Final = Evidence(_NO_HISTORY, "none", store_missing=True)


class InferenceError(Exception):
    """The model could not be run. Why stands in the log."""


class _MicroBatch:
    """Single requests whose histories came in one turn of the event loop: one inference call, by one version.

    Nobody waits for company: the call is made before the loop looks at its sockets again. Every row is scored to the
    bit as it would be alone (`Model.rows_at_once`).
    """

    __slots__ = ("_rows", "_waiting", "model")

    def __init__(self, model: Model) -> None:
        self.model = model
        self._rows = np.empty((model.rows_at_once, len(VECTOR_NAMES)), dtype=np.float32)
        self._waiting: list[asyncio.Future[float]] = []

    @property
    def full(self) -> bool:
        return len(self._waiting) == len(self._rows)

    def join(self, fact: Facts, evidence: Evidence, future: "asyncio.Future[float]") -> None:
        velocity, average, merchants = evidence.windows
        vector.fill_row(
            self._rows[len(self._waiting)], fact.amount, fact.hour, fact.weekday, fact.given.distance_from_home,
            fact.category, velocity, average, merchants,  # type: ignore[arg-type] # the first and third are never null
        )  # fmt: skip
        self._waiting.append(future)

    def run(self) -> None:
        """Answer everyone who joined; with InferenceError, where inference raised anything."""
        probabilities: list[float] | None = None
        try:
            probabilities = self.model.score(self._rows[: len(self._waiting)]).tolist()
        finally:  # what was raised goes to the loop's own handler, which logs it once
            for i, future in enumerate(self._waiting):
                if future.done():  # cancelled
                    continue
                if probabilities is None:
                    future.set_exception(InferenceError())
                else:
                    future.set_result(probabilities[i])


class Scorer:
    """The decision path of one process. `model` is replaced as a whole when a version is swapped in."""

    def __init__(self, store: Store, log: PredictionLog, metrics: Metrics) -> None:
        self.model: Model | None = None
        self._store, self._log, self._metrics = store, log, metrics
        self._turn: _MicroBatch | None = None
        self._encode = msgspec.json.Encoder().encode
        self._decode = msgspec.json.Decoder(Answer).decode
        self._name, self._count = secrets.token_hex(8), 0

    async def decide(self, given: Transaction, began_ns: int, *, explain: bool = False) -> bytes:
        """The answer to one transaction, as JSON, on request with its reasons. Raises ContractError."""
        fact = facts(given, _latest_us())
        given = fact.given
        if given.user_id is None:
            evidence = _without_user(given)
        else:
            appended = self._begin(fact)
            evidence = _evidence(fact, None if appended is None else await appended)
            if evidence.repeated:
                remembered = await self._remembered(_answer_key(given))
                if remembered is not None:
                    return self._encode(remembered)
        model = self.model
        if model is None:
            probability = _rule_probability(fact)
        else:
            probability = await self._join_micro_batch(model, fact, evidence)
        answer, record = self._conclude(model, fact, evidence, probability)
        if explain:
            answer = msgspec.structs.replace(answer, reasons=await _reasons(model, fact, evidence) if model else [])
        body = self._encode(answer)
        if evidence.sequence is not None:
            self._store.remember(_answer_key(given), body)
        self._account(record, began_ns)
        return body

    async def decide_batch(self, given: Sequence[Transaction], began_ns: int) -> bytes:
        """The answers to 1..MAX_BATCH_ROWS transactions, as JSON. Raises ContractError naming the row."""
        rows = await self._checked(given)
        evidence = await self._gather(rows)
        model = self.model
        if model is None:
            probabilities = [_rule_probability(fact) for fact in rows]
        else:
            probabilities = await self._infer(model, rows, evidence)
        answers: list[Answer] = []
        records: list[Record] = []
        for i, row in enumerate(zip(rows, evidence, probabilities, strict=True)):
            again = await self._remembered(_answer_key(row[0].given)) if row[1].repeated else None
            if again is None:
                again, record = self._conclude(model, *row)
                records.append(record)
                if row[1].sequence is not None:
                    self._store.remember(_answer_key(row[0].given), self._encode(again))
            answers.append(again)
            if i % _ROWS_AT_ONCE == _ROWS_AT_ONCE - 1:
                await asyncio.sleep(0)
        body = self._encode(Answers(model.version if model else RULE_VERSION, answers))
        self._account_all(records, began_ns)
        return body

    async def _checked(self, given: Sequence[Transaction]) -> list[Facts]:
        latest_us, rows = _latest_us(), list[Facts]()
        for i, transaction in enumerate(given):
            try:
                rows.append(facts(transaction, latest_us))
            except ContractError as error:
                raise ContractError(f"transactions[{i}].{error.field}", error.reason) from None
            if i % _ROWS_AT_ONCE == _ROWS_AT_ONCE - 1:
                await asyncio.sleep(0)
        return rows

    async def _gather(self, rows: Sequence[Facts]) -> list[Evidence]:
        """Every row's evidence. Rows of one user see each other in the batch's order."""
        found: list[Evidence] = []
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            part = rows[start : start + _ROWS_AT_ONCE]
            futures = [None if fact.given.user_id is None else self._begin(fact) for fact in part]
            for fact, future in zip(part, futures, strict=True):
                if fact.given.user_id is None:
                    found.append(_without_user(fact.given))
                else:
                    found.append(_evidence(fact, None if future is None else await future))
            await asyncio.sleep(0)
        return found

    async def _infer(self, model: Model, rows: Sequence[Facts], evidence: Sequence[Evidence]) -> list[float]:
        nan = float("nan")
        table = vector.fill_table(
            np.array([fact.amount for fact in rows], dtype=np.float64),
            np.array([fact.hour for fact in rows], dtype=np.int64),
            np.array([fact.weekday for fact in rows], dtype=np.int64),
            np.array([_or(fact.given.distance_from_home, nan) for fact in rows], dtype=np.float64),
            np.array([fact.category for fact in rows], dtype=np.int64),
            np.array([e.windows[0] for e in evidence], dtype=np.float64),
            np.array([_or(e.windows[1], nan) for e in evidence], dtype=np.float64),
            np.array([e.windows[2] for e in evidence], dtype=np.int64),
        )
        if len(rows) <= _ROWS_IN_LOOP:
            scores = model.score(table)
        else:
            scores = await asyncio.to_thread(model.score, table)
        probabilities: list[float] = scores.tolist()
        return probabilities

    def _begin(self, fact: Facts) -> "asyncio.Future[Reply] | None":
        given = fact.given
        # `facts` saw to it that a transaction with a user has these.
        return self._store.begin_append(
            given.user_id, given.transaction_id, fact.event_us, fact.units, given.merchant_id  # type: ignore[arg-type]
        )  # fmt: skip

    async def _remembered(self, key: bytes) -> Answer | None:
        body = await self._store.remembered(key)
        if body is None:
            return None
        try:
            answer = self._decode(body)
        except msgspec.DecodeError:
            self._metrics.store_error("answer")
            return None
        self._metrics.repeated += 1
        return msgspec.structs.replace(answer, repeated=True)

    def _join_micro_batch(self, model: Model, fact: Facts, evidence: Evidence) -> "asyncio.Future[float]":
        loop, turn = asyncio.get_running_loop(), self._turn
        if turn is None or turn.model is not model or turn.full:
            turn = self._turn = _MicroBatch(model)
            loop.call_soon(self._run, turn)
        future: asyncio.Future[float] = loop.create_future()
        turn.join(fact, evidence, future)
        return future

    def _run(self, turn: _MicroBatch) -> None:
        if self._turn is turn:
            self._turn = None
        turn.run()

    def _conclude(
        self, model: Model | None, fact: Facts, evidence: Evidence, probability: float
    ) -> tuple[Answer, Record]:
        self._count += 1
        given, threshold = fact.given, RULE_THRESHOLD if model is None else model.threshold
        version = RULE_VERSION if model is None else model.version
        is_fraud = probability >= threshold
        degraded = evidence.store_missing or model is None
        prediction_id = f"{self._name}-{self._count:x}"
        category = CATEGORIES[fact.category]
        answer = Answer(
            prediction_id, given.transaction_id, is_fraud, probability, threshold, version, category, evidence.source,
            degraded, evidence.repeated,
        )  # fmt: skip
        velocity, average, merchants = evidence.windows
        record = Record(
            prediction_id, given.transaction_id, given.user_id, given.merchant_id, category, fact.amount,
            given.distance_from_home, fact.event_us, fact.hour, fact.weekday, 0, evidence.sequence,
            evidence.newest_us, evidence.source, degraded, velocity, average, merchants,  # type: ignore[arg-type]
            probability, is_fraud, threshold, version, "" if model is None else model.model_sha256, _FEATURE_HASH, 0,
        )  # fmt: skip
        self._count_degraded(model, evidence)
        if fact.category == OTHER_INDEX and given.merchant_category not in CATEGORY_INDEX:
            self._metrics.unknown_category += 1
        return answer, record

    def _count_degraded(self, model: Model | None, evidence: Evidence) -> None:
        self._metrics.history[evidence.source] += 1
        if evidence.store_missing:
            self._metrics.degraded["store"] += 1
        if model is None:
            self._metrics.degraded["model"] += 1

    def _account(self, record: Record, began_ns: int) -> None:
        """Metrics and the log, once the answer's bytes exist."""
        elapsed_ns = time.perf_counter_ns() - began_ns
        record.served_us = time.time_ns() // 1000
        record.latency_us = elapsed_ns // 1000
        self._metrics.observe(record.amount, record.fraud_probability, record.threshold, elapsed_ns * 1e-9)
        self._log.append(record)

    def _account_all(self, records: Sequence[Record], began_ns: int) -> None:
        """The same for a batch: all of it was answered at once."""
        if not records:
            return
        elapsed_ns, now_us = time.perf_counter_ns() - began_ns, time.time_ns() // 1000
        for record in records:
            record.served_us, record.latency_us = now_us, elapsed_ns // 1000
            self._log.append(record)
        self._metrics.observe_all(
            [r.amount for r in records], [r.fraud_probability for r in records], records[0].threshold, elapsed_ns * 1e-9
        )


def _latest_us() -> int:
    return time.time_ns() // 1000 + MAX_FUTURE_SKEW_US


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def _answer_key(given: Transaction) -> bytes:
    return f"a:{given.user_id}\n{given.transaction_id}".encode()


def _rule_probability(fact: Facts) -> float:
    return 1.0 if rule.is_fraud(fact.amount, fact.hour) else 0.0


def _without_user(given: Transaction) -> Evidence:
    if given.transaction_velocity is None:
        return _NOTHING
    return Evidence((given.transaction_velocity, *_NO_HISTORY[1:]), "request")


def _evidence(fact: Facts, reply: Reply) -> Evidence:
    if reply is None:
        return _STORE_MISSING
    known = online.prior_history(reply)
    values = windows.evaluate(known.events, known.newest_us, fact.event_us or 0)
    return Evidence(values, "store", known.sequence, known.newest_us, known.repeated)


async def _reasons(model: Model, fact: Facts, evidence: Evidence) -> list[Reason]:
    """The inputs that moved the probability most, by `explain.py`; its 256 rows are scored in a thread."""
    nan = float("nan")
    velocity, average, merchants = evidence.windows
    own = shapley.Inputs(
        fact.amount, fact.hour, fact.weekday, _or(fact.given.distance_from_home, nan), fact.category,
        velocity or 0.0, _or(average, nan), merchants or 0,
    )  # fmt: skip
    probabilities = await asyncio.to_thread(model.score, shapley.subsets(own, model.ordinary))
    moved = shapley.contributions(probabilities).tolist()
    reasons = [
        Reason(code, round(by, 6), _shown(code, value), _shown(code, ordinary))  # type: ignore[arg-type] # a field name
        for code, by, value, ordinary in zip(own._fields, moved, own, model.ordinary, strict=True)
    ]
    return sorted(reasons, key=lambda reason: -abs(reason.contribution))[: shapley.SHOWN]


def _shown(code: str, value: float) -> float | str | None:
    if code == "merchant_category":
        return CATEGORIES[int(value)]
    return None if isnan(value) else value
