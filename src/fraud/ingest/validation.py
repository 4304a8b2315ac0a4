"""Find the rows of a delivery that violate the contract. Each check has one reason."""

import re
import warnings
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Final

import numpy as np
import pandas as pd
import pandera.pandas as pandera
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pandera.errors import SchemaErrors

from fraud.core import contract
from fraud.core.columns import NOT_A_FLAG, TOO_LONG, numbers
from fraud.core.contract import (
    MAX_AMOUNT,
    MAX_FUTURE_SKEW_US,
    MAX_ID_LENGTH,
    MIN_EVENT_US,
    TRANSACTION_COLUMNS,
    UNITS_PER_USD,
    amounts_units,
)
from fraud.core.declaration import Declaration
from fraud.core.declaration_types import CategoryColumn, Column, NumberColumn
from fraud.ingest.ids import FAULTS
from fraud.ingest.landing import PARSE_ERROR, Feed, flag_columns, text_columns

_AHEAD: Final = "_ahead_us"
_MISSING: Final = "not_nullable"
UNREADABLE: Final = "a value could not be read"


def quarantine_reasons(feed: Feed, declaration: Declaration, table: pa.Table, now: datetime) -> pa.Array:
    """Reasons why rows violate the contract: string[n], null for valid rows; several reasons are joined by "; ".

    `table` has the feed's landing schema. An event more than a day after its ingestion time (`created_timestamp`, at
    most `now`) violates the contract.
    """
    try:
        with warnings.catch_warnings():
            # pandera 0.35 concatenates its own failure cases, some all null, in a way pandas 3 will treat otherwise.
            warnings.filterwarnings("ignore", "The behavior of DataFrame concatenation", FutureWarning)
            _schema(feed, declaration).validate(_frame(feed, table, now), lazy=True)
    except SchemaErrors as error:
        return _by_row(error.failure_cases, table.num_rows)
    return pa.nulls(table.num_rows, pa.string())


def in_contract(table: pa.Table, declaration: Declaration) -> tuple[pa.Table, dict[str, NDArray[np.bool_]]]:
    """Convert valid rows of the landing schema to the columns of a transaction: numbers are rounded, a null ingestion
    time becomes the event time, an unknown category becomes the `unknown` value of its column.

    Also returns, for each column with a closed list, which rows had no value of it: bool[n].
    """
    columns = {
        **{name: table[name] for name in TRANSACTION_COLUMNS},
        "created_timestamp": pc.coalesce(table["created_timestamp"], table["event_timestamp"]),
        "amount": pa.array(amounts_units(table["amount"].to_numpy()) / UNITS_PER_USD),
    }
    unknown: dict[str, NDArray[np.bool_]] = {}
    for name, column in sorted(declaration.columns.items()):
        given = table[name]
        if isinstance(column, NumberColumn):
            values = pc.fill_null(given, float("nan")).to_numpy()
            columns[name] = pa.array(numbers(column, values), from_pandas=True)
        elif isinstance(column, CategoryColumn):
            absent = pc.fill_null(pc.equal(given, ""), True)
            if column.learn is None:
                absent = pc.invert(pc.is_in(given, value_set=pa.array(column.values or (), pa.string())))
                unknown[name] = absent.to_numpy()
            columns[name] = pc.if_else(absent, column.unknown, given)
        elif column.type == "id":
            columns[name] = pc.if_else(pc.equal(given, ""), None, given)
        else:
            columns[name] = given
    return pa.table(columns).combine_chunks(), unknown


def reason_counts(reasons: pa.Array) -> dict[str, int]:
    """Number of rows by reason. A row with several reasons counts for each."""
    each = pc.list_flatten(pc.split_pattern(reasons.drop_null(), "; "))
    counts: Mapping[str, int] = {item["values"]: item["counts"] for item in pc.value_counts(each).to_pylist()}
    return dict(sorted(counts.items()))


def _frame(feed: Feed, table: pa.Table, now: datetime) -> pd.DataFrame:
    """The columns as pandas, with times as nullable int64 microseconds."""
    columns = {}
    for name in table.column_names:
        column = table[name]
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.int64())
        kind = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype(), pa.string(): pd.ArrowDtype(pa.string())}
        columns[name] = column.to_pandas(types_mapper=kind.get)
    if feed == "transactions":
        ingested = columns["created_timestamp"].fillna(_us(now)).clip(upper=_us(now))
        columns[_AHEAD] = columns["event_timestamp"] - ingested
    else:
        columns[_AHEAD] = columns["label_timestamp"] - _us(now)
    return pd.DataFrame(columns)


