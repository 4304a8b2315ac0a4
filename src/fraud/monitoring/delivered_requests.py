"""All deliveries of a transaction, as requests: the values that ingest and serving would give to their columns."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

from fraud.core import columns
from fraud.core.contract import amount_units
from fraud.core.declaration import Declaration
from fraud.core.declaration_types import CategoryColumn, NumberColumn
from fraud.features.engines.arrow_records import microseconds
from fraud.ingest import landing
from fraud.job import Context

Request = tuple[Any, ...]
"""Transaction id, event time in us, amount in 1/10,000 USD, and the values of declared columns."""


def delivered_requests(context: Context, transactions: Collection[str]) -> dict[str, list[dict[str, Any]]]:
    """The delivered rows of these transactions by id, with `event_us`."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    rows = landing.delivered(context.settings.landing_uri, transactions, context.declaration)
    for row, at_us in zip(rows.to_pylist(), microseconds(rows["event_timestamp"]).tolist(), strict=True):
        found[row["transaction_id"]].append({**row, "event_us": at_us})
    return found


def request_of(row: Mapping[str, Any], declaration: Declaration, names: Collection[str]) -> Request | None:
    """A delivered row or a prediction record as a request with the declared columns in `names`.

    None for a row that the contract rejects.
    """
    if row["event_us"] is None or row["amount"] is None:
        return None
    try:
        values = [_value(column, row.get(name)) for name, column in declaration.columns.items() if name in names]
        return (row["transaction_id"], row["event_us"], amount_units(row["amount"]), *values)
    except ValueError:
        return None


def as_in_request(row: Mapping[str, Any], declaration: Declaration) -> dict[str, Any]:
    """A transaction of the lake with the categories of a declaration, whose closed lists may be other ones."""
    found = {name: c for name, c in declaration.columns.items() if isinstance(c, CategoryColumn) and name in row}
    return {**row, **{name: columns.category(column, row[name]) for name, column in found.items()}}


def _value(column: object, value: Any) -> Any:  # noqa: ANN401 - a number, text, flag or None
    if isinstance(column, CategoryColumn):
        return columns.category(column, value)
    if isinstance(column, NumberColumn) and value is not None:
        return columns.number(column, value)
    return value
