"""Rows that follow from a generation number: what a writer publishes and a reader expects. It does not import `fraud`.

A generation replaces the same days in one commit, with another number of rows and another value in every cell.
"""

import json
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import pyarrow as pa

DAYS: Final = (date(2025, 3, 1), date(2025, 3, 2), date(2025, 3, 3))


def table(schema: pa.Schema, day: date, generation: int) -> pa.Table:
    """The rows of a day, sorted by `transaction_id`."""
    rows = range(40 + (7 * generation + day.day) % 11)
    return pa.table(
        [[value(field, day, generation, row) for row in rows] for field in schema],
        pa.schema([field.with_nullable(True) for field in schema]),
    )


def value(field: pa.Field, day: date, generation: int, row: int) -> Any:  # noqa: ANN401 - of the column's type
    if pa.types.is_timestamp(field.type):
        return datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(seconds=100 * row + generation % 60)
    if pa.types.is_boolean(field.type):
        return (generation + row) % 2 == 0
    if pa.types.is_integer(field.type):
        return 1000 * generation + row
    if pa.types.is_floating(field.type):
        return 1000.0 * generation + row + 0.5
    return f"{field.name} {generation:06} {day} {row:04}"


def expected(schema: pa.Schema, generation: int) -> pa.Table:
    """The rows of all days, sorted by `transaction_id`."""
    return pa.concat_tables([table(schema, day, generation) for day in DAYS]).sort_by("transaction_id")


def generation_of(found: pa.Table) -> int:
    """The generation that the first row names."""
    return int(found["transaction_id"][0].as_py().split()[1])


def difference(found: pa.Table, schema: pa.Schema) -> str:
    """How rows that were read differ from those of the one generation they must be of; "" if they do not."""
    found = found.select(schema.names).sort_by("transaction_id")
    rows = expected(schema, generation_of(found))
    columns = [column.cast(field.type) for column, field in zip(found.columns, rows.schema, strict=True)]
    if pa.table(columns, rows.schema).equals(rows):
        return ""
    generations = sorted({text.split()[1] for text in found["transaction_id"].to_pylist()})
    return json.dumps({"rows": found.num_rows, "expected": rows.num_rows, "generations": generations})
