"""PSI against numbers worked out by hand, and what its verdict must and must not depend on."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fraud.stats.psi import MIN_ROWS, ColumnDrift, column_drift, psi, psi_categorical, psi_numerical, psi_share


def test_a_category_of_many_values_needs_fifty_of_each() -> None:
    """With 1,000 values of 40 equal categories in both samples, the mean of PSI without drift is 39 * 2 / 1,000."""
    names = np.array([f"c{i:02}" for i in range(40)], dtype=object)
    found = column_drift(np.repeat(names, 50), np.repeat(names, 25))
    assert found.psi is None
    assert found.notes == ("1,000 values in the current window, fewer than 2,000",)
    assert column_drift(np.repeat(names, 50), np.repeat(names, 50)).psi == 0.0


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


def test_a_column_that_was_constant_has_moved_in_either_direction() -> None:
    """Bins: below the value, the value, above it. 1,000 rows each; half a count to each of three bins."""
    constant = np.full(1_000, 5.0)
    full, empty = 1000.5 / 1001.5, 0.5 / 1001.5
    by_hand = 2 * (full - empty) * math.log(full / empty)
    assert psi_numerical(constant, constant) == 0.0
    assert psi_numerical(constant, constant + 1) == pytest.approx(by_hand, rel=1e-12)
    assert psi_numerical(constant, constant - 1) == pytest.approx(by_hand, rel=1e-12)


def test_missing_values_are_compared_as_a_share_beside_the_values_that_are_there() -> None:
    rng = np.random.default_rng(3)
    numbers = rng.normal(size=2_000)
    found = column_drift(numbers, np.append(numbers, [np.nan] * 500))
    assert found.psi == 0.0
    # 0 of 2,000 are missing, then 500 of 2,500: shares 0.5 / 2001 and 500.5 / 2501.
    r, c = 0.5 / 2001, 500.5 / 2501
    by_hand = (c - r) * math.log(c / r) + (r - c) * math.log((1 - c) / (1 - r))
    assert found.missing_psi == pytest.approx(by_hand, rel=1e-12)
    assert found.worst == found.missing_psi
    assert found.notes == ()


NORMAL = np.random.default_rng(7).normal(50, 5, 1_200)
NAMES = np.random.default_rng(8).choice(["grocery", "travel", "online"], 1_200).astype(object)
NUMBERS: dict[str, NDArray[Any]] = {
    "all null": np.full(1_200, np.nan), "constant": np.full(1_200, 90.0),
    "one value": np.append(90.0, [np.nan] * 1_199), "normal": NORMAL, "few rows": NORMAL[:20], "no rows": NORMAL[:0],
}  # fmt: skip
CATEGORIES: dict[str, NDArray[Any]] = {
    "all null": np.full(1_200, None, dtype=object), "constant": np.full(1_200, "travel", dtype=object),
    "one value": np.array(["travel", *[None] * 1_199], dtype=object), "normal": NAMES,
    "new category": np.where(np.arange(1_200) % 3 == 0, "crypto", NAMES), "few rows": NAMES[:20], "no rows": NAMES[:0],
}  # fmt: skip
FILLED = ("constant", "normal", "new category")
EMPTY = ("all null", "one value")


def expected(reference: str, current: str) -> tuple[bool, bool, bool]:
    """Are the values compared, is the missing share, and has the column drifted? As docs/monitoring.md has it."""
    values = reference in FILLED and current in FILLED
    missing = reference in FILLED + EMPTY and current in FILLED + EMPTY
    moved = values and reference != current
    gone_or_come = missing and (reference in EMPTY) != (current in EMPTY)
    return values, missing, moved or gone_or_come


@pytest.mark.parametrize("kinds", [NUMBERS, CATEGORIES], ids=["numbers", "categories"])
def test_every_degenerate_column_has_a_verdict_and_a_note(kinds: dict[str, NDArray[Any]]) -> None:
    for reference, current in itertools.product(kinds, kinds):
        found = column_drift(kinds[reference], kinds[current])
        got = found.psi is not None, found.missing_psi is not None, found.worst >= 0.05
        assert got == expected(reference, current), (reference, current, found)
        assert math.isfinite(found.worst)
        unusual = not {reference, current} <= {"normal", "new category"} or (reference, current) == (
            "normal", "new category",
        )  # fmt: skip
        assert bool(found.notes) == unusual, (reference, current, found)


@pytest.mark.parametrize(
    ("reference", "current", "notes"),
    [
        ("all null", "all null", ("no values in the reference", "no values in the current window")),
        ("normal", "all null", ("no values in the current window",)),
        ("one value", "normal", ("1 value in the reference, fewer than 1,000",)),
        ("normal", "few rows", ("20 values in the current window, fewer than 1,000",)),
        ("constant", "constant", ("constant in the reference: travel", "constant in the current window: travel")),
        ("normal", "new category", ("not in the reference: crypto",)),
        ("no rows", "normal", ("no values in the reference",)),
    ],
)
def test_a_note_states_what_is_unusual(reference: str, current: str, notes: tuple[str, ...]) -> None:
    assert column_drift(CATEGORIES[reference], CATEGORIES[current]).notes == notes


@st.composite
def columns(draw: st.DrawFn) -> NDArray[Any]:
    """Up to 1,500 values, with ties and holes: a few distinct ones, or as many as there are rows."""
    rows = draw(st.sampled_from([0, 1, 999, 1_000, 1_001, 1_500]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = draw(st.sampled_from([0.0, 1e-300, 1.0, 1e9]))
    values = rng.normal(draw(st.sampled_from([0.0, 5.0])), scale, rows)
    if distinct := draw(st.integers(0, 4)):
        values = rng.choice([0.0, 1.0, 7.5, -2.0][:distinct], rows)
    missing: NDArray[Any] = np.where(rng.random(rows) < draw(st.sampled_from([0.0, 0.001, 0.5, 1.0])), np.nan, values)
    return missing


@settings(max_examples=150, deadline=None)
@given(columns(), columns(), st.integers(0, 2**32 - 1))
def test_any_two_columns_are_compared_without_an_error(
    reference: NDArray[Any], current: NDArray[Any], seed: int
) -> None:
    found = column_drift(reference, current)
    measured = [value for value in (found.psi, found.missing_psi) if value is not None]
    assert all(math.isfinite(value) and value >= 0 for value in measured)
    enough = min(np.count_nonzero(~np.isnan(side)) for side in (reference, current)) >= MIN_ROWS
    assert (found.psi is not None) == enough
    assert (found.missing_psi is not None) == (min(len(reference), len(current)) >= MIN_ROWS)
    assert found.notes or enough
    shuffled = np.random.default_rng(seed).permutation(current)
    assert column_drift(reference, shuffled)[:2] == found[:2]
    assert column_drift(reference, reference).worst == 0.0


def test_what_was_not_measured_is_no_drift() -> None:
    assert ColumnDrift(None, None, ()).worst == 0.0
