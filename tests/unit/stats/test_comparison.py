"""Comparisons: figures by hand, paired noise, selection of a level, slices."""

import numpy as np
import pytest
from numpy.typing import NDArray

from fraud.stats.comparison import MEASURES, Compared, Rows, select_level, slice_losses
from fraud.stats.costs import Costs, saved_per_1000
from fraud.stats.metrics import Ranked, recall, resamples

COSTS = Costs(capacity=0.02, review=3.0, chargeback_fee=25.0, friction=10.0)


def rows(n: int = 4000, seed: int = 1) -> Rows:
    random = np.random.default_rng(seed)
    amount, category = random.lognormal(4, 1, n), random.integers(0, 2, n)
    named = {name: category == code for code, name in enumerate(("category electronics", "category entertainment"))}
    named["new users"] = random.integers(0, 3, n) == 0
    fraud, users = random.random(n) < 0.02, random.integers(0, n // 8, n)
    return Rows(amount.astype(np.float32)[:, None], fraud, users, amount, np.zeros(n, dtype=np.int64), named)


def guesses(given: Rows, strength: float, seed: int) -> NDArray[np.float32]:
    noise = np.random.default_rng(seed).random(len(given.is_fraud))
    return (noise * (1 - strength) + strength * given.is_fraud).astype(np.float32)


def test_figures_are_those_of_the_measures_themselves() -> None:
    given = rows()
    guess = np.round(guesses(given, 0.3, 2), 2)
    compared = Compared(given, [guess], COSTS, resamplings=3, seed=5)
    ranked = Ranked(guess, given.is_fraud)
    alerted = ranked.alerted(COSTS.capacity)
    expected = [
        ranked.average_precision(), ranked.tally().roc_auc(), recall(alerted, given.is_fraud),
        saved_per_1000(COSTS.gains(given.amount, given.is_fraud), alerted), guess.sum() / given.is_fraud.sum(),
    ]  # fmt: skip
    assert [compared.interval(0, measure).value for measure in MEASURES] == pytest.approx(expected)
    weights = next(resamples(given.users, 1, seed=5))
    drawn = compared._drawn[0, 0]
    chance = ranked.alerted(COSTS.capacity, weights)
    gains = COSTS.gains(given.amount, given.is_fraud)
    assert drawn[2:4] == pytest.approx(
        [recall(chance, given.is_fraud, weights), saved_per_1000(gains, chance, weights)]
    )


def test_a_model_does_not_beat_itself_nor_an_equal_one() -> None:
    given = rows(16000)
    same, twin = guesses(given, 0.3, 2), guesses(given, 0.3, 3)
    compared = Compared(given, [same, same, twin], COSTS, resamplings=200, seed=1)
    assert compared.gain(1, 0, "saved_per_1000") == (0.0, 0.0, 0.0)
    noise = compared.gain(2, 0, "average_precision")
    assert noise.low < 0 < noise.high


def test_a_level_is_selected_if_it_beats_the_best_below() -> None:
    given = rows(8000)
    ladder = [guesses(given, 0.1, 2), guesses(given, 0.1, 3), guesses(given, 0.5, 4), guesses(given, 0.2, 5)]
    compared = Compared(given, ladder, COSTS, resamplings=200, seed=1)
    chosen, steps = select_level(compared, 4, margin=0.005)
    assert chosen == 2
    assert [(s.level, s.against, s.taken) for s in steps] == [(1, 0, False), (2, 0, True), (3, 2, False)]
    assert select_level(compared, 4, margin=1.0)[0] == 0


def test_a_slice_that_was_given_up_is_found() -> None:
    given = rows(12000)
    opponent = guesses(given, 0.9, 2)
    candidate = opponent.copy()
    given_up = given.slices["category entertainment"]
    candidate[given_up & given.is_fraud] = 0.0
    losses = {s.name: s for s in slice_losses(given, candidate, opponent, 0.05, resamplings=100, seed=1)}
    lost = losses["category entertainment"]
    assert (lost.candidate, lost.opponent, lost.loss.value) == (0.0, 1.0, 1.0)
    assert losses["category electronics"].loss.value == 0.0
    assert lost.frauds == int((given_up & given.is_fraud).sum())
