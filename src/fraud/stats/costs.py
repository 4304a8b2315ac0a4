"""Costs and savings of decisions in USD.

Compared with no alert, an alert on a fraud saves its amount and the chargeback fee, and costs a review. An alert on a
legitimate payment costs a review and the friction of a stopped customer. The capacity is the share of all transactions
that analysts can review.
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
        """Savings of an alert on each row (negative: costs), USD float64[n]."""
        return np.where(is_fraud, amount.astype(np.float64) + self.chargeback_fee, -self.friction) - self.review


def saved_per_1000(gains: Floats, alerted: Floats, weights: Floats | None = None) -> float:
    """USD saved per 1,000 transactions. `alerted` float64[n] are the probabilities of an alert."""
    if weights is None:
        return float(np.sum(gains * alerted)) * 1000.0 / len(gains)
    return float(np.sum(gains * alerted * weights)) * 1000.0 / float(np.sum(weights))


def best_threshold(probability: NDArray[np.float32], gains: Floats, capacity: float) -> float:
    """The threshold of `probability >= threshold` with the highest savings, with alerts on at most `capacity` of all.

    It is one of the probabilities, as float64, and the highest one among equal savings. If no threshold saves money
    within the capacity, it is the smallest float32 above all probabilities, so that there is no alert.
    """
    ranked = Ranked(probability, np.zeros(len(probability), dtype=bool))
    saved = np.cumsum(gains[ranked.order])[ranked.ends]
    allowed = ranked.ends + 1 <= capacity * len(probability)
    if not bool(np.any(allowed & (saved > 0))):
        return float(np.nextafter(np.float32(ranked.cuts[0]), np.float32(2.0)))
    return float(ranked.cuts[int(np.argmax(np.where(allowed, saved, -np.inf)))])
