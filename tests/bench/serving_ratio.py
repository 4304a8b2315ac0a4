"""The ratio of two contenders that were measured round by round, with an interval: shared by benches of serving."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

_DRAWS: Final = 4_000
Rounds = Sequence[Mapping[str, float]]
"""The figures of each round."""


def interval(ours: Rounds, other: Rounds, what: str, level: float = 0.95) -> list[float]:
    """Median over rounds of the ratio of a figure, and the ends of its bootstrap interval."""
    ratios = np.array([one[what] / another[what] for one, another in zip(ours, other, strict=True)])
    drawn = np.random.default_rng(1).integers(0, len(ratios), (_DRAWS, len(ratios)))
    low, high = np.quantile(np.median(ratios[drawn], axis=1), [(1 - level) / 2, (1 + level) / 2])
    return [float(np.median(ratios)), float(low), float(high)]