def _us(moment: datetime) -> int:
    return int(moment.timestamp()) * contract.US_PER_SECOND


def _by_row(failures: pd.DataFrame, rows: int) -> pa.Array:
    missing = failures["check"] == _MISSING
    reason = failures["check"].where(~missing, failures["column"] + " is missing")
    position = failures["index"].astype(np.int64)
    ordered = pd.DataFrame({"position": position, "reason": reason}).sort_values(["position", "reason"])
    joined = ordered.groupby("position")["reason"].agg("; ".join)
    texts = np.full(rows, None, dtype=object)
    texts[joined.index.to_numpy()] = joined.to_numpy()
    return pa.array(texts, pa.string())


def _id(name: str) -> pandera.Column:
    return pandera.Column(
        checks=[pandera.Check(lambda s: s.str.len() > 0, error=f"{name} is empty"), _short(name)], name=name
    )


def _short(name: str) -> pandera.Check:
    return pandera.Check(lambda s: s.str.len() <= MAX_ID_LENGTH, error=f"{name} {TOO_LONG}")


def _optional(*checks: pandera.Check) -> pandera.Column:
    return pandera.Column(checks=list(checks), nullable=True)


def _declared(name: str, column: Column) -> pandera.Column:
    """Checks of a declared column. Flags are checked when they are read."""
    if isinstance(column, NumberColumn):
        return _optional(
            pandera.Check.ge(column.min, error=f"{name} is below {column.min:.15g} {column.unit}"),
            pandera.Check.le(column.max, error=f"{name} is above {column.max:.15g} {column.unit}"),
        )
    return _optional(_short(name)) if column.type in ("id", "category") else _optional()


def _readable(faults: Iterator[tuple[str, str]]) -> pandera.Column:
    """Checks of `parse_error`. Each fault of a column (column, fault) has its own reason, so that reasons can be
    counted."""
    return _optional(
        pandera.Check(lambda s: s.isna(), ignore_na=False, error=UNREADABLE),
        *(_without(column, fault) for column, fault in faults),
    )


def _without(column: str, fault: str) -> pandera.Check:
    pattern = rf"(?:^|; ){column}: {re.escape(fault)}:"
    return pandera.Check(lambda s: ~s.str.contains(pattern), error=f"{column} {fault}")


def _faults(declaration: Declaration) -> Iterator[tuple[str, str]]:
    for column in text_columns(declaration):
        for fault in FAULTS:
            yield column, fault
    for column in flag_columns(declaration):
        yield column, NOT_A_FLAG


def _ahead(name: str) -> pandera.Column:
    return _optional(pandera.Check.le(MAX_FUTURE_SKEW_US, error=f"{name} is more than a day after the ingestion time"))


def _time(name: str) -> pandera.Column:
    return pandera.Column(checks=[pandera.Check.ge(MIN_EVENT_US, error=f"{name} is before the year 2000")])


def _schema(feed: Feed, declaration: Declaration) -> pandera.DataFrameSchema:
    if feed == "labels":
        return pandera.DataFrameSchema(
            {
                "transaction_id": _id("transaction_id"),
                "is_fraud": pandera.Column(),
                "label_timestamp": _time("label_timestamp"),
                PARSE_ERROR: _readable(("transaction_id", fault) for fault in FAULTS),
                _AHEAD: _ahead("label_timestamp"),
            }
        )
    return pandera.DataFrameSchema(
        {
            "transaction_id": _id("transaction_id"),
            "user_id": _id("user_id"),
            "merchant_id": _id("merchant_id"),
            "event_timestamp": _time("event_timestamp"),
            "amount": pandera.Column(
                checks=[
                    pandera.Check(lambda s: np.rint(s * UNITS_PER_USD) >= 1, error="amount is not above 0"),
                    pandera.Check.le(MAX_AMOUNT, error=f"amount is above {MAX_AMOUNT:.0f} USD"),
                ]
            ),
            **{name: _declared(name, column) for name, column in sorted(declaration.columns.items())},
            PARSE_ERROR: _readable(_faults(declaration)),
            _AHEAD: _ahead("event_timestamp"),
        }
    )
