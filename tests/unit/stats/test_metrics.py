"""Measures against hand calculation and against scikit-learn, which shares no code with them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from fraud.stats.metrics import Ranked, calibration, interval, recall, resamples

PROBABILITY = np.array([0.9, 0.8, 0.8, 0.3, 0.1], dtype=np.float32)
FRAUD = np.array([True, False, True, False, True])


def test_average_precision_by_hand() -> None:
    # Groups: {F}, {L, F}, {L}, {F}: recall gains 1/3 at precision 1, 1/3 at 2/3, 1/3 at 3/5.
    assert Ranked(PROBABILITY, FRAUD).average_precision() == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)


def test_roc_auc_by_hand() -> None:
    # Pairs (fraud, legitimate) won: 0.9 wins 2, 0.8 wins 1 and ties 1, 0.1 wins 0: 3.5 of 6.
    assert Ranked(PROBABILITY, FRAUD).tally().roc_auc() == pytest.approx(3.5 / 6)


ROWS = st.lists(
    st.tuples(st.integers(0, 8), st.booleans(), st.integers(0, 3)), min_size=2, max_size=60
).filter(lambda rows: len({fraud for _, fraud, weight in rows if weight}) == 2)  # fmt: skip


@settings(deadline=None)
@given(ROWS)
def test_agree_with_scikit_learn_under_ties_and_weights(rows: list[tuple[int, bool, int]]) -> None:
    score, fraud, weight = (np.array(column) for column in zip(*rows, strict=True))
    ranked, w = Ranked(score / 8, fraud), weight.astype(np.float64)
    assert ranked.tally(w).average_precision() == pytest.approx(average_precision_score(fraud, score, sample_weight=w))
    assert ranked.tally(w).roc_auc() == pytest.approx(roc_auc_score(fraud, score, sample_weight=w))


@settings(deadline=None)
@given(ROWS)
def test_a_weight_is_a_repetition(rows: list[tuple[int, bool, int]]) -> None:
    score, fraud, weight = (np.array(column) for column in zip(*rows, strict=True))
    repeated = Ranked(np.repeat(score, weight) / 8, np.repeat(fraud, weight))
    ranked = Ranked(score / 8, fraud)
    assert ranked.tally(weight.astype(float)).average_precision() == pytest.approx(repeated.average_precision())
    alerted = ranked.alerted(0.3, weight.astype(float))
    assert np.sum(alerted * weight) <= 0.3 * weight.sum() + 1e-9


@pytest.mark.parametrize("fraud", [[True, True], [False, False]])
def test_one_class_has_no_area(fraud: list[bool]) -> None:
    assert math.isnan(Ranked(np.array([0.1, 0.2]), np.array(fraud)).tally().roc_auc())


def test_without_frauds_there_is_no_precision_nor_recall() -> None:
    ranked = Ranked(np.array([0.1, 0.2]), np.array([False, False]))
    assert math.isnan(ranked.average_precision())
    assert math.isnan(recall(ranked.alerted(0.5), np.array([False, False])))


def test_probabilities_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        Ranked(np.array([0.1, np.nan]), np.array([True, False]))


def test_the_group_on_the_cut_shares_what_is_left() -> None:
    # Two alerts among five: 0.9 surely, the two at 0.8 share the other one.
    assert Ranked(PROBABILITY, FRAUD).alerted(0.4).tolist() == pytest.approx([1, 0.5, 0.5, 0, 0])
    assert recall(Ranked(PROBABILITY, FRAUD).alerted(0.4), FRAUD) == pytest.approx(1.5 / 3)


def test_a_probability_of_zero_is_never_alerted() -> None:
    ranked = Ranked(np.array([0.5, 0.0, 0.0, 0.0]), np.array([True, True, False, False]))
    assert ranked.alerted(0.5).tolist() == [1, 0, 0, 0]


def test_calibration_by_hand() -> None:
    # Two bins of one expected fraud each: {0.5, 0.5} with one fraud, eight of 0.125 with two.
    probability = np.array([0.5] * 2 + [0.125] * 8)
    fraud = np.array([True, False] + [True, True] + [False] * 6)
    error, bins = calibration(probability, fraud, bins=2)
    assert [(b.rows, b.observed) for b in bins] == [(2, 0.5), (8, 0.25)]
    assert error == pytest.approx(8 * 0.125 / 10)


def test_one_probability_for_all_is_one_bin_or_more_and_calibrated() -> None:
    error, bins = calibration(np.full(100, 0.01), np.arange(100) < 1)
    assert sum(b.rows for b in bins) == 100
    assert error <= 0.02


def test_users_are_drawn_whole() -> None:
    groups = np.array([0, 0, 1, 2, 2, 2])
    for weights in resamples(groups, 20, seed=3):
        assert weights[0] == weights[1]
        assert weights[3] == weights[4] == weights[5]
        assert weights[0] + weights[2] + weights[3] == 3


def test_the_interval_of_a_mean_covers_what_theory_says() -> None:
    values = np.random.default_rng(5).normal(10.0, 2.0, 4000)
    drawn = [np.average(values, weights=weights) for weights in resamples(np.arange(4000), 400, seed=1)]
    found = interval(float(values.mean()), np.array(drawn))
    half = 1.96 * 2.0 / math.sqrt(4000)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.2)
    assert found.low < found.value < found.high


def test_the_same_seed_gives_the_same_resamples() -> None:
    one, two = (np.concatenate(list(resamples(np.arange(50), 3, seed=7))) for _ in range(2))
    assert np.array_equal(one, two)


def test_an_interval_of_nothing_is_unbounded() -> None:
    assert interval(1.0, np.array([np.nan])) == (1.0, -math.inf, math.inf)
