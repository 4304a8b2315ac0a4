"""Build the float32 vector of a model from a transaction and its window values."""

import numpy as np
from numpy.typing import NDArray

from fraud.core.contract import CATEGORIES
from fraud.core.features import CATEGORY_OFFSET, VECTOR_NAMES


def fill_row(
    row: NDArray[np.float32],
    amount: float,
    hour: int,
    weekday: int,
    distance: float | None,
    category: int,
    velocity_1h: float,
    avg_amount_7d: float | None,
    unique_merchants_30d: int,
) -> None:
    """Fill `row` (float32[len(VECTOR_NAMES)], any content) for one transaction. Nulls are None."""
    row[:] = 0.0
    average = amount if avg_amount_7d is None else avg_amount_7d
    row[0] = amount
    row[1] = hour
    row[2] = weekday
    row[3] = 0.0 if distance is None else distance
    row[4] = distance is None
    row[5] = velocity_1h
    row[6] = average
    row[7] = unique_merchants_30d
    row[8] = amount / average
    row[9] = avg_amount_7d is None
    row[CATEGORY_OFFSET + category] = 1.0


def fill_table(
    amount: NDArray[np.float64],
    hour: NDArray[np.int64],
    weekday: NDArray[np.int64],
    distance: NDArray[np.float64],
    category: NDArray[np.int64],
    velocity_1h: NDArray[np.float64],
    avg_amount_7d: NDArray[np.float64],
    unique_merchants_30d: NDArray[np.int64],
) -> NDArray[np.float32]:
    """`fill_row` for n transactions: float32[n, len(VECTOR_NAMES)], with the same bits. Nulls are NaN."""
    n = len(amount)
    table = np.zeros((n, len(VECTOR_NAMES)), dtype=np.float32)
    no_distance = np.isnan(distance)
    no_history = np.isnan(avg_amount_7d)
    average = np.where(no_history, amount, avg_amount_7d)
    table[:, 0] = amount
    table[:, 1] = hour
    table[:, 2] = weekday
    table[:, 3] = np.where(no_distance, 0.0, distance)
    table[:, 4] = no_distance
    table[:, 5] = velocity_1h
    table[:, 6] = average
    table[:, 7] = unique_merchants_30d
    table[:, 8] = amount / average
    table[:, 9] = no_history
    table[np.arange(n), CATEGORY_OFFSET + category] = 1.0
    return table


assert CATEGORY_OFFSET + len(CATEGORIES) == len(VECTOR_NAMES)  # noqa: S101 - a layout error must stop the import
