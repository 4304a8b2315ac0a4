"""The challenger: a second version that scores the logged payments in shadow and changes no answer.

The prediction log's thread passes its records to `Challenger.score` before it writes them. Requests do not wait for
it, but it uses processor time of the same core. One inference call covers up to 500 records.
"""

from collections.abc import Sequence

import numpy as np

from fraud.core import vector
from fraud.core.contract import CATEGORY_INDEX
from fraud_serving.log.prediction_record import PredictionRecord
from fraud_serving.metrics import Metrics
from fraud_serving.model.model import Model
from fraud_serving.scoring.inference import nan_if_none


class Challenger:
    """A swap replaces `model`; None: nothing is scored."""

    def __init__(self, metrics: Metrics) -> None:
        self.model: Model | None = None
        self._metrics = metrics

    def score(self, records: Sequence[PredictionRecord]) -> None:
        """Set the challenger's version and probability in records without one, and count how the decisions compare."""
        model = self.model
        new = [record for record in records if record.challenger_version is None]
        if model is None or not new:
            return
        probabilities = model.score(
            vector.fill_table(
                np.array([r.amount for r in new], dtype=np.float64),
                np.array([r.hour_of_day for r in new], dtype=np.int64),
                np.array([r.day_of_week for r in new], dtype=np.int64),
                np.array([nan_if_none(r.distance_from_home) for r in new]),
                np.array([CATEGORY_INDEX[r.merchant_category] for r in new], dtype=np.int64),
                np.array([r.transaction_velocity_1h for r in new], dtype=np.float64),
                np.array([nan_if_none(r.avg_amount_7d) for r in new]),
                np.array([r.unique_merchants_30d for r in new], dtype=np.int64),
            )
        )
        for record, probability in zip(new, probabilities.tolist(), strict=True):
            record.challenger_version, record.challenger_probability = model.version, probability
            self._count(record, probability, fraud=probability >= model.threshold)

    def _count(self, record: PredictionRecord, probability: float, *, fraud: bool) -> None:
        outcome = "agree" if fraud == record.is_fraud else "challenger_only" if fraud else "champion_only"
        self._metrics.challenger[outcome] += 1
        self._metrics.challenger_difference.observe(abs(probability - record.fraud_probability))
