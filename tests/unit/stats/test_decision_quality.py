"""Figures of decisions by hand."""

import math

import numpy as np
import pytest

from fraud.stats.costs import Costs
from fraud.stats.decision_quality import FIGURES, Outcomes

COSTS = Costs(capacity=0.5, review=3.0, chargeback_fee=25.0, friction=10.0)


def outcomes(stopped: list[int], is_fraud: list[int]) -> Outcomes:
    return Outcomes(
        np.array([0.9, 0.8, 0.1, 0.2]), np.array(stopped, dtype=bool), np.array(is_fraud, dtype=bool),
        np.array([100.0, 40.0, 60.0, 5.0]), np.array([0, 1, 2, 2]),
    )  # fmt: skip


def test_four_decisions_by_hand() -> None:
    """Stopped: a fraud of 100 USD and an legitimate 40. Missed: a fraud of 60. (122 - 13) USD: 27,250 per 1,000."""
    found = outcomes([1, 1, 0, 0], [1, 0, 1, 0]).figures(COSTS, resamplings=200, seed=1)
    assert found["precision"].value == 0.5
    assert found["recall"].value == 0.5
    assert found["average_precision"].value == pytest.approx((1 + 2 / 4) / 2)
    assert found["expected_over_seen"].value == pytest.approx(2.0 / 2)
    assert found["saved_per_1000"].value == pytest.approx(27_250.0)
    assert found["recall"].low <= 0.5 <= found["recall"].high


def test_what_is_not_defined_has_no_value() -> None:
    no_stop = outcomes([0, 0, 0, 0], [1, 0, 0, 0]).figures(COSTS, resamplings=20, seed=1)
    assert math.isnan(no_stop["precision"].value)
    assert no_stop["recall"].value == 0.0
    none = np.zeros(0)
    empty = Outcomes(none, none.astype(bool), none.astype(bool), none, none.astype(np.int64))
    assert all(math.isnan(empty.figures(COSTS, resamplings=5, seed=1)[name].value) for name in FIGURES)
