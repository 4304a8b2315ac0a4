"""A second version, scored in shadow: the same payments, no say in any answer.

The prediction log's thread hands over its records before it writes them, so a challenger costs a request nothing but
the processor time it takes from the same core; an inference covers up to 500 records.
"""

from collections.abc import Sequence

import numpy as np

from fraud.core import vector
from fraud.core.contract import CATEGORY_INDEX
from fraud_serving.log.record import Record
from fraud_serving.metrics import Metrics
from fraud_serving.model.model import Model


class Challenger:
    """`model` is replaced as a whole when another version is to be tried; None: nothing is scored."""

    def __init__(self, metrics: Metrics) -> None:
        self.model: Model | None = None
        self._metrics = metrics

    def score(self, records: Sequence[Record]) -> None:
        """Write the challenger's version and probability into records that have none, and count how it compares."""
        model = self.model
        new = [record for record in records if record.challenger_version is None]
        if model is None or not new:
            return
        nan = float("nan")
        probabilities = model.score(
            vector.fill_table(
                np.array([r.amount for r in new], dtype=np.float64),
                np.array([r.hour_of_day for r in new], dtype=np.int64),
                np.array([r.day_of_week for r in new], dtype=np.int64),
                np.array([nan if r.distance_from_home is None else r.distance_from_home for r in new]),
                np.array([CATEGORY_INDEX[r.merchant_category] for r in new], dtype=np.int64),
                np.array([r.transaction_velocity_1h for r in new], dtype=np.float64),
                np.array([nan if r.avg_amount_7d is None else r.avg_amount_7d for r in new]),
                np.array([r.unique_merchants_30d for r in new], dtype=np.int64),
            )
        )
        for record, probability in zip(new, probabilities.tolist(), strict=True):
            record.challenger_version, record.challenger_probability = model.version, probability
            self._count(record, probability >= model.threshold)

    def _count(self, record: Record, fraud: bool) -> None:
        outcome = "agree" if fraud == record.is_fraud else "challenger_only" if fraud else "champion_only"
        self._metrics.challenger[outcome] += 1
        difference = abs((record.challenger_probability or 0.0) - record.fraud_probability)
        self._metrics.challenger_difference.observe(difference)
