"""What serving computes for the payments of a self-test: base values, vector, probability and decision.

It is computed with `fraud.core` and ONNX Runtime, as serving does. The histories are those that `append_event.lua`
keeps; `tests/serving/test_golden_rows.py` sends the payments to a server and compares.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

import numpy as np

from fraud.core import columns, contract, short_request
from fraud.core.columns import to_stored
from fraud.core.declaration_types import CategoryColumn, IdColumn, NumberColumn
from fraud.core.history import Layout
from fraud.core.plan import Plan
from fraud.core.windows import WindowSet
from fraud.export.payments import NOW_US, Daily, Payment, Row
from fraud.scoring.onnx_session import OnnxModel

FORMAT: Final = 1
_EPOCH: Final = datetime.fromisoformat("1970-01-01T00:00:00Z")
_MICROSECOND: Final = timedelta(microseconds=1)


class _Checked(NamedTuple):
    """A payment in the platform's units."""

    transaction_id: str | None
    event_us: int | None
    hour: int
    weekday: int
    values: dict[str, Any]
    """Built-in and declared columns by name; None is null."""


def golden_json(
    plan: Plan, model: bytes, threshold: float, rows: Sequence[Row], default: Daily, tolerance: float
) -> bytes:
    """golden.json of an export. `default`: the daily values of a row without its own."""
    base = [_base_values(plan, row, default) for row in rows]
    vectors = np.zeros((len(rows), len(plan.vector.names)), np.float32)
    for vector, values in zip(vectors, base, strict=True):
        plan.vector.row(vector, values)
    answers = OnnxModel(model).probabilities(vectors).astype(np.float64).tolist()
    names = [of.name for of in plan.vector.inputs]
    found = [
        {
            "transaction": row.transaction, "history": row.history, "daily": row.daily,
            "features": dict(zip(names, values, strict=True)), "vector": vector, "probability": answer,
            "is_fraud": answer >= threshold,
        }
        for row, values, vector, answer in zip(rows, base, vectors.astype(np.float64).tolist(), answers, strict=True)
    ]  # fmt: skip
    content = {"format": FORMAT, "tolerance": tolerance, "now_us": NOW_US, "rows": found}
    return json.dumps(content, allow_nan=False).encode()


def _base_values(plan: Plan, row: Row, default: Daily) -> list[float | int | None]:
    payment = _checked(plan, row.transaction)
    history = None if row.history is None else [_checked(plan, event) for event in row.history]
    features: list[float | None] = []
    for windows in plan.windows:
        features += _windows(windows, payment, history)
    for table in plan.tables:
        values = {**default, **(row.daily or {})}.get(table.entity)
        known = values is not None and payment.values[table.id_column] is not None
        features += [values[name] for name in table.names] if known and values is not None else table.empty
    given = row.transaction.get(short_request.VELOCITY)
    velocity = short_request.VELOCITY_FEATURE
    if given is not None and payment.values["user_id"] is None and velocity in plan.features:
        features[plan.features.index(velocity)] = float(given)
    return plan.base_values(payment.hour, payment.weekday, payment.values, features)


def _checked(plan: Plan, payment: Payment) -> _Checked:
    values: dict[str, Any] = {
        "user_id": _id(payment.get("user_id")), "merchant_id": _id(payment.get("merchant_id")),
        "amount": contract.amount_units(payment["amount"]) / contract.UNITS_PER_USD,
    }  # fmt: skip
    for name, column in plan.declaration.columns.items():
        given = payment.get(name)
        if isinstance(column, CategoryColumn):
            values[name] = columns.category(column, given)
        elif isinstance(column, IdColumn):
            values[name] = columns.identifier(given)
        elif isinstance(column, NumberColumn) and given is not None:
            values[name] = columns.number(column, float(given))
        else:
            values[name] = given
    if "event_timestamp" not in payment:
        return _Checked(None, None, payment["hour_of_day"], payment["day_of_week"], values)
    event_us = (datetime.fromisoformat(payment["event_timestamp"]) - _EPOCH) // _MICROSECOND
    hour, weekday = contract.hour_of_day(event_us), contract.day_of_week(event_us)
    return _Checked(_id(payment.get("transaction_id")), event_us, hour, weekday, values)


def _id(text: str | None) -> str | None:
    return None if text is None else contract.id_text(text)


def _windows(windows: WindowSet, payment: _Checked, history: Sequence[_Checked] | None) -> Sequence[float | None]:
    """The window features of one entity. Without a time, an id or a history: the empty values."""
    layout = windows.layout
    entity = payment.values[layout.id_column]
    if payment.event_us is None or payment.transaction_id is None or entity is None or history is None:
        return windows.empty
    events = [event for event in history if event.values[layout.id_column] == entity and event.event_us is not None]
    records, newest_us = _history_at(layout, payment.transaction_id, events)
    return windows.evaluate_records(records, newest_us, payment.event_us, _stored(layout, payment.values))


def _history_at(layout: Layout, transaction_id: str, events: Sequence[_Checked]) -> tuple[bytes, int]:
    """Records and newest event time before a payment, after the events were appended in this order."""
    kept, newest, seen = list[bytes](), 0, set[str | None]()
    for event in events:
        if event.event_us is None or event.event_us < newest - layout.keep_us or event.transaction_id in seen:
            continue
        if event.transaction_id == transaction_id:
            break  # a repeated payment has the history of its first attempt
        seen.add(event.transaction_id)
        kept.append(layout.packer.pack(event.event_us, *_stored(layout, event.values)))
        newest = max(newest, event.event_us)
    return b"".join(kept[-layout.max_events :]), newest


def _stored(layout: Layout, values: Mapping[str, Any]) -> list[int]:
    return [to_stored(column, values[column.name]) for column in layout.columns]
