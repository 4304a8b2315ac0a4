"""Does the model still do what it promised? Evidence that may be looked at every day, for ever.

Two properties are watched, as means over people, because a stolen card's payments are one event and not ten: of a
victim's frauds on a day, the share that was stopped (recall), and of a customer's stops on a day, the share that was
right (precision). What is promised is the lower end of the interval that the same property had over the holdout,
measured by the same code on labels of the same age.

Each day bets against "the mean is at least what was promised": a person with the value x multiplies the stake by
1 + b * (promise - x), and with b in (0, 1 / (1 - promise)) no stake grows on average while the promise is kept. A new
stake of 1 is laid down every day, and all of them are summed: the Shiryaev-Roberts e-detector. As long as the promise
is kept it grows by no more than 1 a day on average, so it reaches N no sooner than after N days on average, whoever
looks at it and however often. (Shin, Ramdas, Rinaldo: E-detectors, New England Journal of Statistics in Data Science 2
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
"""How long an alarm stays. Evidence that has reached its limit moves about it: that is one alarm, not several."""
_NORMAL_95: Final = 1.959964


def shares(groups: NDArray[np.integer], hit: NDArray[np.bool_]) -> Floats:
    """Of each group's rows, the share with `hit`: float64[number of groups]. `groups` int[n], in any order."""
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

    A promise of 0 cannot be broken: its evidence stays at 0. A day without values adds nothing.
    """
    if promise <= 0.0:
        return [0.0] * len(days)
    # With a promise of 1 only a miss can move a stake, and any bet is allowed; the largest odds are those of 0.99.
    bets = np.array(BETS) / (1.0 - min(promise, 0.99))
    stakes = np.zeros(len(bets))
    found = []
    for values in days:
        if len(values):
            stakes = (1.0 + stakes) * np.prod(1.0 + bets[:, None] * (promise - values[None, :]), axis=1)
        found.append(float(np.mean(stakes)))
    return found


def fires(found: Sequence[float], limit: float) -> bool:
    """Has the evidence reached the limit on one of the last HOLD_DAYS days?"""
    return max(found[-HOLD_DAYS:], default=0.0) >= limit
