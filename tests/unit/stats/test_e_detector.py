"""The e-detector by hand, and on decisions as good as promised and on worse ones."""

import numpy as np
import pytest

from fraud.stats.e_detector import evidence, fires, promised, shares


def test_a_share_is_one_value_per_person() -> None:
    assert shares(np.array([7, 3, 7, 7, 3]), np.array([True, False, False, True, False])).tolist() == [0.0, 2 / 3]


def test_what_is_promised_is_wilsons_lower_end() -> None:
    """8 of 10: 0.4902, as R's binom::binom.wilson(8, 10) says."""
    assert promised(np.array([1.0] * 8 + [0.0] * 2)) == pytest.approx(0.4902, abs=1e-4)
    assert promised(np.array([])) is None
    assert promised(np.array([0.0, 0.0])) == 0.0


def test_two_days_of_misses_by_hand() -> None:
    """Promise 0.5: a miss multiplies by 1 + f, a catch by 1 - f. Two misses: 1 + f, then (2 + f)(1 + f)."""
    fractions = np.array([0.125, 0.25, 0.5, 0.75])
    found = evidence([np.array([0.0]), np.array([0.0])], 0.5)
    assert found == pytest.approx([np.mean(1 + fractions), np.mean((2 + fractions) * (1 + fractions))])
    assert evidence([np.array([1.0])], 0.5) == pytest.approx([np.mean(1 - fractions)])


def test_a_day_without_labels_says_nothing_and_a_promise_of_nothing_cannot_be_broken() -> None:
    found = evidence([np.array([0.0]), np.array([])], 0.5)
    assert found[0] == found[1]
    assert evidence([np.array([0.0])] * 3, 0.0) == [0.0, 0.0, 0.0]
    assert evidence([np.array([1.0])], 1.0) == [1.0]


def test_evaluated_every_day_for_years_it_fires_no_more_often_than_promised() -> None:
    """200 worlds of a year that keep the promise exactly, looked at daily: at most 365 / 365 alarms each on average."""
    rng = np.random.default_rng(1)
    fired = 0
    for _ in range(200):
        days = [(rng.random(5) < 0.5).astype(float) for _ in range(365)]
        fired += max(evidence(days, 0.5)) >= 365
    assert fired <= 200 * 0.63  # a memoryless alert of mean 365 days fires within a year with 1 - 1/e


def test_a_broken_promise_is_found_within_days() -> None:
    rng = np.random.default_rng(2)
    taken = []
    for _ in range(100):
        days = [(rng.random(10) < 0.1).astype(float) for _ in range(30)]
        taken.append(next(i for i, e in enumerate(evidence(days, 0.5), start=1) if e >= 365))
    assert np.median(taken) <= 4


def test_evidence_that_moves_about_its_limit_is_one_alarm_and_ends_a_week_after_the_last_time() -> None:
    found = [1.0, 400.0, 300.0, 370.0, *[10.0] * 7]
    fired = [fires(found[: day + 1], 365.0) for day in range(len(found))]
    assert fired == [False, *[True] * 9, False]
    assert not fires([], 365.0)
