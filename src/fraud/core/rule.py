"""Level 0 of the ladder: a large amount at night. Serving uses it as the fallback without a model."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Rule:
    """`amount > above` (USD) from hour `first` until before hour `until` (UTC; 22..4 spans midnight, 0..24 is always).

    `inside` and `outside` are the probabilities for transactions that match and that do not.
    """

    above: float
    first: int
    until: int
    inside: float = 1.0
    outside: float = 0.0

    def holds(self, amount: float, hour: int) -> bool:
        """Whether a transaction of `amount` USD at `hour` (0..23) matches."""
        during = self.first <= hour < self.until
        if self.first > self.until:
            during = hour >= self.first or hour < self.until
        return during and amount > self.above

    def holds_for(self, amount: NDArray[np.float32], hour: NDArray[np.float32]) -> NDArray[np.bool_]:
        """`holds` for n rows: bool[n]."""
        during = (hour >= self.first) & (hour < self.until)
        if self.first > self.until:
            during = (hour >= self.first) | (hour < self.until)
        holds: NDArray[np.bool_] = during & (amount > np.float32(self.above))
        return holds

    def probabilities(self, amount: NDArray[np.float32], hour: NDArray[np.float32]) -> NDArray[np.float32]:
        """Fraud probabilities, float32[n]."""
        return np.where(self.holds_for(amount, hour), np.float32(self.inside), np.float32(self.outside))


DEFAULT: Final = Rule(above=5000.0, first=2, until=5)
"""The untrained rule: above 5,000 USD between 02:00 and 05:00 UTC."""


def is_fraud(amount: float, hour: int) -> bool:
    """The decision of `DEFAULT`, which serving returns without a model."""
    return DEFAULT.holds(amount, hour)
