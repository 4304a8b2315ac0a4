"""Reason codes: exact Shapley values of the eight inputs against an ordinary payment.

For every subset of the inputs the model scores the payment with the other inputs replaced by an ordinary payment's:
2^8 = 256 rows in one inference, about 3 ms for 300 trees, in a thread. From these the Shapley values follow without
sampling, so they are exact for this question, and they add up: their sum is the answer's probability minus the ordinary
payment's. Inputs are replaced before the vector is made, so that derived values (the ratio to the average, the flags
for what is missing) always belong to the inputs they are derived from.

Source: Lundberg and Lee, "A Unified Approach to Interpreting Model Predictions", 2017, equation 4, with a single
reference instead of an average over many. What they are not: causes, or what the model would say had the customer
behaved otherwise.
"""

from math import factorial
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fraud.core import vector
from fraud.core.contract import CATEGORIES
from fraud.core.features import CATEGORY_OFFSET, VECTOR_NAMES

SHOWN: Final = 4
"""Reasons in an answer."""


class Inputs(NamedTuple):
    """What a vector is made from, in the order of `vector.fill_table`; NaN where it is not known."""

    amount: float
    hour_of_day: float
    day_of_week: float
    distance_from_home: float
    merchant_category: float
    transaction_velocity_1h: float
    avg_amount_7d: float
    unique_merchants_30d: float


_N: Final = len(Inputs._fields)
_SUBSETS: Final = (np.arange(2**_N)[:, None] >> np.arange(_N)) & 1 == 1
"""bool[256, 8]: row s has input i of the payment itself where bit i of s is set."""


def ordinary(vectors: NDArray[np.float32]) -> Inputs:
    """The payment to compare with: the middle one, input by input, of the version's golden rows.

    They are spread evenly over the holdout, so this is a typical payment of its time. Of two middle values the lower,
    so that each value was one that occurred; a flag or a category is the most frequent one.
    """

    def middle(name: str, rows: NDArray[np.float32] = vectors) -> float:
        column = np.sort(rows[:, VECTOR_NAMES.index(name)])
        return float(column[(len(column) - 1) // 2])

    def unless(name: str, flag: str) -> float:
        missing = vectors[:, VECTOR_NAMES.index(flag)] > 0.5
        return float("nan") if missing.mean() > 0.5 else middle(name, vectors[~missing])

    categories = vectors[:, CATEGORY_OFFSET : CATEGORY_OFFSET + len(CATEGORIES)]
    return Inputs(
        middle("amount"), middle("hour_of_day"), middle("day_of_week"),
        unless("distance_from_home", "distance_missing"), float(np.argmax(categories.sum(axis=0))),
        middle("transaction_velocity_1h"), unless("avg_amount_7d", "no_history_7d"), middle("unique_merchants_30d"),
    )  # fmt: skip


def subsets(own: Inputs, other: Inputs) -> NDArray[np.float32]:
    """float32[256, len(VECTOR_NAMES)]: what has to be scored."""
    table = np.where(_SUBSETS, np.array(own), np.array(other))
    whole = np.nan_to_num(table).astype(np.int64)
    return vector.fill_table(
        table[:, 0], whole[:, 1], whole[:, 2], table[:, 3], whole[:, 4], table[:, 5], table[:, 6], whole[:, 7]
    )


def _weights() -> NDArray[np.float64]:
    """float64[8, 256]: times the 256 probabilities gives the eight Shapley values."""
    sizes = _SUBSETS.sum(axis=1)
    weights = np.zeros((_N, 2**_N))
    for i in range(_N):
        for s in range(2**_N):
            size = int(sizes[s])
            if _SUBSETS[s, i]:
                weights[i, s] = factorial(size - 1) * factorial(_N - size) / factorial(_N)
            else:
                weights[i, s] = -factorial(size) * factorial(_N - size - 1) / factorial(_N)
    return weights


_WEIGHTS: Final = _weights()


def contributions(probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probabilities of the 256 rows of `subsets` -> eight Shapley values, float64[8], in the order of `Inputs`."""
    values: NDArray[np.float64] = _WEIGHTS @ probabilities.astype(np.float64)
    return values
