"""PSI against numbers worked out by hand, and what its verdict must and must not depend on."""

import math

import numpy as np
import pytest

from fraud.core.drift import MIN_ROWS, psi, psi_categorical, psi_column, psi_numerical, psi_share


def test_psi_is_the_sum_over_bins_of_share_difference_times_log_ratio() -> None:
    # Half a count goes to each bin: 998 rows become 999, in shares of one half each, and of 0.1997 and 0.8003.
    reference, current = np.array([499, 499]), np.array([199, 799])
    r, c = (499.5 / 999, 499.5 / 999), (199.5 / 999, 799.5 / 999)
    by_hand = (c[0] - r[0]) * math.log(c[0] / r[0]) + (c[1] - r[1]) * math.log(c[1] / r[1])
    assert psi(reference, current) == pytest.approx(by_hand, rel=1e-12)
    assert by_hand == pytest.approx(0.41687, abs=1e-5)


def test_equal_histograms_have_no_psi_and_an_empty_bin_no_infinite_one() -> None:
    assert psi(np.array([10, 20, 30]), np.array([10, 20, 30])) == 0.0
    assert math.isfinite(psi(np.array([1000, 0]), np.array([0, 1000])))


def test_a_shift_of_half_a_standard_deviation_is_a_quarter() -> None:
    """For two normals that differ by d standard deviations the divergence is d squared; ten bins lose a little."""
    rng = np.random.default_rng(1)
    shifted = psi_numerical(rng.normal(0, 1, 200_000), rng.normal(0.5, 1, 200_000))
    assert 0.2 < shifted < 0.25


def test_one_outlier_does_not_change_the_bins() -> None:
    rng = np.random.default_rng(2)
    reference, current = rng.lognormal(3, 1, 20_000), rng.lognormal(3, 1, 20_000)
    assert psi_numerical(reference, np.append(current, 1e9)) < 0.005


@pytest.mark.parametrize("rows", [MIN_ROWS, 5_000, 500_000])
def test_without_drift_the_value_stays_far_below_the_threshold_at_any_size(rows: int) -> None:
    rng = np.random.default_rng(rows)
    reference = rng.lognormal(3, 1, 50_000)
    worst = max(psi_numerical(reference, rng.lognormal(3, 1, rows)) for _ in range(50))
    assert worst < 0.05


def test_a_column_of_mostly_one_value_keeps_the_bins_it_has() -> None:
    rng = np.random.default_rng(3)
    counts = rng.poisson(0.1, 10_000).astype(np.float64)
    assert psi_numerical(counts, counts) == 0.0
    assert psi_numerical(counts, rng.poisson(1.0, 10_000).astype(np.float64)) > 0.25


def test_categories_are_compared_by_value_and_a_new_one_counts() -> None:
    reference, current = ["a"] * 500 + ["b"] * 500, ["a"] * 500 + ["c"] * 500
    assert psi_categorical(reference, reference) == 0.0
    assert psi_categorical(reference, current) > 0.25


def test_a_share_is_compared_as_two_bins() -> None:
    assert psi_share((0, 1000), (0, 1000)) == 0.0
    assert psi_share((10, 1000), (100, 1000)) > 0.1


def test_a_column_is_numbers_without_nan_or_categories() -> None:
    rng = np.random.default_rng(3)
    numbers = rng.normal(size=2_000)
    holes = np.append(numbers, [np.nan] * 500)
    assert psi_column(numbers, holes) == pytest.approx(0.0, abs=1e-3)
    assert psi_column(numbers, numbers + 1) == psi_numerical(numbers, numbers + 1)
    names = np.array(["a", "b"] * 500, dtype=object)
    assert psi_column(names, names[::2]) == psi_categorical(["a", "b"] * 500, ["a"] * 500)
    assert psi_column(np.array([np.nan]), numbers) == 0.0
