"""Curves of degenerate models and holdouts: each is drawn or states why not. Warnings are errors here."""

import itertools

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fraud.stats.comparison import Rows, slice_losses
from fraud.stats.costs import Costs
from fraud.stats.metrics import calibration
from fraud.training import plots

COSTS = Costs(capacity=0.005, review=3.0, chargeback_fee=25.0, friction=10.0)
RNG = np.random.default_rng(0)
PROBABILITIES: dict[str, NDArray[np.float32]] = {
    "all 0": np.zeros(200, np.float32), "all 1": np.ones(200, np.float32), "constant": np.full(200, 0.3, np.float32),
    "normal": RNG.random(200, np.float32), "tiny": np.full(200, 1e-30, np.float32),
    "one row": np.float32([0.5]), "no rows": np.zeros(0, np.float32),
}  # fmt: skip
FRAUDS = {
    "some": lambda n: np.arange(n) % 20 == 7, "one": lambda n: np.arange(n) == 7,
    "none": lambda n: np.zeros(n, bool), "all": lambda n: np.ones(n, bool),
}  # fmt: skip


def drawn(probability: NDArray[np.float32], is_fraud: NDArray[np.bool_]) -> dict[str, Figure]:
    named, gains = {"version 1": probability}, COSTS.gains(np.full(len(is_fraud), 50.0), is_fraud)
    return {
        "precision": plots.precision_recall(named, is_fraud), "roc": plots.roc(named, is_fraud),
        "calibration": plots.calibrated(named, is_fraud), "money": plots.money(named, is_fraud, gains, COSTS),
    }  # fmt: skip


@pytest.mark.parametrize(("probability", "frauds"), list(itertools.product(PROBABILITIES, FRAUDS)))
def test_every_plot_is_drawn_or_states_why_not(probability: str, frauds: str) -> None:
    values = PROBABILITIES[probability]
    is_fraud = FRAUDS[frauds](len(values))
    both_classes = 0 < is_fraud.sum() < len(is_fraud)
    for name, figure in drawn(values, is_fraud).items():
        assert plots.svg(figure).startswith("<svg")
        texts = [text.get_text() for text in figure.axes[0].texts]
        usable = len(values) > 0 if name == "money" else both_classes
        assert texts == ([] if usable else [f"not measured: {is_fraud.sum()} frauds in {len(values)} rows"])
        for line in figure.axes[0].lines:
            assert np.isfinite(np.asarray(line.get_ydata(), np.float64)).all()


def test_the_importances_are_drawn_with_the_most_important_on_top_and_at_most_twenty() -> None:
    features = [{"name": f"f{i}", "loss": 0.5 - i / 40, "spread": 0.01} for i in range(30)]
    figure = plots.importance(features)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == [f"f{i}" for i in range(19, -1, -1)]
    assert plots.svg(plots.importance([])).startswith("<svg")


def test_the_calibration_of_no_rows_is_not_a_number_and_of_constants_their_distance() -> None:
    error, bins = calibration(np.zeros(0, np.float32), np.zeros(0, bool))
    assert np.isnan(error)
    assert bins == []
    # 10 of 200 rows are fraud, evenly spread: no bin's rate reaches 0.25, so the distances add up to 0.25 - 10 / 200.
    error, bins = calibration(np.full(200, 0.25), np.arange(200) % 20 == 7)
    assert sum(b.rows for b in bins) == 200
    assert error == pytest.approx(0.2)


def test_without_frauds_no_slice_has_a_loss() -> None:
    vectors, everything = np.zeros((50, 3), np.float32), {"all": np.ones(50, bool)}
    rows = Rows(vectors, np.zeros(50, bool), np.arange(50), np.ones(50), np.zeros(50, np.int64), everything)
    assert slice_losses(rows, np.zeros(50), np.ones(50), 0.1, resamplings=5, seed=1) == ()
