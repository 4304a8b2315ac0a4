"""How far two samples of one feature lie apart: the population stability index over the reference's own bins.

PSI = sum over bins of (c - r) * ln(c / r), with r and c the shares of reference and current. It measures the size of a
difference, not how sure we are of it, so a verdict does not change with the sample's size once noise is small: without
any drift its mean is about (bins - 1) * (1 / n_reference + 1 / n_current), 0.002 for ten bins and a week of 8,000.
(B. Yurdakul, Statistical Properties of Population Stability Index, 2018.) docs/monitoring.md says how the threshold in
params.yaml was chosen.
"""

from collections.abc import Hashable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

BINS: Final = 10
MIN_ROWS: Final = 1_000
"""Fewer rows say nothing: noise alone then reaches 0.04 once in a thousand times (chi-square, 16 categories)."""


def psi(reference: NDArray[np.int64], current: NDArray[np.int64]) -> float:
    """PSI of two histograms over the same bins, int64[bins]. Half a count is added to each bin, so none is empty."""
    r = (reference + 0.5) / (reference.sum() + 0.5 * len(reference))
    c = (current + 0.5) / (current.sum() + 0.5 * len(current))
    return float(np.sum((c - r) * np.log(c / r)))


def psi_numerical(reference: NDArray[np.float64], current: NDArray[np.float64]) -> float:
    """PSI over the reference's deciles, float64[n] and float64[m] without NaN. Equal deciles merge into one bin."""
    edges = np.unique(np.quantile(reference, np.arange(1, BINS) / BINS))
    return psi(_histogram(reference, edges), _histogram(current, edges))


def psi_categorical(reference: Sequence[Hashable], current: Sequence[Hashable]) -> float:
    """PSI over the values that occur, any hashable."""
    names = {name: index for index, name in enumerate(sorted({*reference, *current}, key=repr))}
    return psi(_counts(reference, names), _counts(current, names))


def psi_column(reference: NDArray[Any], current: NDArray[Any]) -> float:
    """PSI of a column as a data frame holds it: numbers without their NaN, or objects as categories."""
    if reference.dtype == object:
        return psi_categorical(reference.tolist(), current.tolist())
    r, c = (values[~np.isnan(values)].astype(np.float64) for values in (reference, current))
    return psi_numerical(r, c) if len(r) else 0.0


def psi_share(reference: tuple[int, int], current: tuple[int, int]) -> float:
    """PSI of a yes/no property, each given as (number of yes, number of rows): missing values, unknown categories."""
    return psi(*(np.array([yes, rows - yes], dtype=np.int64) for yes, rows in (reference, current)))


def _histogram(values: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1)


def _counts(values: Sequence[Hashable], names: dict[Hashable, int]) -> NDArray[np.int64]:
    return np.bincount([names[value] for value in values], minlength=len(names))
