"""The challenger: a second version that scores the logged payments in shadow and changes no answer.

The prediction log's thread passes its records to `Challenger.score` before it writes them. Requests do not wait for
it, but it uses processor time of the same core. One inference call covers up to 500 records. Its features come from the
same replies of the store as the answer's, and are computed in this thread.
"""

from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from fraud_serving.log.prediction_log import Entry
from fraud_serving.log.prediction_record import PredictionRecord
from fraud_serving.metrics import Metrics
from fraud_serving.model.model import Model
from fraud_serving.request import ValidTransaction
from fraud_serving.scoring.inputs import BaseValues, Inputs
from fraud_serving.scoring.reads import Reads
from fraud_serving.scoring.state import State


class Shadow(Struct, gc=False):
    """What the challenger of a state computes its score from."""

    state: State
    transaction: ValidTransaction
    features: list[float | None]
    """Of production."""
    reads: Reads | None
    """None if both versions have the same features."""


def shadow_of(state: State, transaction: ValidTransaction, features: list[float | None], reads: Reads) -> Shadow | None:
    """What to keep of a scored transaction for the challenger, None without one."""
    if state.challenger is None:
        return None
    return Shadow(state, transaction, features, None if state.same_features else reads)


def base_values(shadow: Shadow, inputs: Inputs) -> BaseValues:
    """The challenger's base values of a transaction."""
    values = shadow.transaction.challenger or []
    if shadow.reads is None:
        features = shadow.features
    else:
        features = inputs.features(shadow.transaction, values, shadow.reads).values
    return inputs.base_values(shadow.transaction, values, features)


class Challenger:
    """Scores entries of the prediction log."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def score(self, entries: Sequence[Entry]) -> None:
        """Set the challenger's version and probability in records without one, and count how the decisions compare."""
        by_model: dict[int, list[tuple[PredictionRecord, Shadow]]] = {}
        for record, shadow in entries:
            if isinstance(shadow, Shadow) and record.challenger_version is None:
                by_model.setdefault(id(shadow.state.challenger), []).append((record, shadow))
        for group in by_model.values():
            state = group[0][1].state
            if state.challenger is not None and state.challenger_inputs is not None:
                self._score(state.challenger, group)

    def _score(self, model: Model, group: Sequence[tuple[PredictionRecord, Shadow]]) -> None:
        vector = model.plan.vector
        table = np.zeros((len(group), len(vector.names)), dtype=np.float32)
        for (_, shadow), row in zip(group, table, strict=True):
            if shadow.state.challenger_inputs is not None:
                vector.row(row, base_values(shadow, shadow.state.challenger_inputs))
        for (record, _), probability in zip(group, model.score(table).tolist(), strict=True):
            record.challenger_version, record.challenger_probability = model.version, probability
            self._count(record, probability, fraud=probability >= model.threshold)

    def _count(self, record: PredictionRecord, probability: float, *, fraud: bool) -> None:
        outcome = "agree" if fraud == record.is_fraud else "challenger_only" if fraud else "champion_only"
        self._metrics.challenger[outcome] += 1
        self._metrics.challenger_difference.observe(abs(probability - record.fraud_probability))
