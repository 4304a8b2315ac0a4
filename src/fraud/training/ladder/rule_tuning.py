"""Choose the bounds of the rule, level 0, on training rows."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fraud.core.rule import Rule
from fraud.stats.metrics import Ranked


def tuned_rule(
    amount: NDArray[np.float32],
    hour: NDArray[np.float32],
    is_fraud: NDArray[np.bool_],
    amounts: Sequence[float],
    hours: Sequence[tuple[int, int]],
) -> Rule:
    """The bounds with the best average precision, the first among equals. The probabilities are the two fraud rates.

    Both rates are smoothed with one row at the overall rate, so neither is exactly 0 or 1.
    `amount` USD float32[n], `hour` 0..23 float32[n], `is_fraud` bool[n]. Raises ValueError without bounds to choose.
    """
    overall = float(np.mean(is_fraud))
    best: tuple[float, Rule] | None = None
    for above in amounts:
        for first, until in hours:
            holds = Rule(above, first, until).holds_for(amount, hour)
            inside, outside = (
                (float(np.sum(is_fraud[rows])) + overall) / (float(np.sum(rows)) + 1.0) for rows in (holds, ~holds)
            )
            rule = Rule(above, first, until, inside, outside)
            precision = Ranked(rule.probabilities(amount, hour), is_fraud).average_precision()
            if best is None or precision > best[0]:
                best = (precision, rule)
    if best is None:
        raise ValueError("a rule needs at least one amount and one pair of hours")
    return best[1]
