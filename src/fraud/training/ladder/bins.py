"""Bounds of the columns between which level 2 may split.

scikit-learn's histogram boosting reduces each column to 255 bins with equal numbers of rows. With 0.5% frauds, all
values at which frauds differ from each other may lie in one or two of them: an amount that only one row in a thousand
exceeds is no bound. Here half of the bounds are quantiles of the frauds.
"""

from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

_BOUNDS: Final = 254
"""Per column, so that there are at most 255 codes: scikit-learn then has one bin for each."""


class Bins(NamedTuple):
    """Bounds of each column, ascending. A value has the code c if bounds[c - 1] < value <= bounds[c]."""

    bounds: tuple[NDArray[np.float32], ...]

    @classmethod
    def of(cls, vectors: NDArray[np.float32], is_fraud: NDArray[np.bool_]) -> Self:
        """Bins for rows: `vectors` float32[n, d] without NaN, `is_fraud` bool[n] with both classes."""
        return cls(tuple(_bounds(column, column[is_fraud]) for column in vectors.T))

    def codes(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """The codes of vectors, float32[n, d]."""
        codes = np.empty_like(vectors)
        for column, bounds in enumerate(self.bounds):
            codes[:, column] = np.searchsorted(bounds, vectors[:, column])
        return codes

    def thresholds(self, columns: NDArray[np.integer], codes: NDArray[np.float64]) -> NDArray[np.float64]:
        """The bound of each split: a value is at most this bound exactly if its code is at most `codes`."""
        last = np.floor(codes).astype(np.int64)
        pairs = zip(columns.tolist(), last.tolist(), strict=True)
        return np.array([self.bounds[column][code] for column, code in pairs], dtype=np.float64)


def floor32(thresholds: NDArray[np.float64]) -> NDArray[np.float32]:
    """The largest float32 that is not above each threshold: for float32 x, `x <= t` exactly when `x <= floor32(t)`.

    Rounding to the nearest float32 would give another result for values between t and the rounded t.
    """
    nearest = thresholds.astype(np.float32)
    return np.where(nearest > thresholds, np.nextafter(nearest, np.float32(-np.inf)), nearest)


def _bounds(values: NDArray[np.float32], of_frauds: NDArray[np.float32]) -> NDArray[np.float32]:
    """Midpoints between neighbouring values: all of them, or those above quantiles of the rows and of the frauds.

    The lowest fraud has one below it, too.
    """
    different = np.unique(values)
    if len(different) <= _BOUNDS + 1:
        below = np.arange(len(different) - 1)
    else:
        half = _BOUNDS // 2
        quantiles = np.concatenate([_quantiles(values, half), _quantiles(of_frauds, half - 1)])
        lowest = np.searchsorted(different, of_frauds.min()) - 1
        below = np.unique(np.append(np.searchsorted(different, quantiles), lowest))
        below = below[(below >= 0) & (below < len(different) - 1)]
    return floor32((different[below].astype(np.float64) + different[below + 1]) / 2)


def _quantiles(values: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Evenly spaced quantiles; each is one of the values."""
    places = ((np.arange(count) + 0.5) * len(values) / count).astype(np.int64)
    return np.sort(values)[places]
