"""Add a few rows that violate the contract, or repeat others, to simulated transactions."""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pyarrow as pa

Row = dict[str, Any]


def _negative(row: Row) -> Row:
    return row | {"amount": -row["amount"]}


def _not_a_number(row: Row) -> Row:
    return row | {"amount": float("nan")}


def _huge(row: Row) -> Row:
    return row | {"amount": row["amount"] * 1e12}


def _no_user(row: Row) -> Row:
    return row | {"user_id": None}


def _no_time(row: Row) -> Row:
    return row | {"event_timestamp": None}


def _far_from_earth(row: Row) -> Row:
    return row | {"distance_from_home": 1e6}


def _unknown_category(row: Row) -> Row:
    return row | {"merchant_category": "crypto_exchange"}


def _repeated(row: Row) -> Row:
    return row


def _repeated_with_another_amount(row: Row) -> Row:
    return row | {"amount": row["amount"] + 1.0}


NEW: Final[tuple[Callable[[Row], Row], ...]] = (
    _negative, _not_a_number, _huge, _no_user, _no_time, _far_from_earth, _unknown_category
)  # fmt: skip
REPEATED: Final[tuple[Callable[[Row], Row], ...]] = (_repeated, _repeated_with_another_amount)


def spoil(rng: np.random.Generator, table: pa.Table, per_100k: float) -> pa.Table:
    """Append bad rows to `table`: modified copies of its rows, with new ids unless they are repetitions."""
    bad: list[Row] = []
    kinds = (*NEW, *REPEATED)
    for i in range(int(rng.poisson(table.num_rows * per_100k / 100_000))):
        kind = kinds[int(rng.integers(0, len(kinds)))]
        row = table.slice(int(rng.integers(0, table.num_rows)), 1).to_pylist()[0]
        if kind in NEW:
            row["transaction_id"] += f"-bad{i}"
        bad.append(kind(row))
    return pa.concat_tables([table, pa.Table.from_pylist(bad, table.schema)]) if bad else table
