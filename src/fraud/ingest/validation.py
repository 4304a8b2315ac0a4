"""Find the rows of a delivery that violate the contract. Each check has one reason."""

import warnings
from collections.abc import Collection, Mapping
from datetime import datetime
from functools import cache
from typing import Final

import numpy as np
import pandas as pd
import pandera.pandas as pandera
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pandera.errors import SchemaErrors

from fraud.core import contract
from fraud.core.contract import (
    CATEGORIES,
    MAX_AMOUNT,
    MAX_DISTANCE,
    MAX_FUTURE_SKEW_US,
    MAX_ID_LENGTH,
    MIN_EVENT_US,
    OTHER,
    TRANSACTION_COLUMNS,
    UNITS_PER_USD,
    amounts_units,
)
from fraud.ingest.ids import FAULTS, ID_COLUMNS
from fraud.ingest.landing import PARSE_ERROR, Feed

_AHEAD: Final = "_ahead_us"
_MISSING: Final = "not_nullable"
UNREADABLE: Final = "a value could not be read"


def quarantine_reasons(feed: Feed, table: pa.Table, now: datetime) -> pa.Array:
    """Reasons why rows violate the contract: string[n], null for valid rows; several reasons are joined by "; ".

    `table` has the feed's landing schema. An event more than a day after its ingestion time (`created_timestamp`, at
    most `now`) violates the contract.
    """
    try:
        with warnings.catch_warnings():
            # pandera 0.35 concatenates its own failure cases, some all null, in a way pandas 3 will treat otherwise.
            warnings.filterwarnings("ignore", "The behavior of DataFrame concatenation", FutureWarning)
            _schema(feed).validate(_frame(feed, table, now), lazy=True)
    except SchemaErrors as error:
        return _by_row(error.failure_cases, table.num_rows)
    return pa.nulls(table.num_rows, pa.string())


def in_contract(table: pa.Table) -> tuple[pa.Table, NDArray[np.bool_]]:
    """Convert valid rows of the landing schema to TRANSACTION_COLUMNS: amounts are rounded, a null ingestion time
    becomes
    the event time, unknown categories become `other`. Also returns which rows had an unknown category: bool[n]."""
    listed = pc.fill_null(pc.is_in(table["merchant_category"], value_set=pa.array(CATEGORIES)), False)
    columns = {
        **{name: table[name] for name in TRANSACTION_COLUMNS},
        "created_timestamp": pc.coalesce(table["created_timestamp"], table["event_timestamp"]),
        "merchant_category": pc.if_else(listed, table["merchant_category"], OTHER),
        "amount": pa.array(amounts_units(table["amount"].to_numpy()) / UNITS_PER_USD),
        "distance_from_home": pc.if_else(pc.is_nan(table["distance_from_home"]), None, table["distance_from_home"]),
    }
    return pa.table(columns).combine_chunks(), ~listed.to_numpy()


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
        checks=[
            pandera.Check(lambda s: s.str.len() > 0, error=f"{name} is empty"),
            pandera.Check(
                lambda s: s.str.len() <= MAX_ID_LENGTH, error=f"{name} is longer than {MAX_ID_LENGTH} characters"
            ),
        ],
        name=name,
    )


def _optional(*checks: pandera.Check) -> pandera.Column:
    return pandera.Column(checks=list(checks), nullable=True)


def _readable(columns: Collection[str]) -> pandera.Column:
    """Checks of `parse_error`. Each fault of an id has its own reason, so that reasons can be counted."""
    named = [(f"{column}: {fault}:", f"{column} {fault}") for column in columns for fault in FAULTS]
    return _optional(
        pandera.Check(lambda s: s.isna(), ignore_na=False, error=UNREADABLE),
        *(
            pandera.Check(lambda s, text=text: ~s.str.contains(text, regex=False), error=reason)
            for text, reason in named
        ),
    )


def _ahead(name: str) -> pandera.Column:
    return _optional(pandera.Check.le(MAX_FUTURE_SKEW_US, error=f"{name} is more than a day after the ingestion time"))


def _time(name: str) -> pandera.Column:
    return pandera.Column(checks=[pandera.Check.ge(MIN_EVENT_US, error=f"{name} is before the year 2000")])


@cache
def _schema(feed: Feed) -> pandera.DataFrameSchema:
    if feed == "labels":
        return pandera.DataFrameSchema(
            {
                "transaction_id": _id("transaction_id"),
                "is_fraud": pandera.Column(),
                "label_timestamp": _time("label_timestamp"),
                PARSE_ERROR: _readable(["transaction_id"]),
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
            "distance_from_home": _optional(
                pandera.Check.ge(0, error="distance_from_home is negative"),
                pandera.Check.le(MAX_DISTANCE, error=f"distance_from_home is above {MAX_DISTANCE:.0f} miles"),
            ),
            PARSE_ERROR: _readable(ID_COLUMNS),
            _AHEAD: _ahead("event_timestamp"),
        }
    )
