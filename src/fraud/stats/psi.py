"""The population stability index (PSI) of two samples of a column, over bins of the reference.

PSI = sum over bins of (c - r) * ln(c / r), with r and c the shares of reference and current. It measures the size of a
difference, not its significance, so a verdict does not depend on the sample size once noise is small. Without drift its
mean is about (bins - 1) * (1 / n_reference + 1 / n_current), 0.002 for ten bins and a week of 8,000.
(B. Yurdakul, Statistical Properties of Population Stability Index, 2018.) docs/monitoring.md describes how the
threshold in params.yaml was chosen, and the verdict for a column without values.
"""

from collections.abc import Hashable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

BINS: Final = 10
MIN_ROWS: Final = 1_000
"""With fewer values nothing can be concluded: noise alone reaches 0.04 once in a thousand times (chi-square, 16
categories)."""
ROWS_PER_CATEGORY: Final = 50
"""A category of more than 20 values needs this many values for each: noise grows with their number."""


class ColumnDrift(NamedTuple):
    """The difference between a column's reference and current sample."""

    psi: float | None
    """Of the values. None when either sample has fewer than MIN_ROWS of them, or ROWS_PER_CATEGORY per category."""
    missing_psi: float | None
    """Of the share of missing values. None when either sample has fewer than MIN_ROWS rows."""
    notes: tuple[str, ...]
    """Why the values were not compared, and what is unusual about them."""

    @property
    def worst(self) -> float:
        """The larger of both; what was not measured counts as 0."""
        return max(self.psi or 0.0, self.missing_psi or 0.0)


def column_drift(reference: NDArray[Any], current: NDArray[Any]) -> ColumnDrift:
    """Compare a column's samples, [n] and [m] with n, m >= 0: numbers with NaN, or objects with None, where missing."""
    r, c = _present(reference), _present(current)
    missing = (len(reference) - len(r), len(reference)), (len(current) - len(c), len(current))
    missing_psi = psi_share(*missing) if min(len(reference), len(current)) >= MIN_ROWS else None
    needed = MIN_ROWS
    if reference.dtype == object:
        needed = max(needed, ROWS_PER_CATEGORY * len({*r.tolist(), *c.tolist()}))
    short = [
        f"no values in {where}" if not n else f"{n:,} value{'s' * (n > 1)} in {where}, fewer than {needed:,}"
        for where, n in (("the reference", len(r)), ("the current window", len(c)))
        if n < needed
    ]
    if short:
        return ColumnDrift(None, missing_psi, tuple(short))
    apart = psi_categorical(r.tolist(), c.tolist()) if reference.dtype == object else psi_numerical(r, c)
    return ColumnDrift(apart, missing_psi, tuple(_unusual(r, c)))


def psi(reference: NDArray[np.int64], current: NDArray[np.int64]) -> float:
    """PSI of two histograms over the same bins, int64[bins]. Half a count is added to each bin, so none is empty."""
    r = (reference + 0.5) / (reference.sum() + 0.5 * len(reference))
    c = (current + 0.5) / (current.sum() + 0.5 * len(current))
    return float(np.sum((c - r) * np.log(c / r)))


def psi_numerical(reference: NDArray[np.float64], current: NDArray[np.float64]) -> float:
    """PSI over the reference's deciles, float64[n] and float64[m] without NaN, n > 0.

    A value that several deciles share has a separate bin, so a decrease of a constant column is detected as well.
    """
    edges, times = np.unique(np.quantile(reference, np.arange(1, BINS) / BINS), return_counts=True)
    edges = np.union1d(edges, np.nextafter(edges[times > 1], -np.inf))
    return psi(_histogram(reference, edges), _histogram(current, edges))


def psi_categorical(reference: Sequence[Hashable], current: Sequence[Hashable]) -> float:
    """PSI over the values that occur, any hashable."""
    names = {name: index for index, name in enumerate(sorted({*reference, *current}, key=repr))}
    return psi(_counts(reference, names), _counts(current, names))


def psi_share(reference: tuple[int, int], current: tuple[int, int]) -> float:
    """PSI of a yes/no property, each given as (number of yes, number of rows): missing values, unknown categories."""
    return psi(*(np.array([yes, rows - yes], dtype=np.int64) for yes, rows in (reference, current)))


def _present(values: NDArray[Any]) -> NDArray[Any]:
    if values.dtype == object:
        return np.array([value for value in values if value is not None], dtype=object)
    present: NDArray[Any] = values[~np.isnan(values)]
    return present


def _unusual(reference: NDArray[Any], current: NDArray[Any]) -> list[str]:
    notes = [
        f"constant in {where}: {values[0]}"
        for where, values in (("the reference", reference), ("the current window", current))
        if bool(np.all(values == values[0]))
    ]
    if reference.dtype == object and (new := sorted({*current} - {*reference})):
        notes.append(f"not in the reference: {', '.join(new)}")
    return notes


def _histogram(values: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1)


def _counts(values: Sequence[Hashable], names: dict[Hashable, int]) -> NDArray[np.int64]:
    return np.bincount([names[value] for value in values], minlength=len(names))
