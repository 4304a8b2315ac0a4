"""The decision path of polled messages: a batch is one round trip to the store and one inference call.

The caller runs `read`, `score` and `finish` of a batch in this order, and waits for the store's replies in between.
Batches may overlap, but each step is run in the order of the batches: then two transactions of one user see each
other as sequential requests would.

Two differences to a request, because a message is delivered again after a failure:

* The answer is kept in the store, and the store's reply is waited for, before it is published. So a process that gets
  the message again, also at the same time, publishes the answer that was kept first.
* `prediction_id` is a hash of the transaction and of what was answered, not a random number: equal answers have equal
  ids, different ones different ids, whichever process computes them.
"""

import asyncio
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

import msgspec
from msgspec import Struct

from fraud.core.vector import Floats
from fraud_serving.log.prediction_log import PredictionLog
from fraud_serving.log.prediction_record import PredictionRecord
from fraud_serving.model.model import Model
from fraud_serving.request import ValidTransaction
from fraud_serving.schema import Answer
from fraud_serving.scoring.answer import answer_to, record_of
from fraud_serving.scoring.challenger import shadow_of
from fraud_serving.scoring.inference import RULE_VERSION, rule_probability
from fraud_serving.scoring.inputs import NO_FEATURES, Features
from fraud_serving.scoring.reads import Reads, fill
from fraud_serving.scoring.retries import FirstAnswers
from fraud_serving.scoring.scorer import Scorer
from fraud_serving.scoring.state import State
from fraud_serving.store.connection import NO_REPLY, Reply
from fraud_serving.store.store import Store

_encode = msgspec.json.Encoder().encode
_ID_BYTES: Final = 16
Replies = asyncio.Future[list[Reply]] | None
"""None: the store is not connected."""


class Reading(Struct, gc=False):
    """A batch whose reads and appends were sent."""

    state: State
    rows: Sequence[ValidTransaction]
    reads: list[Reads]
    start_ns: int
    replies: Replies


class Scored(Struct, gc=False):
    """A batch whose answers were sent to be kept."""

    reading: Reading
    features: list[Features]
    answers: list[Answer]
    bodies: list[bytes]
    """The answers as JSON."""
    kept: list[int]
    """The rows whose answers are to be kept, in order of the replies."""
    replies: Replies


class Decision(NamedTuple):
    """What is published for one transaction."""

    body: bytes
    """The answer as JSON."""
    version: str
    repeated: bool
    """Whether the transaction was in the history already."""


class MessageScorer:
    """Scores batches of messages with the parts of a `Scorer`."""

    def __init__(self, scorer: Scorer, store: Store, log: PredictionLog) -> None:
        self._scorer, self._store, self.log = scorer, store, log
        self._first_answers = FirstAnswers(store, scorer.metrics)

    def read(self, state: State, rows: Sequence[ValidTransaction], start_ns: int) -> Reading:
        """Send the appends and reads of all rows in one write."""
        plan, snapshots = state.reads, self._scorer.snapshots
        reads: list[Reads] = []
        parts: list[bytes] = []
        commands = 0
        for row in rows:
            of_row, data = plan.commands(row, snapshots)
            reads.append(of_row)
            if data:
                parts.append(data)
                commands += len(of_row.sent)
        replies = self._store.send(b"".join(parts), commands) if commands else None
        return Reading(state, rows, reads, start_ns, replies)

    def score(self, reading: Reading, replies: list[Reply] | None) -> Scored:
        """Compute the answers, and send those that a retry must get again. `replies`: the result of `reading`'s."""
        at = 0
        for of_row in reading.reads:
            if count := len(of_row.sent):
                fill(of_row, None if replies is None else replies[at : at + count])
                at += count
        state, rows = reading.state, reading.rows
        model, inputs = state.production, state.batch_inputs
        if model is None or inputs is None:
            features = [NO_FEATURES] * len(rows)
            probabilities = [rule_probability(row) for row in rows]
        else:
            features, values = inputs.features(rows, reading.reads)
            probabilities = _probabilities(model, inputs.base_columns(rows, values))
        version = RULE_VERSION if model is None else model.version
        answers: list[Answer] = []
        bodies: list[bytes] = []
        kept: list[int] = []
        for i, (row, found, probability) in enumerate(zip(rows, features, probabilities, strict=True)):
            answer = answer_to(state, row, found, probability, _prediction_id(version, row, found, probability))
            answers.append(answer)
            bodies.append(_encode(answer))
            if found.sequences and not found.store_failed:
                kept.append(i)
        sent = self._first_answers.keep_all([rows[i] for i in kept], [bodies[i] for i in kept]) if kept else None
        return Scored(reading, features, answers, bodies, kept, sent)

    def finish(self, scored: Scored, replies: list[Reply] | None) -> list[Decision]:
        """The decisions in the order of the rows; count and log them. `replies`: the result of `scored`'s."""
        reading = scored.reading
        state, first = reading.state, dict[int, Answer]()
        for i, reply in zip(scored.kept, replies or (), strict=False):
            if reply is not None and reply is not NO_REPLY and (found := self._first_answers.read(reply)) is not None:
                first[i] = found
        decisions: list[Decision] = []
        logged: list[tuple[PredictionRecord, object]] = []
        counted: list[tuple[ValidTransaction, Features]] = []
        shadowed = state.challenger is not None
        for i, (row, features, answer) in enumerate(zip(reading.rows, scored.features, scored.answers, strict=True)):
            earlier = first.get(i)
            if earlier is None:
                decisions.append(Decision(scored.bodies[i], answer.model_version, features.repeated))
                counted.append((row, features))
            else:
                decisions.append(Decision(_encode(earlier), earlier.model_version, repeated=True))
            if earlier is None or earlier.prediction_id == answer.prediction_id:
                # Also of an answer that was given before: the process that gave it may have been killed before it
                # wrote the record. Records of one prediction_id are equal, and are shipped once.
                shadow = shadow_of(state, row, features.values, reading.reads[i]) if shadowed else None
                logged.append((record_of(answer, state, row, features), shadow))
        self._scorer.count_inputs(state, counted)
        self._scorer.finish_batch(logged, reading.start_ns)
        return decisions


def _probabilities(model: Model, base: Sequence[Floats]) -> list[float]:
    """The probabilities, with the bits of a request of its own for each row (`Model.micro_batch_rows`)."""
    table = model.plan.vector.table(base)
    if model.micro_batch_rows > 1:
        found: list[float] = model.score(table).tolist()
        return found
    return [float(model.score(table[i : i + 1])[0]) for i in range(len(table))]


def _prediction_id(version: str, transaction: ValidTransaction, features: Features, probability: float) -> str:
    """Of the transaction and of everything that its answer was computed from."""
    parts = (
        version, probability, transaction.transaction_id, transaction.event_us, transaction.values, features.sequences,
        features.newest_us, features.snapshots, features.store_failed,
    )  # fmt: skip
    return blake2b(_encode(parts), digest_size=_ID_BYTES).hexdigest()
