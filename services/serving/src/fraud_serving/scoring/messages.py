"""The decision path of polled messages: a batch is one round trip to the store and one inference call.

The caller runs `read`, `score` and `finish` of a batch in this order, and waits for the store's replies in between.
Batches may overlap, but each step is run in the order of the batches: then two transactions of one user see each
other as sequential requests would.

Two differences to a request, because a message is delivered again after a failure:

* The answer is kept in the store, and the store's reply is waited for, before it is published. So a process that gets
  the message again, also at the same time, publishes the answer that was kept first.
* `prediction_id` is a hash of the record of the answer, not a random number: equal answers have equal ids, different
  ones different ids, whichever process computes them.
"""

import asyncio
from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import NamedTuple

import msgspec
import numpy as np
from msgspec import Struct

from fraud.core.vector import Floats
from fraud_serving.log.prediction_log import PredictionLog
from fraud_serving.log.prediction_record import Lines, PredictionRecord
from fraud_serving.model.model import Model
from fraud_serving.request import AMOUNT, ValidTransaction
from fraud_serving.schema import Answer
from fraud_serving.scoring.answer import Verdicts, answers_to, records_of, verdicts_of
from fraud_serving.scoring.batch_inputs import BatchFeatures
from fraud_serving.scoring.challenger import Shadow, shadow_of
from fraud_serving.scoring.inference import rule_probability
from fraud_serving.scoring.reads import BatchReads
from fraud_serving.scoring.retries import FirstAnswers
from fraud_serving.scoring.scorer import Scorer
from fraud_serving.scoring.state import State
from fraud_serving.store.connection import NO_REPLY, Reply
from fraud_serving.store.store import Store

_encode = msgspec.json.Encoder().encode
Replies = asyncio.Future[list[Reply]] | None
"""None: the store is not connected."""


class Reading(Struct, gc=False):
    """A batch whose reads and appends were sent."""

    state: State
    rows: Sequence[ValidTransaction]
    reads: BatchReads
    start_ns: int
    replies: Replies
    traceparents: Sequence[str | None] = ()
    """Of the rows; empty if traces are off."""


class Scored(Struct, gc=False):
    """A batch whose answers were sent to be kept."""

    reading: Reading
    features: BatchFeatures
    verdicts: Verdicts
    records: list[PredictionRecord]
    lines: Lines
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
        reads, commands = state.reads.all_commands(
            rows, self._scorer.snapshots, apart=self._store.takes_single_commands
        )
        replies = self._store.send(commands, reads.commands) if commands else None
        return Reading(state, rows, reads, start_ns, replies)

    def score(self, reading: Reading, replies: list[Reply] | None) -> Scored:
        """Compute the answers, and send those that a retry must get again. `replies`: the result of `reading`'s."""
        reading.reads.fill(replies)
        state, rows = reading.state, reading.rows
        model, inputs = state.production, state.batch_inputs
        if model is None or inputs is None:
            features = BatchFeatures(np.empty((0, len(rows))))
            probabilities = [rule_probability(row) for row in rows]
        else:
            features = inputs.features(rows, reading.reads)
            probabilities = _probabilities(model, inputs.base_columns(rows, features.values))
        verdicts = verdicts_of(state, features, probabilities)
        records = records_of(state, rows, features, verdicts)
        lines = Lines.of(records)
        bodies = list(map(_encode, answers_to(state, rows, features, verdicts, lines.ids)))
        kept = [
            i for i, (of, failed) in enumerate(zip(features.sequences, features.store_failed, strict=True))
            if of and not failed
        ]  # fmt: skip
        sent = self._first_answers.keep_all([rows[i] for i in kept], [bodies[i] for i in kept]) if kept else None
        return Scored(reading, features, verdicts, records, lines, bodies, kept, sent)

    def finish(self, scored: Scored, replies: list[Reply] | None) -> list[Decision]:
        """The decisions in the order of the rows; count and log them. `replies`: the result of `scored`'s."""
        reading, features, verdicts = scored.reading, scored.features, scored.verdicts
        state, rows, first = reading.state, reading.rows, dict[int, Answer]()
        for i, reply in zip(scored.kept, replies or (), strict=False):
            if reply is not None and reply is not NO_REPLY and (found := self._first_answers.read(reply)) is not None:
                first[i] = found
        decisions = list(map(Decision, scored.bodies, repeat(verdicts.version), features.repeated))
        for i, earlier in first.items():
            decisions[i] = Decision(_encode(earlier), earlier.model_version, repeated=True)
        counted: Sequence[int] = range(len(rows))
        logged = counted
        if first:
            counted = [i for i in counted if i not in first]
            # Also of an answer that was given before: the process that gave it may have been killed before it wrote
            # the record. Records of one prediction_id are equal, and are shipped once.
            logged = [i for i, id_ in enumerate(scored.lines.ids) if i not in first or first[i].prediction_id == id_]
        self._scorer.count_inputs(state, rows, features, counted)
        if state.challenger is None:
            amounts = [of.values[AMOUNT] for of in rows]
            self._scorer.finish_lines(scored.lines, logged, amounts, verdicts, reading.start_ns, reading.traceparents)
        else:
            self._scorer.finish_batch(list(_shadowed(scored, logged)), reading.start_ns)
        return decisions


def _shadowed(scored: Scored, logged: Sequence[int]) -> Iterator[tuple[PredictionRecord, Shadow | None]]:
    """The records at `logged` with what the challenger needs."""
    reading = scored.reading
    state, of_rows = reading.state, scored.features.of_rows()
    for i in logged:
        record, row = scored.records[i], reading.rows[i]
        record.prediction_id, record.columns = scored.lines.ids[i], state.columns_of(row)
        if reading.traceparents:
            record.traceparent = reading.traceparents[i]
        yield record, shadow_of(state, row, of_rows[i].values, reading.reads.of_row(i))


def _probabilities(model: Model, base: Sequence[Floats]) -> list[float]:
    """The probabilities, with the bits of a request of its own for each row (`Model.micro_batch_rows`)."""
    table = model.plan.vector.table(base)
    if model.micro_batch_rows > 1:
        found: list[float] = model.score(table).tolist()
        return found
    return [float(model.score(table[i : i + 1])[0]) for i in range(len(table))]
