"""The matrix that a model reads, from rows of the lake. `fraud.core.vector` defines its columns."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fraud.core.contract import CATEGORIES, OTHER_INDEX, US_PER_DAY, US_PER_HOUR
from fraud.core.vector import fill_table


def vectors(table: pa.Table) -> NDArray[np.float32]:
    """float32[n, len(VECTOR_NAMES)] for a `features` table (nulls only in distance_from_home and avg_amount_7d)."""
    event_us: NDArray[np.int64] = table["event_timestamp"].cast(pa.int64()).to_numpy()
    category = pc.fill_null(pc.index_in(table["merchant_category"], pa.array(CATEGORIES)), OTHER_INDEX)
    return fill_table(
        amount=table["amount"].to_numpy(),
        hour=event_us // US_PER_HOUR % 24,
        weekday=(event_us // US_PER_DAY + 3) % 7,
        distance=_nan_for_null(table["distance_from_home"]),
        category=category.to_numpy().astype(np.int64),
        velocity_1h=table["transaction_velocity_1h"].to_numpy(),
        avg_amount_7d=_nan_for_null(table["avg_amount_7d"]),
        unique_merchants_30d=table["unique_merchants_30d"].to_numpy(),
    )


def _nan_for_null(column: pa.ChunkedArray) -> NDArray[np.float64]:
    values: NDArray[np.float64] = pc.fill_null(column, float("nan")).to_numpy()
    return values
