"""What decisions cost and save, in USD. A model is judged by this, not by its area under a curve.

Against doing nothing, an alert on a fraud saves its amount and the chargeback fee and costs a review; an alert on an
legitimate payment costs a review and the friction of a stopped customer. Analysts can look at a fixed share of all
transactions: the capacity.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fraud.params import Params
from fraud.stats.metrics import Floats, Ranked


@dataclass(frozen=True, slots=True)
class Costs:
    """USD, except `capacity`: the share of all transactions that analysts can look at."""

    capacity: float
    review: float
    chargeback_fee: float
    friction: float

    def gains(self, amount: NDArray[np.floating], is_fraud: NDArray[np.bool_]) -> Floats:
        """What an alert on each row saves (below 0: costs), USD float64[n]."""
        return np.where(is_fraud, amount.astype(np.float64) + self.chargeback_fee, -self.friction) - self.review


def costs_of(params: Params) -> Costs:
    """The costs of params.yaml, with the capacity as a share."""
    costs = params.costs
    return Costs(costs.alerts_per_1000 / 1000, costs.review, costs.chargeback_fee, costs.friction)


def saved_per_1000(gains: Floats, alerted: Floats, weights: Floats | None = None) -> float:
    """USD saved per 1,000 transactions by alerting with these chances."""
    if weights is None:
        return float(np.sum(gains * alerted)) * 1000.0 / len(gains)
    return float(np.sum(gains * alerted * weights)) * 1000.0 / float(np.sum(weights))


def best_threshold(probability: NDArray[np.float32], gains: Floats, capacity: float) -> float:
    """The threshold of `probability >= threshold` that saves most, alerting on at most `capacity` of the rows.

    It is one of the probabilities, as float64; where even the most suspicious rows are too many or not worth an alert,
    the smallest float32 above them all, so that nothing is alerted. Of equal savings the highest threshold.
    """
    ranked = Ranked(probability, np.zeros(len(probability), dtype=bool))
    saved = np.cumsum(gains[ranked.order])[ranked.ends]
    allowed = ranked.ends + 1 <= capacity * len(probability)
    if not bool(np.any(allowed & (saved > 0))):
        return float(np.nextafter(np.float32(ranked.cuts[0]), np.float32(2.0)))
    return float(ranked.cuts[int(np.argmax(np.where(allowed, saved, -np.inf)))])
