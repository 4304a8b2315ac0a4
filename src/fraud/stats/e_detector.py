"""Evidence that decisions are worse than on the holdout. It remains valid when it is checked every day.

Two properties are monitored as means over people, because the payments of a stolen card are not independent: the share
of a victim's frauds on a day that was stopped (recall), and the share of a customer's stops on a day that was fraud
(precision). The promise is the lower end of the interval of the same property over the holdout, measured by the same
code on labels of the same age.

Each day bets against the hypothesis that the mean is at least the promise. A person with the value x multiplies the
stake by 1 + b * (promise - x). With b in (0, 1 / (1 - promise)) no stake grows on average while the hypothesis is true.
A new stake of 1 is added every day, and all stakes are summed: the Shiryaev-Roberts e-detector. While the hypothesis is
true, the sum grows by at most 1 per day on average, so it reaches N after N days on average at the earliest, regardless
of how often it is checked. (Shin, Ramdas, Rinaldo: E-detectors, New England Journal of Statistics in Data Science 2
(2), 2024; the bets: Waudby-Smith, Ramdas: Estimating means of bounded random variables by betting, JRSS B 86, 2024.)
"""

from collections.abc import Sequence
from math import sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fraud.stats.metrics import Floats

BETS: Final = (0.125, 0.25, 0.5, 0.75)
"""Shares of the largest bet that cannot lose everything. The evidence is the mean over them: still an e-detector."""
HOLD_DAYS: Final = 7
"""Days that an alert stays active. Evidence at its limit fluctuates around it, which must give one alert only."""
_NORMAL_95: Final = 1.959964


def shares(groups: NDArray[np.integer], hit: NDArray[np.bool_]) -> Floats:
    """Share of rows with `hit` in each group: float64[number of groups]. `groups` int[n], in any order."""
    _, group = np.unique(groups, return_inverse=True)
    rows = np.bincount(group)
    found: Floats = np.bincount(group, weights=hit) / rows
    return found


def promised(values: Floats) -> float | None:
    """Lower end of the two-sided 95 % interval of the mean of n values in [0, 1]; None for n = 0.

    Wilson's interval for a share: of all variables in [0, 1] with this mean, one that is only 0 or 1 varies most.
    """
    if not (n := len(values)):
        return None
    mean, z2 = float(np.mean(values)), _NORMAL_95**2
    return max(0.0, (mean + z2 / (2 * n) - _NORMAL_95 * sqrt(mean * (1 - mean) / n + z2 / (4 * n * n))) / (1 + z2 / n))


def evidence(days: Sequence[Floats], promise: float) -> list[float]:
    """The e-detector after each day, from values in [0, 1] per person and day.

    With a promise of 0 the evidence is always 0. A day without values changes nothing.
    """
    if promise <= 0.0:
        return [0.0] * len(days)
    # With a promise of 1 any bet is allowed; the largest one is that of a promise of 0.99.
    bets = np.array(BETS) / (1.0 - min(promise, 0.99))
    stakes = np.zeros(len(bets))
    found = []
    for values in days:
        if len(values):
            stakes = (1.0 + stakes) * np.prod(1.0 + bets[:, None] * (promise - values[None, :]), axis=1)
        found.append(float(np.mean(stakes)))
    return found


def fires(found: Sequence[float], limit: float) -> bool:
    """Whether the evidence has reached the limit on one of the last HOLD_DAYS days."""
    return max(found[-HOLD_DAYS:], default=0.0) >= limit
