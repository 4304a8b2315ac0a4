"""The messages of a topic as rows of the landing zone.

A message is a JSON object: of `transactions` the body of POST /predict, of `labels` the columns of a label. Every
message becomes one row. What cannot be read is null, with the reason in `parse_error`; ingest quarantines the row. The
contract itself is checked by ingest.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import pyarrow as pa

from fraud.core import contract, short_request
from fraud.core.declaration import Declaration
from fraud.ingest.landing import PARSE_ERROR, Feed, schema
from fraud.streams.rejected_topic import Reason
from fraud.streams.topic_reader import Record

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SHOWN: Final = 80
_NOT_STORED: Final = frozenset({"hour_of_day", "day_of_week", short_request.VELOCITY, *short_request.COLUMNS})
"""Fields of a request that a transaction does not have, or has only if they are declared."""
_TOLD_AT: Final[Mapping[Feed, str]] = {"transactions": "created_timestamp", "labels": "label_timestamp"}
"""The column that has the message's timestamp, if the message does not give it."""


class Rows(NamedTuple):
    """`table` has the feed's schema, and one row for each message."""

    table: pa.Table
    unreadable: list[tuple[Record, Reason]]
    unknown_fields: Counter[str]
    """Number of messages with a field that no column stores, by field."""


def rows_of(feed: Feed, declaration: Declaration, records: list[Record]) -> Rows:
    """Read messages. `created_timestamp` of a transaction is the timestamp of its message."""
    columns = schema(feed, declaration)
    readers = {field.name: _READERS[field.type] for field in columns if field.name != PARSE_ERROR}
    told_at = _TOLD_AT[feed]
    if feed == "transactions":
        del readers[told_at]
    values: dict[str, list[Any]] = {name: [] for name in columns.names}
    unreadable, unknown = [], Counter[str]()
    for record in records:
        row, reason, others = _read(record, readers)
        unknown.update(others)
        if row.get(told_at) is None or feed == "transactions":
            row[told_at] = record.timestamp_us
        for name in readers.keys() | {told_at}:
            values[name].append(row.get(name))
        values[PARSE_ERROR].append(None if reason is None else f"{reason.field or 'message'}: {reason.detail}")
        if reason is not None:
            unreadable.append((record, reason))
    arrays = [_array(values[field.name], field.type) for field in columns]
    return Rows(pa.Table.from_arrays(arrays, schema=columns), unreadable, unknown)


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    return pa.array(values, pa.int64()).cast(kind) if pa.types.is_timestamp(kind) else pa.array(values, kind)


class _Message(NamedTuple):
    columns: dict[str, Any]
    """Unreadable ones are null."""
    reason: Reason | None
    """Of the first unreadable one."""
    others: list[str]
    """Fields that are not stored."""


def _read(record: Record, readers: Mapping[str, Callable[[Any], Any]]) -> _Message:
    if record.value is None:
        return _Message({}, Reason("no_value", "expected a JSON object, got a message without a value"), [])
    try:
        row = json.loads(record.value.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        return _Message({}, Reason("not_json", f"expected a JSON object, got {_shown(record.value)} ({error})"), [])
    if not isinstance(row, dict):
        return _Message({}, Reason("not_json", f"expected a JSON object, got {_shown(record.value)}"), [])
    others = sorted(row.keys() - readers.keys() - _NOT_STORED)
    reason = None
    for name, read in readers.items():
        try:
            row[name] = None if row.get(name) is None else read(row[name])
        except (ValueError, OverflowError) as error:
            reason = reason or Reason("invalid", f"{error}, got {_shown(row[name])}", name)
            row[name] = None
    return _Message({name: row[name] for name in readers}, reason, others)


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _shown(value: object) -> str:
    return repr(value)[:_SHOWN]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("expected a text")  # noqa: TRY004 - a fault of the message
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError("expected a text in Unicode") from error
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("expected a number")  # noqa: TRY004
    return float(value)


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("expected true or false")  # noqa: TRY004
    return value


def _time(value: object) -> int:
    if not isinstance(value, str) or not contract.ZONED_TIME.fullmatch(value):
        raise ValueError("expected a time like 2025-03-10T10:00:00Z, with its zone")
    return (datetime.fromisoformat(value.upper()) - _EPOCH) // timedelta(microseconds=1)


_READERS: Final[Mapping[pa.DataType, Callable[[Any], Any]]] = {
    pa.string(): _text, pa.float64(): _number, pa.bool_(): _flag, pa.timestamp("us", "UTC"): _time,
}  # fmt: skip
"""Type of a column -> the check and conversion of a value that is not null."""
