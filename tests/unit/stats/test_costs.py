"""Money by hand: amounts of 100, 1,000 and 50 USD, the first two frauds."""

import numpy as np
import pytest

from fraud.stats.costs import Costs, best_threshold, saved_per_1000

COSTS = Costs(capacity=0.5, review=3.0, chargeback_fee=25.0, friction=10.0)
AMOUNT = np.array([100.0, 1000.0, 50.0])
FRAUD = np.array([True, True, False])


def test_what_an_alert_saves() -> None:
    assert COSTS.gains(AMOUNT, FRAUD).tolist() == [122.0, 1022.0, -13.0]


def test_saved_per_1000_counts_chances_and_weights() -> None:
    gains = COSTS.gains(AMOUNT, FRAUD)
    assert saved_per_1000(gains, np.array([1.0, 0.0, 0.5])) == pytest.approx((122 - 6.5) * 1000 / 3)
    assert saved_per_1000(gains, np.array([1.0, 0.0, 0.5]), np.array([2.0, 1.0, 0.0])) == pytest.approx(244e3 / 3)


def test_the_threshold_saves_most_within_capacity() -> None:
    probability = np.array([0.9, 0.8, 0.7, 0.6], dtype=np.float32)
    gains = np.array([10.0, -5.0, 50.0, 50.0])
    assert best_threshold(probability, gains, capacity=0.75) == float(np.float32(0.7))
    assert best_threshold(probability, gains, capacity=0.5) == float(np.float32(0.9))
    assert best_threshold(probability, gains, capacity=1.0) == float(np.float32(0.6))


def test_nothing_is_alerted_when_no_alert_pays_or_all_are_tied() -> None:
    loss = best_threshold(np.array([0.9, 0.1], dtype=np.float32), np.array([-1.0, -1.0]), 1.0)
    tied = best_threshold(np.zeros(10, dtype=np.float32), np.ones(10), 0.5)
    assert loss > np.float32(0.9)
    assert tied > 0.0
