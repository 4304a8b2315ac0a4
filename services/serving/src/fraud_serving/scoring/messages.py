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
from fraud_serving.model.model import Model
from fraud_serving.request import ValidTransaction
from fraud_serving.schema import Answer
from fraud_serving.scoring.answer import answers_to, records_of
from fraud_serving.scoring.challenger import shadow_of
from fraud_serving.scoring.inference import RULE_VERSION, rule_probability
from fraud_serving.scoring.inputs import NO_FEATURES, Features
from fraud_serving.scoring.reads import Reads, fill_all
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
        reads, data, commands = state.reads.all_commands(rows, self._scorer.snapshots)
        replies = self._store.send(data, commands) if commands else None
        return Reading(state, rows, reads, start_ns, replies)

    def score(self, reading: Reading, replies: list[Reply] | None) -> Scored:
        """Compute the answers, and send those that a retry must get again. `replies`: the result of `reading`'s."""
        fill_all(reading.reads, replies)
        state, rows = reading.state, reading.rows
        model, inputs = state.production, state.batch_inputs
        if model is None or inputs is None:
            features = [NO_FEATURES] * len(rows)
            probabilities = [rule_probability(row) for row in rows]
        else:
            features, values = inputs.features(rows, reading.reads)
            probabilities = _probabilities(model, inputs.base_columns(rows, values))
        version = RULE_VERSION if model is None else model.version
        ids = _prediction_ids(version, rows, features, probabilities)
        answers = answers_to(state, rows, features, probabilities, ids)
        bodies = [_encode(answer) for answer in answers]
        kept = [i for i, of in enumerate(features) if of.sequences and not of.store_failed]
        sent = self._first_answers.keep_all([rows[i] for i in kept], [bodies[i] for i in kept]) if kept else None
        return Scored(reading, features, answers, bodies, kept, sent)

    def finish(self, scored: Scored, replies: list[Reply] | None) -> list[Decision]:
        """The decisions in the order of the rows; count and log them. `replies`: the result of `scored`'s."""
        reading = scored.reading
        state, first = reading.state, dict[int, Answer]()
        for i, reply in zip(scored.kept, replies or (), strict=False):
            if reply is not None and reply is not NO_REPLY and (found := self._first_answers.read(reply)) is not None:
                first[i] = found
        rows, features, answers = reading.rows, scored.features, scored.answers
        decisions = list(
            map(
                Decision, scored.bodies, [of.model_version for of in answers], [of.repeated for of in features]
            )
        )  # fmt: skip
        for i, earlier in first.items():
            decisions[i] = Decision(_encode(earlier), earlier.model_version, repeated=True)
        counted = [i for i in range(len(rows)) if i not in first]
        # Also of an answer that was given before: the process that gave it may have been killed before it wrote the
        # record. Records of one prediction_id are equal, and are shipped once.
        logged = [i for i, of in enumerate(answers) if first.get(i, of).prediction_id == of.prediction_id]
        self._scorer.count_inputs(state, [(rows[i], features[i]) for i in counted])
        if logged:
            records = records_of(
                [answers[i] for i in logged], state, [rows[i] for i in logged], [features[i] for i in logged]
            )
            shadows: Sequence[object] = [None] * len(logged)
            if state.challenger is not None:
                shadows = [shadow_of(state, rows[i], features[i].values, reading.reads[i]) for i in logged]
            self._scorer.finish_batch(list(zip(records, shadows, strict=True)), reading.start_ns)
        return decisions


def _probabilities(model: Model, base: Sequence[Floats]) -> list[float]:
    """The probabilities, with the bits of a request of its own for each row (`Model.micro_batch_rows`)."""
    table = model.plan.vector.table(base)
    if model.micro_batch_rows > 1:
        found: list[float] = model.score(table).tolist()
        return found
    return [float(model.score(table[i : i + 1])[0]) for i in range(len(table))]


def _prediction_ids(
    version: str,
    transactions: Sequence[ValidTransaction],
    features: Sequence[Features],
    probabilities: Sequence[float],
) -> list[str]:
    """Of each transaction, and of everything that its answer was computed from."""
    return [
        blake2b(
            _encode((
                version, probability, row.transaction_id, row.event_us, row.values, of.sequences, of.newest_us,
                of.snapshots, of.store_failed, of.values,
            )),
            digest_size=_ID_BYTES,
        ).hexdigest()
        for row, of, probability in zip(transactions, features, probabilities, strict=True)
    ]  # fmt: skip
