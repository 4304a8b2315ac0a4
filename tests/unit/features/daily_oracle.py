"""A naive computation of daily snapshots, row by row, and random logs for it."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from fraud.core.contract import US_PER_DAY
from fraud.core.daily import Table
from fraud.core.declaration import Declaration, parse
from fraud.core.declaration_types import DailyFeature
from fraud.lake import catalog

FIRST = date(2026, 1, 1)
DAY_0 = (FIRST - date(1970, 1, 1)).days
TIMESTAMP = pa.timestamp("us", "UTC")


class Row(NamedTuple):
    """A transaction; times in us after FIRST."""

    id: str
    event: int
    created: int
    merchant: str | None
    user: str
    amount: float
    fee: float | None
    channel: str | None


class Report(NamedTuple):
    """A label; the time in us after FIRST."""

    id: str
    at: int
    fraud: bool


def declaration(features: list[dict[str, Any]]) -> Declaration:
    return parse(
        {
            "columns": {
                "fee": {"type": "number", "unit": "USD", "min": -1e6, "max": 1e6, "decimals": 2},
                "channel": {"type": "category", "learn": 5},
                "shop": {"type": "id"},
            },
            "entities": {"merchant": {"id": "shop"}},
            "features": [{"kind": "daily", "entity": "merchant", **feature} for feature in features],
        }
    )


def day_name(number: int) -> str:
    return (FIRST + timedelta(number)).isoformat()


def publish(lake_uri: str, rows: list[Row], reports: list[Report]) -> None:
    """Replace the partitions of the rows' and the reports' days."""
    for day in {row.event // US_PER_DAY for row in rows}:
        own = [row for row in rows if row.event // US_PER_DAY == day]
        table = pa.table(
            {
                "transaction_id": [row.id for row in own],
                "event_timestamp": _times(row.event for row in own),
                "created_timestamp": _times(row.created for row in own),
                "user_id": [row.user for row in own],
                "shop": pa.array([row.merchant for row in own], pa.string()),
                "amount": [row.amount for row in own],
                "fee": pa.array([row.fee for row in own], pa.float64()),
                "channel": pa.array([row.channel for row in own], pa.string()),
            }
        )
        catalog.TRANSACTIONS.at(lake_uri).publish(day_name(day), table.sort_by(catalog.TRANSACTIONS.order))
    for day in {report.at // US_PER_DAY for report in reports}:
        of_day = sorted({report for report in reports if report.at // US_PER_DAY == day}, key=lambda r: (r.at, r.id))
        table = pa.table(
            [[r.id for r in of_day], [r.fraud for r in of_day], _times(r.at for r in of_day)],
            schema=catalog.LABEL_SCHEMA,
        )
        catalog.LABELS.at(lake_uri).publish(day_name(day), table)


def _times(after_first: Iterator[int]) -> pa.Array:
    return pa.array([DAY_0 * US_PER_DAY + at for at in after_first], TIMESTAMP)


def expected(declared: Declaration, rows: list[Row], reports: list[Report], day: int) -> dict[str | None, list[Any]]:
    """Entity -> values of the snapshot of a day (number after FIRST); None -> the default row."""
    features = declared.daily_features()
    known = [row for row in rows if row.created < day * US_PER_DAY and row.merchant is not None]
    windows = {f.name: [r for r in known if day - f.first_day_before <= r.event // US_PER_DAY
                        < day - f.first_day_before + f.span_days] for f in features}  # fmt: skip
    entities = sorted({str(row.merchant) for window in windows.values() for row in window})
    frauds = {row.id for row in rows if _is_fraud(row.id, reports, day)}
    found: dict[str | None, list[Any]] = {
        entity: [_value(f, windows[f.name], entity, frauds) for f in features] for entity in entities
    }
    found[None] = [_default(f, windows[f.name], frauds) for f in features]
    return found


def _is_fraud(id_: str, reports: list[Report], day: int) -> bool:
    own = [(r.at, r.fraud) for r in reports if r.id == id_ and r.at < day * US_PER_DAY]
    return max(own)[1] if own else False


def _default(feature: DailyFeature, window: list[Row], frauds: set[str]) -> float | int | None:
    if feature.aggregate == "fraud_rate":
        return sum(row.id in frauds for row in window) / len(window) if window else 0.0
    return {"count": 0.0, "sum": 0.0, "mean": None, "distinct": 0}[feature.aggregate]


def _value(feature: DailyFeature, window: list[Row], entity: str, frauds: set[str]) -> float | int | None:
    own = [row for row in window if row.merchant == entity]
    if feature.aggregate == "count":
        return float(len(own))
    if feature.aggregate == "fraud_rate":
        base = _default(feature, window, frauds)
        assert base is not None
        if not own and not feature.strength:
            return base
        return (float(sum(row.id in frauds for row in own)) + feature.strength * base) / (len(own) + feature.strength)
    column = {"user_id": "user", "amount": "amount", "fee": "fee", "channel": "channel"}[feature.column or ""]
    values = [value for row in own if (value := getattr(row, column)) is not None]
    if feature.aggregate == "distinct":
        return len(set(values))
    units = {"amount": 10_000, "fee": 100}[feature.column or ""]
    total = sum(round(value * units) for value in values)
    if feature.aggregate == "sum":
        return float(total) / float(units)
    return float(total) / float(len(values) * units) if values else None


def snapshot(lake_uri: str, table: Table, day: int) -> dict[str | None, list[Any]]:
    """The published snapshot of a day, as `expected` returns it."""
    stored = catalog.daily(table).at(lake_uri).read(day_name(day))
    ids = stored[table.id_column].to_pylist()
    assert ids == [*sorted(ids[:-1]), None]
    columns = [stored[name].to_pylist() for name in table.names]
    return {id_: [column[i] for column in columns] for i, id_ in enumerate(ids)}


def lake_of(folder: Path) -> str:
    return f"file://{folder}/lake"


def moment(day: int, us: int = 0) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=DAY_0 + day, microseconds=us)
