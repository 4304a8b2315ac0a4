"""Bounds between which level 2 may split."""

from pathlib import Path

import numpy as np

from fraud.params import Params
from fraud.training.ladder import boosting
from fraud.training.ladder.bins import Bins
from fraud.training.ladder.levels import Inputs, Sample

PARAMS = Params.load(Path(__file__).resolve().parents[3] / "params.yaml").training


def test_few_values_have_a_bound_between_each() -> None:
    values = np.array([[3, 7], [1, 7], [1, 7], [2, 7]], dtype=np.float32)
    bins = Bins.of(values, np.array([True, False, False, False]))
    assert [bounds.tolist() for bounds in bins.bounds] == [[1.5, 2.5], []]
    assert bins.codes(values).tolist() == [[2, 0], [0, 0], [0, 0], [1, 0]]


def test_a_split_of_codes_is_the_same_split_of_values() -> None:
    rng = np.random.default_rng(1)
    values = rng.lognormal(3, 2, (5_000, 1)).astype(np.float32)
    bins = Bins.of(values, rng.random(5_000) < 0.02)
    [bounds] = bins.bounds
    assert 200 < len(bounds) <= 254
    probes = np.concatenate([bounds, np.nextafter(bounds, np.float32(np.inf)), values[:, 0]])[:, None]
    codes = bins.codes(probes)[:, 0]
    between = np.arange(len(bounds)) + 0.5  # where scikit-learn splits neighbouring codes
    for code, bound in zip(between, bins.thresholds(np.zeros(len(bounds), np.int64), between), strict=True):
        assert np.array_equal(codes <= code, probes[:, 0] <= bound)


def test_frauds_in_a_thousandth_of_the_rows_have_half_of_the_bounds() -> None:
    values = np.arange(100_000, dtype=np.float32)
    [bounds] = Bins.of(values[:, None], values >= 99_900).bounds
    assert np.count_nonzero(bounds >= 99_900) >= 90
    assert np.count_nonzero(bounds < 99_000) >= 125


def test_boosting_finds_an_amount_that_one_row_in_a_thousand_exceeds() -> None:
    rng = np.random.default_rng(2)
    vectors = rng.exponential(40, (60_000, 3)).astype(np.float32)
    is_fraud = vectors[:, 1] > np.float32(270)  # 0.1% of the rows
    sample = Sample(vectors, is_fraud, Inputs(("a", "b", "c"), None, None, ()))
    params = PARAMS.model_copy(
        update={"boosting": PARAMS.boosting.model_copy(update={"max_iter": 100, "max_features": 1.0})}
    )
    probability = boosting.fit(sample, sample, params, lambda *_args, **_facts: None).predict(vectors)
    # With 255 bins of equal size, frauds would share a bin with 0.3% of the rows.
    assert probability[is_fraud].min() > 0.5
    assert probability[~is_fraud].max() < 0.5
