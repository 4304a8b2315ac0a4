"""Level 0: bounds, midnight, tuning."""

import numpy as np
import pytest

from fraud.core import rule
from fraud.core.rule import Rule
from fraud.training.ladder.rule_tuning import tuned_rule


@pytest.mark.parametrize(
    ("amount", "hour", "fraud"),
    [(5000.01, 2, True), (5000.01, 4, True), (5000.0, 3, False), (9000.0, 5, False), (9000.0, 1, False)],
)
def test_the_rule_of_thumb_at_its_bounds(amount: float, hour: int, fraud: bool) -> None:
    assert rule.is_fraud(amount, hour) is fraud


@pytest.mark.parametrize(
    ("hours", "held"), [((22, 4), {22, 23, 0, 1, 2, 3}), ((0, 24), set(range(24))), ((2, 5), {2, 3, 4})]
)
def test_hours_may_span_midnight_and_rows_agree_with_one(hours: tuple[int, int], held: set[int]) -> None:
    made = Rule(100.0, *hours)
    every = np.arange(24, dtype=np.float32)
    assert {hour for hour in range(24) if made.holds(101.0, hour)} == held
    assert set(np.flatnonzero(made.holds_for(np.full(24, 101.0, np.float32), every))) == held
    assert not made.holds_for(np.full(24, 100.0, np.float32), every).any()


def test_tuning_finds_the_bounds_that_hold_the_frauds_and_their_rates() -> None:
    amount = np.array([600, 600, 600, 600, 50, 50, 50, 50], dtype=np.float32)
    hour = np.array([3, 3, 12, 12, 3, 3, 12, 12], dtype=np.float32)
    fraud = np.array([True, True, False, False, False, False, False, False])
    found = tuned_rule(amount, hour, fraud, [10.0, 500.0], [(0, 24), (2, 5)])
    assert (found.above, found.first, found.until) == (500.0, 2, 5)
    assert found.inside == pytest.approx((2 + 0.25) / 3)
    assert found.outside == pytest.approx((0 + 0.25) / 7)


def test_nothing_to_choose_from_is_said() -> None:
    with pytest.raises(ValueError, match="at least one"):
        tuned_rule(np.ones(1, np.float32), np.ones(1, np.float32), np.array([True]), [], [])
