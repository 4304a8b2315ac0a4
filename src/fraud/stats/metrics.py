"""Measures of a ranking of transactions, with bootstrap intervals.

Every measure accepts weights, so that a bootstrap resample is a vector of counts over rows that are sorted once. Rows
with equal probabilities have no order: a measure is the expectation over all their orders.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

CONFIDENCE: Final = 0.95

Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """A measured value and its percentile bootstrap interval (CONFIDENCE)."""

    value: float
    low: float
    high: float


class Ranked:
    """n rows from the most to the least suspicious. `probability` float[n], `is_fraud` bool[n]."""

    def __init__(self, probability: NDArray[np.floating], is_fraud: NDArray[np.bool_]) -> None:
        if len(probability) != len(is_fraud) or not len(probability):
            raise ValueError(f"as many probabilities as labels, at least one: {len(probability)}, {len(is_fraud)}")
        if not bool(np.all(np.isfinite(probability))):
            raise ValueError("probabilities must be finite")
        self.order: NDArray[np.intp] = np.argsort(-probability, kind="stable")
        ordered = probability[self.order]
        self.ends: NDArray[np.intp] = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
        """Index, in `order`, of the last row of each group of equal probabilities."""
        self.cuts = ordered[self.ends].astype(np.float64)
        """The groups' probabilities, in descending order."""
        self._fraud = is_fraud[self.order].astype(np.float64)

    def tally(self, weights: Floats | None = None) -> "Tally":
        """Frauds and rows from the top to the end of each group; `weights` float64[n] in the rows' given order."""
        if weights is None:
            return Tally(np.cumsum(self._fraud)[self.ends], (self.ends + 1).astype(np.float64), self.cuts > 0)
        ordered = weights[self.order]
        return Tally(np.cumsum(ordered * self._fraud)[self.ends], np.cumsum(ordered)[self.ends], self.cuts > 0)

    def average_precision(self) -> float:
        """See `Tally.average_precision`."""
        return self.tally().average_precision()

    def alerted(self, share: float, weights: Floats | None = None) -> Floats:
        """Probability that each row, in the given order, is among the `share` most suspicious: float64[n] in [0, 1]."""
        alerted = np.empty(len(self.order), dtype=np.float64)
        alerted[self.order] = np.repeat(self.tally(weights).chances(share), np.diff(self.ends, prepend=-1))
        return alerted

    def group_sums(self, values: Floats) -> Floats:
        """Sum of `values` float64[n], in the rows' given order, over each group."""
        sums: Floats = np.add.reduceat(values[self.order], np.append(0, self.ends[:-1] + 1))
        return sums


class Tally(NamedTuple):
    """Running weight of frauds and of all rows at the end of each group of equal probabilities, from the top."""

    frauds: Floats
    rows: Floats
    suspicious: NDArray[np.bool_]
    """False for the group with probability 0, which is never alerted."""

    def average_precision(self) -> float:
        """Sum over groups of (recall gained) x (precision at the group's end). NaN without frauds."""
        if self.frauds[-1] == 0:
            return float("nan")
        gained = np.diff(self.frauds, prepend=0.0)
        precision = np.divide(self.frauds, self.rows, out=np.zeros_like(self.frauds), where=self.rows > 0)
        return float(np.sum(gained * precision) / self.frauds[-1])

    def roc_auc(self) -> float:
        """Probability that a fraud ranks above a legitimate row; ties count half. NaN without both classes."""
        legitimate = self.rows - self.frauds
        if self.frauds[-1] == 0 or legitimate[-1] == 0:
            return float("nan")
        gained = np.diff(self.frauds, prepend=0.0)
        below = legitimate[-1] - legitimate
        tied = np.diff(legitimate, prepend=0.0)
        return float(np.sum(gained * (below + tied / 2)) / (self.frauds[-1] * legitimate[-1]))

    def chances(self, share: float) -> Floats:
        """Probability that a row of each group is among the `share` most suspicious.

        It is 1 above the cut and 0 below it. The remaining capacity is spread evenly over the group at the cut.
        """
        size = np.diff(self.rows, prepend=0.0)
        left = share * self.rows[-1] - (self.rows - size)
        chances: Floats = np.divide(left, size, out=np.zeros_like(size), where=size > 0)
        return np.clip(chances, 0.0, 1.0) * self.suspicious

    def curve(self) -> tuple[Floats, Floats, Floats]:
        """Recall, precision and false-positive rate at the end of each group. Needs both classes."""
        legitimate = self.rows - self.frauds
        return self.frauds / self.frauds[-1], self.frauds / self.rows, legitimate / legitimate[-1]


def recall(alerted: Floats, is_fraud: NDArray[np.bool_], weights: Floats | None = None) -> float:
    """Share of the frauds that are alerted. NaN without frauds."""
    weight = is_fraud.astype(np.float64) if weights is None else weights * is_fraud
    total = float(np.sum(weight))
    return float(np.sum(weight * alerted)) / total if total else float("nan")


class CalibrationBin(NamedTuple):
    """Rows of one bin, their mean probability and the share of frauds among them."""

    rows: int
    predicted: float
    observed: float


def calibration(
    probability: NDArray[np.floating], is_fraud: NDArray[np.bool_], bins: int = 10
) -> tuple[float, list[CalibrationBin]]:
    """Expected calibration error and its bins, from likely to unlikely.

    Bins have equal numbers of *expected frauds*, not of rows: with rare fraud, nine of ten bins with equal rows would
    have a rate of 0.0. The error is the rows' mean of |predicted - observed|. (Naeini et al., AAAI 2015, with these
    bins.) NaN and no bins without rows.
    """
    if not len(probability):
        return float("nan"), []
    order = np.argsort(-probability, kind="stable")
    expected = np.cumsum(probability[order], dtype=np.float64)
    total = float(expected[-1])
    edges = np.searchsorted(expected, np.arange(1, bins) * total / bins, side="left") + 1
    parts = [part for part in np.split(order, edges) if len(part)]
    found = [
        CalibrationBin(len(rows), float(np.mean(probability[rows], dtype=np.float64)), float(np.mean(is_fraud[rows])))
        for rows in parts
    ]
    error = sum(b.rows * abs(b.predicted - b.observed) for b in found) / len(order)
    return error, found


def resamples(groups: NDArray[np.integer], count: int, seed: int) -> Iterator[Floats]:
    """`count` bootstrap resamples as weights float64[n]. Groups, `groups` int[n] (0..m-1), are drawn as a whole.

    Groups are users: the frauds of a stolen card are not independent, so drawing single rows would give intervals that
    are too narrow. (Field & Welsh, Bootstrapping clustered data, JRSS B 2007.)
    """
    m = int(groups.max()) + 1
    random = np.random.Generator(np.random.PCG64(seed))
    for _ in range(count):
        yield np.bincount(random.integers(0, m, m), minlength=m).astype(np.float64)[groups]


def bootstrap(measures: Sequence[Callable[[Floats | None], float]], weights: Sequence[Floats]) -> list[Interval]:
    """Percentile intervals of measures over the same resamples."""
    return [interval(measure(None), np.array([measure(w) for w in weights])) for measure in measures]


def interval(value: float, drawn: Floats) -> Interval:
    """The percentile interval of a value from its resampled values; unbounded when none is defined.

    Resamples in which the value is undefined (no fraud was drawn) are left out.
    """
    defined = drawn[np.isfinite(drawn)]
    if not len(defined):
        return Interval(value, float("-inf"), float("inf"))
    tail = (1.0 - CONFIDENCE) / 2
    low, high = np.quantile(defined, [tail, 1.0 - tail])
    return Interval(value, float(low), float(high))
