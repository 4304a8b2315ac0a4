"""Costs and savings of decisions, in USD. Models are compared by savings.

Compared with no alert, an alert on a fraud saves its amount and the chargeback fee and costs a review. An alert on a
legitimate payment costs a review and the friction for a stopped customer. Analysts can review a fixed share of all
transactions, the capacity.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fraud.stats.metrics import Floats, Ranked


@dataclass(frozen=True, slots=True)
class Costs:
    """USD, except `capacity`: the share of all transactions that analysts can review."""

    capacity: float
    review: float
    chargeback_fee: float
    friction: float

    def gains(self, amount: NDArray[np.floating], is_fraud: NDArray[np.bool_]) -> Floats:
        """Savings of an alert on each row, USD float64[n]; negative values are costs."""
        return np.where(is_fraud, amount.astype(np.float64) + self.chargeback_fee, -self.friction) - self.review


def saved_per_1000(gains: Floats, alerted: Floats, weights: Floats | None = None) -> float:
    """USD saved per 1,000 transactions. `alerted` float64[n] is the probability that each row is alerted."""
    if weights is None:
        return float(np.sum(gains * alerted)) * 1000.0 / len(gains)
    return float(np.sum(gains * alerted * weights)) * 1000.0 / float(np.sum(weights))


def best_threshold(probability: NDArray[np.float32], gains: Floats, capacity: float) -> float:
    """The threshold of `probability >= threshold` with the highest savings and at most `capacity` of the rows alerted.

    The threshold is one of the probabilities, as float64. Where no such threshold saves money, it is the smallest
    float32 above all probabilities, so that nothing is alerted. Of thresholds with equal savings, the highest is
    returned.
    """
    ranked = Ranked(probability, np.zeros(len(probability), dtype=bool))
    saved = np.cumsum(gains[ranked.order])[ranked.ends]
    allowed = ranked.ends + 1 <= capacity * len(probability)
    if not bool(np.any(allowed & (saved > 0))):
        return float(np.nextafter(np.float32(ranked.cuts[0]), np.float32(2.0)))
    return float(ranked.cuts[int(np.argmax(np.where(allowed, saved, -np.inf)))])
