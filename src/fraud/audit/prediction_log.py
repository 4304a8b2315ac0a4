"""Read serving's prediction log: local segments with one JSON object per line, one line per answer.

Segments are append-only. A last line without a newline is being written, or was cut off by a kill. It is skipped and
read again by the next run.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pyarrow as pa
import pyarrow.json as pj

from fraud.core.contract import US_PER_DAY
from fraud.lake import catalog

SCHEMA: Final = catalog.PREDICTIONS.schema
"""The prediction record of docs/architecture.md."""
BYTES_AT_ONCE: Final = 64 * 1024 * 1024


class Part(NamedTuple):
    """Rows of complete lines of a segment."""

    table: pa.Table
    """Rows of SCHEMA."""
    unreadable: int
    """Lines that are not a prediction record."""
    end: int
    """Offset after the last complete line."""


def segments(folder: Path) -> list[Path]:
    """The segments, oldest first; empty if serving has written none."""
    return sorted(folder.glob("segment-*.jsonl"))


def read(segment: Path, offset: int) -> Iterator[Part]:
    """The complete lines after `offset`, in parts of bounded size."""
    with segment.open("rb") as file:
        file.seek(offset)
        while data := file.read(BYTES_AT_ONCE):
            whole = data[: data.rfind(b"\n") + 1]
            if not whole:
                return
            offset += len(whole)
            file.seek(offset)
            table, unreadable = _parse(whole)
            yield Part(table, unreadable, offset)


def is_finished(segment: Path, offset: int, now_us: int) -> bool:
    """Whether serving no longer appends to a segment, and only an incomplete line follows after `offset`.

    Serving writes to a segment for at most an hour. A day is allowed for differing clocks.
    """
    opened_us = int(segment.name.split("-")[1])
    written = segment.stat()
    if now_us - max(opened_us, written.st_mtime_ns // 1_000) < US_PER_DAY:
        return False
    with segment.open("rb") as file:
        file.seek(offset)
        return b"\n" not in file.read(BYTES_AT_ONCE)


def _parse(lines: bytes) -> tuple[pa.Table, int]:
    """Rows of complete lines and the number of unreadable lines. Lines are parsed one by one only if Arrow fails."""
    options = pj.ParseOptions(explicit_schema=SCHEMA, unexpected_field_behavior="ignore")
    block = pj.ReadOptions(block_size=len(lines) + 1)
    try:
        table = pj.read_json(pa.BufferReader(lines), read_options=block, parse_options=options)
        return _strict(table), 0
    except pa.ArrowInvalid:
        tables = [_line(line, options) for line in lines.splitlines() if line.strip()]
        good = [table for table in tables if table is not None]
        return pa.concat_tables([SCHEMA.empty_table(), *good]), len(tables) - len(good)


def _line(line: bytes, options: pj.ParseOptions) -> pa.Table | None:
    try:
        if not isinstance(json.loads(line), dict):
            return None
        return _strict(pj.read_json(pa.BufferReader(line), parse_options=options))
    except (pa.ArrowInvalid, ValueError):
        return None


def _strict(table: pa.Table) -> pa.Table:
    """Check the schema. Raises ArrowInvalid for a null in a required field, which Arrow's JSON reader accepts."""
    for field in SCHEMA:
        if not field.nullable and table[field.name].null_count:
            raise pa.ArrowInvalid(f"{field.name} is null")
    return table.select(SCHEMA.names).cast(SCHEMA)
