"""Level 1 chooses the scale of its columns on the validation part, so it does not lose to plain scikit-learn by it."""

import hashlib

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tests.unit.training.test_ladder import CATEGORY_OFFSET, INPUTS, NAMES, PARAMS

from fraud.scoring.onnx_session import OnnxModel
from fraud.training.ladder import logistic
from fraud.training.ladder.levels import Sample
from fraud.training.ladder.scaling import Scaling, heavy_tailed

AMOUNT = NAMES.index("amount")
DISTANCE = NAMES.index("distance_from_home")


def ignore(_event: str, **_facts: float) -> None:
    """Progress that no test reads."""


def rows(seed: int, *, linear: bool) -> Sample:
    """Fraud follows the amount: in dollars, or in its logarithm, which puts the same amounts in other proportions."""
    random, n = np.random.default_rng(seed), 20_000
    vectors = np.zeros((n, len(NAMES)), dtype=np.float32)
    amount = np.exp(random.normal(3.5, 1.4, n))
    hour = random.integers(0, 24, n)
    vectors[:, AMOUNT] = amount
    vectors[:, DISTANCE] = random.exponential(30, n)
    vectors[:, NAMES.index("hour_of_day")] = hour
    vectors[:, NAMES.index("avg_amount_7d")] = np.exp(random.normal(3.5, 0.6, n))
    vectors[np.arange(n), CATEGORY_OFFSET + random.integers(0, 17, n)] = 1.0
    # Twelve hours against the others: how much the amount weighs beside it decides the order at the top.
    strength = amount / 400 if linear else 2.4 * np.log1p(amount) - 9.0
    logit = -6.5 + strength + 3.0 * np.sin(2 * np.pi * hour / 24)
    return Sample(vectors, random.random(n) < 1 / (1 + np.exp(-logit)), INPUTS)


def plain(train: Sample, test: Sample) -> NDArray[np.float64]:
    """Plain scikit-learn on the vector, the hour on the circle that level 1 uses too."""

    def columns(sample: Sample) -> NDArray[np.float64]:
        angle = sample.vectors[:, NAMES.index("hour_of_day")] * (2 * np.pi / 24)
        return np.column_stack([sample.vectors.astype(np.float64), np.sin(angle), np.cos(angle)])

    fitted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(columns(train), train.is_fraud)
    probability: NDArray[np.float64] = fitted.predict_proba(columns(test))[:, 1]
    return probability


@pytest.mark.parametrize(("linear", "as_logarithm"), [(True, 0.0), (False, 1.0)], ids=["dollars", "logarithm"])
def test_the_scale_that_ranks_better_is_found_and_plain_regression_does_not_win_by_it(
    linear: bool, as_logarithm: float
) -> None:
    train, validation, holdout = (rows(seed, linear=linear) for seed in (1, 2, 3))
    first = logistic.fit(train, validation, PARAMS, ignore)
    assert first.facts()["log_amount"] == as_logarithm
    ours = average_precision_score(holdout.is_fraud, first.predict(holdout.vectors))
    assert ours >= average_precision_score(holdout.is_fraud, plain(train, holdout)) - 0.002

    final = logistic.refit(validation, first, PARAMS, ignore)
    assert final.scaling.logs == first.scaling.logs
    graph = final.to_onnx()
    assert OnnxModel(graph).probabilities(holdout.vectors) == pytest.approx(final.predict(holdout.vectors), abs=1e-6)
    again = logistic.refit(validation, logistic.fit(train, validation, PARAMS, ignore), PARAMS, ignore).to_onnx()
    assert hashlib.sha256(again).digest() == hashlib.sha256(graph).digest()


def test_scaling_every_column_one_way_would_lose() -> None:
    """The data above are told apart: the other scale costs average precision on rows that no fit has seen."""
    for linear in (True, False):
        train, validation, holdout = (rows(seed, linear=linear) for seed in (1, 2, 3))
        chosen = logistic.fit(train, validation, PARAMS, ignore)
        wrong = tuple(name for name in heavy_tailed(train) if (name == "amount") == linear)
        other = logistic._fitted(train, wrong, heavy_tailed(train), PARAMS, ignore)
        best, worst = (
            average_precision_score(holdout.is_fraud, fit.predict(holdout.vectors)) for fit in (chosen, other)
        )
        assert best > worst + 0.005, (linear, best, worst)


def test_heavy_tails_are_found_in_the_data_and_flags_and_periodic_columns_are_not_among_them() -> None:
    found = heavy_tailed(rows(1, linear=True))
    assert set(found) == {"amount", "distance_from_home", "avg_amount_7d"}
    assert found[0] == "amount"  # exp(normal(3.5, 1.4)) is more skewed than exp(normal(3.5, 0.6)) and exponential(30)


def test_the_logarithm_exists_for_negative_values_too() -> None:
    """A difference of amounts is negative for half of the payments: sign(x) * log(1 + |x|), by hand."""
    vectors = np.zeros((4, len(NAMES)), dtype=np.float32)
    vectors[:, AMOUNT] = [-np.e + 1, 0.0, np.e - 1, np.e**2 - 1]
    scaling, scaled = Scaling.fit(Sample(vectors, np.zeros(4, dtype=np.bool_), INPUTS), ("amount",))
    assert scaling.mean[0] == pytest.approx((-1 + 0 + 1 + 2) / 4)
    assert scaled[:, 0] * scaling.deviation[0] + scaling.mean[0] == pytest.approx([-1, 0, 1, 2])


def test_the_scales_are_searched_on_a_part_of_many_rows_and_fitted_on_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logistic, "_SEARCH_ROWS", 4_000)
    train, validation = rows(1, linear=False), rows(2, linear=False)
    fitted = logistic.fit(train, validation, PARAMS, ignore)
    assert fitted.facts()["log_amount"] == 1.0
    assert fitted.scaling.mean.tolist() == Scaling.fit(train, fitted.scaling.logs)[0].mean.tolist()
