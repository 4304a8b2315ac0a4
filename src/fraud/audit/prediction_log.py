"""Read serving's prediction log: local segments with one JSON object per line, one line per answer.

Segments are append-only. A last line without a newline is being written, or was cut off by a kill. It is skipped and
read again by the next run.

A record is flattened: a column per fixed field, declared column, feature, and `sequence_`, `newest_us_` and
`snapshot_<entity>`. Versions with different declarations write to one segment, so the columns come from the records: a
record without a column has null there. A column that is a number in one declaration and, for example, a category in
another is text in a table that has both; `typed` reverses that.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow as pa

from fraud.core.contract import US_PER_DAY
from fraud.core.declaration import Declaration, parse
from fraud.core.declaration_types import FlagColumn, NumberColumn
from fraud.lake import catalog

BYTES_AT_ONCE: Final = 16 * 1024 * 1024
_NULL: Final = type(None)
_CLASSES: Final[Mapping[pa.DataType, frozenset[type]]] = {
    pa.float64(): frozenset({float, int}), pa.int64(): frozenset({int}), pa.string(): frozenset({str}),
    pa.bool_(): frozenset({bool}),
}  # fmt: skip
"""Classes of JSON values by the type of their column."""
_ANY: Final = frozenset({str, bool, int, float, _NULL})
_NO_COLUMNS: Final = parse({"features": [{"name": "amount", "kind": "request", "op": "column", "column": "amount"}]})
FIXED: Final = catalog.PREDICTIONS.schema(_NO_COLUMNS)
"""The fields that every record has (docs/architecture.md)."""
_FIXED: Final = [
    (field.name, _CLASSES[field.type] | ({_NULL} if field.nullable else set()), field.type == pa.int64())
    for field in FIXED
]
_NESTED: Final[Mapping[str, tuple[str, pa.DataType | None]]] = {
    "columns": ("", None), "features": ("", pa.float64()), "sequences": ("sequence_", pa.int64()),
    "newest_us": ("newest_us_", pa.int64()), "snapshots": ("snapshot_", pa.string()),
}  # fmt: skip
"""Object of a record -> prefix and type of its columns. The types of declared columns differ."""
_NESTED_CLASSES: Final = {
    group: _ANY if kind is None else _CLASSES[kind] | {_NULL} for group, (_, kind) in _NESTED.items()
}
_INTEGERS: Final = ("sequence_", "newest_us_")


class Part(NamedTuple):
    """Rows of complete lines of a segment."""

    table: pa.Table
    """Flat rows: the columns of `catalog.PREDICTIONS` for the declaration, then those of other declarations."""
    unreadable: int
    """Lines that are not a prediction record."""
    end: int
    """Offset after the last complete line."""


def segments(folder: Path) -> list[Path]:
    """The segments, oldest first; empty if serving has written none."""
    return sorted(folder.glob("segment-*.jsonl"))


def read(segment: Path, offset: int, declaration: Declaration, *, end: int | None = None) -> Iterator[Part]:
    """The complete lines after `offset` and before `end` (default: the present size), in parts of bounded size."""
    end = segment.stat().st_size if end is None else end
    with segment.open("rb") as file:
        file.seek(offset)
        while data := file.read(min(BYTES_AT_ONCE, end - offset)):
            whole = data[: data.rfind(b"\n") + 1]
            if not whole:
                return
            offset += len(whole)
            file.seek(offset)
            lines = [line for line in whole.split(b"\n") if line.strip()]
            rows = list(_rows(lines))
            yield Part(table_of(rows, declaration), len(lines) - len(rows), offset)


def opened_us(segment: str) -> int:
    """When serving opened a segment, us, from its name."""
    return int(segment.split("-")[1])


def is_finished(segment: Path, offset: int, now_us: int) -> bool:
    """Whether serving no longer appends to a segment, and only an incomplete line follows after `offset`.

    Serving writes to a segment for at most an hour. A day is allowed for differing clocks.
    """
    written = segment.stat()
    if now_us - max(opened_us(segment.name), written.st_mtime_ns // 1_000) < US_PER_DAY:
        return False
    with segment.open("rb") as file:
        file.seek(offset)
        return b"\n" not in file.read(BYTES_AT_ONCE)


def table_of(rows: Sequence[Mapping[str, Any]], declaration: Declaration) -> pa.Table:
    """Flat rows as a table. A column without any value is only included if it is one of `declaration`."""
    schema = catalog.PREDICTIONS.schema(declaration)
    found = {name for names in {tuple(row) for row in rows} for name in names}
    fields, arrays = [], []
    for name in [*schema.names, *sorted(found - {*schema.names})]:
        values = [row.get(name) for row in rows]
        classes = set(map(type, values)) - {_NULL}
        declared = schema.field(name) if name in schema.names else pa.field(name, pa.null())
        kind = _kind(name, classes, declared.type)
        if pa.types.is_null(kind):
            continue
        if kind == pa.string() and classes - {str}:
            values = [value if value is None or isinstance(value, str) else _text(value) for value in values]
        elif kind == pa.float64() and int in classes:
            values = [None if value is None else float(value) for value in values]
        fields.append(declared.with_type(kind))
        arrays.append(pa.array(values, kind))
    return pa.table(arrays, schema=pa.schema(fields))


def unified(tables: Iterable[pa.Table], declaration: Declaration) -> pa.Table:
    """Concatenate tables of answers with different columns, in the order that `table_of` gives."""
    some, schema = list(tables), catalog.PREDICTIONS.schema(declaration)
    more = sorted({name for table in some for name in table.column_names} - {*schema.names})
    fields = []
    for name in [*schema.names, *more]:
        kinds = {table.schema.field(name).type for table in some if name in table.column_names} - {pa.null()}
        if name in schema.names:
            kinds.add(schema.field(name).type)
        field = schema.field(name) if name in schema.names else pa.field(name, pa.null())
        if kinds:
            fields.append(field.with_type(kinds.pop() if len(kinds) == 1 else pa.string()))
    whole = pa.schema(fields)
    return pa.concat_tables([whole.empty_table(), *(_in_schema(table, whole) for table in some)])


def as_text(table: pa.Table, names: Collection[str]) -> pa.Table:
    """The table with these columns as text, as `unified` writes them; null where the table does not have them."""
    fields = [field.with_type(pa.string()) if field.name in names else field for field in table.schema]
    more = [pa.field(name, pa.string()) for name in sorted(set(names) - set(table.column_names))]
    return _in_schema(table, pa.schema([*fields, *more]))


def typed(record: Mapping[str, Any], declaration: Declaration) -> dict[str, Any]:
    """The record with all columns of a declaration, in their types: null if the table does not have the column, and
    parsed if it is text there."""
    found = dict(record)
    for name, column in declaration.columns.items():
        value = found.setdefault(name, None)
        if isinstance(value, str) and isinstance(column, NumberColumn):
            found[name] = float(value)
        elif isinstance(value, str) and isinstance(column, FlagColumn):
            found[name] = value == "true"
    for feature in declaration.stored_features:
        if isinstance(found.setdefault(feature.name, None), str):
            found[feature.name] = float(found[feature.name])
    return found


def _not_json(constant: str) -> object:
    raise ValueError(f"{constant} is not JSON")


_DECODER: Final = json.JSONDecoder(parse_constant=_not_json)


def _rows(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The flat rows of the lines that are prediction records."""
    for line in lines:
        with suppress(ValueError):
            yield _flat(line)


