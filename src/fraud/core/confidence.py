"""Confidence of a decision: its distance from the threshold, scaled to 0.5..1.0."""

import numpy as np
from numpy.typing import NDArray


def confidence(probability: float, threshold: float) -> float:
    """Confidence in the decision `probability >= threshold`: 0.5 at the threshold, 1.0 farthest from it.

    The probability is rescaled on each side of the threshold so that the threshold maps to 0.5. Without rescaling,
    `max(p, 1 - p)` would be above 0.99 for a model that always returns the low base rate of fraud, and only 0.5 for a
    probability of 0.5 at a threshold of 0.1.
    """
    if probability >= threshold:
        room = 1.0 - threshold
        return 1.0 if room <= 0.0 else 0.5 + 0.5 * (probability - threshold) / room
    return 0.5 + 0.5 * (threshold - probability) / threshold


def confidences(probabilities: NDArray[np.float64], threshold: float) -> NDArray[np.float64]:
    """The same for many decisions: float64[n] -> float64[n], bits equal to `confidence`."""
    room = 1.0 - threshold
    above = 0.5 + 0.5 * (probabilities - threshold) / room if room > 0.0 else np.ones_like(probabilities)
    if threshold <= 0.0:
        return above
    return np.where(probabilities >= threshold, above, 0.5 + 0.5 * (threshold - probabilities) / threshold)
