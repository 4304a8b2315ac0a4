"""Window values of Arrow tables of transactions, computed by the kernel."""

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fraud.core.contract import amounts_units, id_hash
from fraud.core.features import WINDOW_FEATURES
from fraud.errors import BadInputError
from fraud.features.engines import kernel

COLUMNS: Final = ("user_id", "event_timestamp", "created_timestamp", "amount", "merchant_id")
"""Columns of transactions that window features use."""


def microseconds(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """A timestamp[us] column without nulls as int64 microseconds since 1970."""
    values: NDArray[np.int64] = column.cast(pa.int64()).to_numpy()
    return values


def check_order(event_us: NDArray[np.int64], created_us: NDArray[np.int64]) -> None:
    """Raises BadInputError unless rows are sorted by event time, then ingestion time."""
    later = np.diff(event_us)
    if np.any((later < 0) | ((later == 0) & (np.diff(created_us) < 0))):
        raise BadInputError("transactions are not sorted", expected="order of event time, then ingestion time")


def merchant_hashes(column: pa.ChunkedArray) -> NDArray[np.uint64]:
    """The 64-bit hash of each merchant id, uint64[n]. Merchants are distinguished by the hash."""
    encoded = column.combine_chunks().dictionary_encode()
    hashes = np.array([id_hash(text) for text in encoded.dictionary.to_pylist()], dtype=np.uint64)
    of_rows: NDArray[np.uint64] = hashes[encoded.indices.to_numpy()]
    return of_rows


def window_values(table: pa.Table) -> NDArray[np.float64]:
    """Values of WINDOW_FEATURES for each row of `table`: float64[len(WINDOW_FEATURES), n], null as NaN.

    `table` has COLUMNS without nulls, is sorted by (event_timestamp, created_timestamp, transaction_id) and contains
    all rows of its users that can be in a window. Raises BadInputError when it is not sorted.
    """
    event_us = microseconds(table["event_timestamp"])
    created_us = microseconds(table["created_timestamp"])
    check_order(event_us, created_us)
    users = table["user_id"].combine_chunks().dictionary_encode()
    merchants = pa.array(merchant_hashes(table["merchant_id"])).dictionary_encode()
    merchant = merchants.indices.to_numpy()
    starts, order = kernel.group(users.indices.to_numpy(), len(users.dictionary))
    units = amounts_units(table["amount"].to_numpy())
    grouped = kernel.compute(
        starts, event_us[order], created_us[order], units[order], merchant[order], len(merchants.dictionary)
    )  # fmt: skip
    values = np.empty_like(grouped)
    values[:, order] = grouped
    return values


def with_windows(table: pa.Table, values: NDArray[np.float64]) -> pa.Table:
    """`table` with one column per window feature, in the declared dtype, NaN as null."""
    for feature, column in zip(WINDOW_FEATURES, values, strict=True):
        array = pa.array(column, from_pandas=True)
        table = table.append_column(feature.name, pc.cast(array, pa.type_for_alias(feature.dtype)))
    return table
