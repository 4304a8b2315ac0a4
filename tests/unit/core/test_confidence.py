"""Numbers by hand: at a threshold of 0.2, 0.1 is half-way to 0 and 0.6 half-way to 1."""

import numpy as np
import pytest

from fraud.core.confidence import confidence, confidences


@pytest.mark.parametrize(
    ("probability", "threshold", "expected"),
    [(0.2, 0.2, 0.5), (0.1, 0.2, 0.75), (0.0, 0.2, 1.0), (0.6, 0.2, 0.75), (1.0, 0.2, 1.0), (0.5, 0.5, 0.5)],
)
def test_the_threshold_is_one_half_and_both_ends_are_one(probability: float, threshold: float, expected: float) -> None:
    assert confidence(probability, threshold) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("probability", "threshold"), [(1.0, 1.0), (0.3, 0.0), (0.999, 1.0)])
def test_a_threshold_at_either_end_leaves_it_within_bounds(probability: float, threshold: float) -> None:
    assert 0.5 <= confidence(probability, threshold) <= 1.0


@pytest.mark.parametrize("threshold", [0.0, 1e-9, 0.2, 0.5, 0.999, 1.0])
def test_many_at_once_have_the_bits_of_each_alone(threshold: float) -> None:
    probabilities = np.append(np.random.default_rng(1).random(1_000), [0.0, threshold, 1.0])
    alone = [confidence(p, threshold) for p in probabilities.tolist()]
    assert confidences(probabilities, threshold).tolist() == alone
