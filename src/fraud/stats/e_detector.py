"""Sequential test of a model's recall and precision against its holdout: a Shiryaev-Roberts e-detector.

Two properties are tested, each as a mean over users, since the payments with a stolen card are not independent: the
share of a victim's frauds on a day that was stopped (recall), and the share of a customer's stopped payments on a day
that was fraud (precision). The promised value is the lower end of the interval of the same property over the holdout,
computed by the same code on labels of the same age.

The null hypothesis is "the mean is at least the promised value". A user with the value x multiplies the evidence by
1 + b * (promise - x). With b in (0, 1 / (1 - promise)) the expected factor is at most 1 under the null hypothesis. A
new test with evidence 1 starts every day, and the evidence of all tests is summed. Under the null hypothesis the sum
grows by at most 1 a day on average, so the mean time until it reaches N is at least N days. This holds for any number
of looks at the evidence. (Shin, Ramdas, Rinaldo: E-detectors, New England Journal of Statistics in Data Science 2
(2), 2024; the bets: Waudby-Smith, Ramdas: Estimating means of bounded random variables by betting, JRSS B 86, 2024.)
"""

from collections.abc import Sequence
from math import sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fraud.stats.metrics import Floats

BETS: Final = (0.125, 0.25, 0.5, 0.75)
"""Bets as shares of the largest allowed b. The evidence is the mean over them, which is an e-detector too."""
HOLD_DAYS: Final = 7
"""An alert stays active for this many days after the evidence reached the limit, which it may cross several times."""
_NORMAL_95: Final = 1.959964


def shares(groups: NDArray[np.integer], hit: NDArray[np.bool_]) -> Floats:
    """Share of each group's rows with `hit`: float64[number of groups]. `groups` int[n], in any order."""
    _, group = np.unique(groups, return_inverse=True)
    rows = np.bincount(group)
    found: Floats = np.bincount(group, weights=hit) / rows
    return found


def promised(values: Floats) -> float | None:
    """Lower end of the two-sided 95 % interval of the mean of n values in [0, 1]; None for n = 0.

    Wilson's interval for a proportion. It is conservative for other variables in [0, 1], whose variance is smaller.
    """
    if not (n := len(values)):
        return None
    mean, z2 = float(np.mean(values)), _NORMAL_95**2
    return max(0.0, (mean + z2 / (2 * n) - _NORMAL_95 * sqrt(mean * (1 - mean) / n + z2 / (4 * n * n))) / (1 + z2 / n))


def evidence(days: Sequence[Floats], promise: float) -> list[float]:
    """The e-detector after each day, from values in [0, 1] per person and day.

    With a promise of 0 the evidence stays at 0. A day without values does not change the evidence.
    """
    if promise <= 0.0:
        return [0.0] * len(days)
    # With a promise of 1 any bet is allowed; bets are limited to those of a promise of 0.99.
    bets = np.array(BETS) / (1.0 - min(promise, 0.99))
    stakes = np.zeros(len(bets))
    found = []
    for values in days:
        if len(values):
            stakes = (1.0 + stakes) * np.prod(1.0 + bets[:, None] * (promise - values[None, :]), axis=1)
        found.append(float(np.mean(stakes)))
    return found


def fires(found: Sequence[float], limit: float) -> bool:
    """Whether the evidence reached the limit on one of the last HOLD_DAYS days."""
    return max(found[-HOLD_DAYS:], default=0.0) >= limit