def _flat(line: bytes) -> dict[str, Any]:
    """A line as a flat row. Raises ValueError for a line that is no prediction record."""
    record = _DECODER.decode(line.decode())
    if not isinstance(record, dict):
        raise ValueError("no object")  # noqa: TRY004 - one exception for any line that is no record
    row: dict[str, Any] = {}
    for name, classes, integer in _FIXED:
        value = record.get(name)
        if type(value) not in classes or (integer and value is not None and not _fits(value)):
            raise ValueError(name)
        row[name] = value
    for group, (prefix, kind) in _NESTED.items():
        values = record.get(group)
        if not isinstance(values, dict) or not {*map(type, values.values())} <= _NESTED_CLASSES[group]:
            raise ValueError(group)
        if kind == pa.int64() and not all(map(_fits, filter(None, values.values()))):
            raise ValueError(group)
        if prefix:
            values = {prefix + name: value for name, value in values.items()}
        if not row.keys().isdisjoint(values):
            raise ValueError(group)
        row |= values
    return row


def _fits(value: int) -> bool:
    return -(2**63) <= value < 2**63


def _kind(name: str, classes: Collection[type], declared: pa.DataType) -> pa.DataType:
    """The type of a column with values of these classes: the declared one if all fit, text if there are several."""
    if not classes:
        return declared
    integer = pa.int64() if declared == pa.int64() or name.startswith(_INTEGERS) else pa.float64()
    kinds = {bool: pa.bool_(), str: pa.string(), int: integer, float: pa.float64()}
    found = {kinds[kind] for kind in classes} | ({declared} - {pa.null()})
    return found.pop() if len(found) == 1 else pa.string()


def _text(value: float | bool) -> str:
    return json.dumps(value if isinstance(value, bool) else float(value))


def _in_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = []
    for field in schema:
        if field.name not in table.column_names:
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        column = table[field.name]
        if field.type == pa.string() and column.type != pa.string():
            values = [None if value is None else _text(value) for value in column.to_pylist()]
            column = pa.chunked_array([pa.array(values, pa.string())])
        columns.append(column.cast(field.type))
    return pa.table(columns, schema=schema)
