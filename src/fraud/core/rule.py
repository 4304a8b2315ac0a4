"""Level 0 of the ladder: a large amount at night. What other levels have to beat, and what serving falls back to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from fraud.core.metrics import Ranked


@dataclass(frozen=True, slots=True)
class Rule:
    """`amount > above` (USD) from hour `first` until before hour `until` (UTC; 22..4 spans midnight, 0..24 is always).

    `inside` and `outside` are the probabilities it answers with.
    """

    above: float
    first: int
    until: int
    inside: float = 1.0
    outside: float = 0.0

    def holds(self, amount: float, hour: int) -> bool:
        """Whether a transaction of `amount` USD at `hour` (0..23) is what the rule looks for."""
        during = self.first <= hour < self.until
        if self.first > self.until:
            during = hour >= self.first or hour < self.until
        return during and amount > self.above

    def holds_for(self, amount: NDArray[np.float32], hour: NDArray[np.float32]) -> NDArray[np.bool_]:
        """The same for n rows."""
        during = (hour >= self.first) & (hour < self.until)
        if self.first > self.until:
            during = (hour >= self.first) | (hour < self.until)
        holds: NDArray[np.bool_] = during & (amount > np.float32(self.above))
        return holds

    def probabilities(self, amount: NDArray[np.float32], hour: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32[n]."""
        return np.where(self.holds_for(amount, hour), np.float32(self.inside), np.float32(self.outside))

    @classmethod
    def tuned(
        cls,
        amount: NDArray[np.float32],
        hour: NDArray[np.float32],
        is_fraud: NDArray[np.bool_],
        amounts: Sequence[float],
        hours: Sequence[tuple[int, int]],
    ) -> Self:
        """The bounds with the best average precision, the first of equals; probabilities are the two fraud rates.

        Both rates are drawn towards the overall rate by one row's weight, so that neither is a certain 0 or 1.
        """
        overall = float(np.mean(is_fraud))
        best: tuple[float, Self] | None = None
        for above in amounts:
            for first, until in hours:
                holds = cls(above, first, until).holds_for(amount, hour)
                inside, outside = (
                    (float(np.sum(is_fraud[rows])) + overall) / (float(np.sum(rows)) + 1.0) for rows in (holds, ~holds)
                )
                rule = cls(above, first, until, inside, outside)
                precision = Ranked(rule.probabilities(amount, hour), is_fraud).average_precision()
                if best is None or precision > best[0]:
                    best = (precision, rule)
        if best is None:
            raise ValueError("a rule needs at least one amount and one pair of hours to choose from")
        return best[1]


DEFAULT: Final = Rule(above=5000.0, first=2, until=5)
"""The rule of thumb before any training: above 5,000 USD between 2 and 5 in the morning."""


def is_fraud(amount: float, hour: int) -> bool:
    """`DEFAULT`'s verdict: what a service without any model answers."""
    return DEFAULT.holds(amount, hour)
