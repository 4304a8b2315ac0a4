"""How far a decision is from having gone the other way."""

import numpy as np
from numpy.typing import NDArray


def confidence(probability: float, threshold: float) -> float:
    """Confidence in `probability >= threshold` (fraud) or its opposite: 0.5 on the threshold, 1.0 farthest from it.

    The probability is rescaled, on each side of the threshold for itself, so that the threshold lies at 0.5. Fraud is
    rare and thresholds are chosen by cost: without that, `max(p, 1 - p)` is above 0.99 for a model that knows nothing,
    and a calibrated model's surest stop at a threshold of 0.1 counts as a doubtful one.
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
