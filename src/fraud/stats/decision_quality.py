"""Figures of decisions with intervals, from decisions and labels."""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fraud.stats.costs import Costs, saved_per_1000
from fraud.stats.metrics import Floats, Interval, Ranked, bootstrap, resamples

FIGURES: Final = ("precision", "recall", "average_precision", "expected_over_seen", "saved_per_1000")
"""Precision and recall of the decisions; calibration as expected over observed frauds; USD saved by the decisions per
1,000 transactions, compared with approving all."""


class Outcomes(NamedTuple):
    """Decided transactions and their labels. Columns of length n."""

    probability: Floats
    stopped: NDArray[np.bool_]
    is_fraud: NDArray[np.bool_]
    amount: Floats
    """USD."""
    users: NDArray[np.int64]
    """Number of the user; the groups of the bootstrap."""

    def figures(self, costs: Costs, *, resamplings: int, seed: int) -> dict[str, Interval]:
        """FIGURES with bootstrap intervals; NaN with an unbounded interval if a figure is not defined."""
        if not len(self.users):
            return {name: Interval(float("nan"), float("-inf"), float("inf")) for name in FIGURES}
        ranked, gains = Ranked(self.probability, self.is_fraud), costs.gains(self.amount, self.is_fraud)
        stopped, fraud = self.stopped.astype(np.float64), self.is_fraud.astype(np.float64)
        right = stopped * fraud

        def share(of: Floats, among: Floats, weights: Floats | None) -> float:
            whole = float(np.sum(among if weights is None else among * weights))
            return float(np.sum(of if weights is None else of * weights)) / whole if whole else float("nan")

        measures = (
            lambda weights: share(right, stopped, weights),
            lambda weights: share(right, fraud, weights),
            lambda weights: ranked.tally(weights).average_precision(),
            lambda weights: share(self.probability, fraud, weights),
            lambda weights: saved_per_1000(gains, stopped, weights),
        )
        groups = np.unique(self.users, return_inverse=True)[1]
        drawn = list(resamples(groups, resamplings, seed))
        return dict(zip(FIGURES, bootstrap(measures, drawn), strict=True))
