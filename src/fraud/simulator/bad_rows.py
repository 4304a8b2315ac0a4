"""Add a few rows that violate the contract, or repeat others, to simulated transactions."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import numpy as np
import pyarrow as pa

from fraud.core.declaration_types import CategoryColumn, Column, IdColumn, NumberColumn

Row = dict[str, Any]
Change = Callable[[Row], Row]


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


def _repeated(row: Row) -> Row:
    return row


def _repeated_with_another_amount(row: Row) -> Row:
    return row | {"amount": row["amount"] + 1.0}


def _out_of_bounds(name: str, column: NumberColumn) -> Change:
    beyond = column.max + max(1.0, column.max - column.min)
    return lambda row: row | {name: beyond}


def _unlisted(name: str, column: CategoryColumn) -> Change:
    text = "unlisted"
    while text in (column.values or ()):
        text += "_"
    return lambda row: row | {name: text}


def _line_break(name: str) -> Change:
    return lambda row: row | {name: "one\nother"}


def _of_columns(columns: Mapping[str, Column]) -> Iterator[Change]:
    """What can be wrong with a declared column: a number too large, a category not in a closed list, no valid id."""
    for name, column in sorted(columns.items()):
        if isinstance(column, NumberColumn):
            yield _out_of_bounds(name, column)
        elif isinstance(column, CategoryColumn) and column.learn is None:
            yield _unlisted(name, column)
        elif isinstance(column, IdColumn):
            yield _line_break(name)


BUILT_IN: Final[tuple[Change, ...]] = (_negative, _not_a_number, _huge, _no_user, _no_time)
REPEATED: Final[tuple[Change, ...]] = (_repeated, _repeated_with_another_amount)


def spoil(rng: np.random.Generator, table: pa.Table, per_100k: float, columns: Mapping[str, Column]) -> pa.Table:
    """Append bad rows to `table`: modified copies of its rows, with new ids unless they are repetitions."""
    bad: list[Row] = []
    changes = (*BUILT_IN, *_of_columns(columns), *REPEATED)
    for i in range(int(rng.poisson(table.num_rows * per_100k / 100_000))):
        change = changes[int(rng.integers(0, len(changes)))]
        row = table.slice(int(rng.integers(0, table.num_rows)), 1).to_pylist()[0]
        if change not in REPEATED:
            row["transaction_id"] += f"-bad{i}"
        bad.append(change(row))
    return pa.concat_tables([table, pa.Table.from_pylist(bad, table.schema)]) if bad else table
