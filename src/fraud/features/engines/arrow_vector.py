"""The matrix that a model reads, from rows of the lake. `fraud.core.vector` defines its columns."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fraud.core.contract import US_PER_DAY, US_PER_HOUR
from fraud.core.plan import Plan


def vectors(table: pa.Table, plan: Plan) -> NDArray[np.float32]:
    """float32[n, len(plan.vector.names)] for rows of `features`: columns, window and daily features of `plan`."""
    return plan.vector.table(base_values(table, plan))


def base_values(table: pa.Table, plan: Plan) -> list[NDArray[np.float64]]:
    """The base values of each row, for `Vector.table`: float64[n] per input, NaN for null."""
    event_us: NDArray[np.int64] = table["event_timestamp"].cast(pa.int64()).to_numpy()
    values = [
        (event_us // US_PER_HOUR % 24).astype(np.float64),
        ((event_us // US_PER_DAY + 3) % 7).astype(np.float64),
    ]
    for (name, _, categories), (column, _) in zip(plan.vector.inputs[2:], plan.sources, strict=True):
        given = table[name if column is None else column]
        values.append(_codes(given, plan, column, categories) if categories and column else _numbers(given))
    return values


def _codes(given: pa.ChunkedArray, plan: Plan, column: str, categories: tuple[str, ...]) -> NDArray[np.float64]:
    unknown = plan.unknown_code(column)
    found = pc.fill_null(pc.index_in(given, pa.array(categories)), unknown)
    codes: NDArray[np.float64] = found.to_numpy().astype(np.float64)
    return codes


def _numbers(given: pa.ChunkedArray) -> NDArray[np.float64]:
    values: NDArray[np.float64] = pc.fill_null(pc.cast(given, pa.float64()), float("nan")).to_numpy()
    return values
