"""Read a CSV file strictly: lines that are not well-formed are reported as broken.

A parser that accepts a stray quotation mark joins lines of different rows, and the counts still add up. Here, a line
whose quoting is not well-formed (RFC 4180) is broken and no other line is affected. Rows read plus broken lines are the
lines of the file. With `multiline`, a quoted value may continue over several lines. If such a value contains exactly
the delimiters of one or more rows, it is treated as swallowed rows and its lines are broken.
"""

import codecs
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from fraud.errors import BadInputError
from fraud.ingest.mapping.sections import Source

CHARACTERS_PER_BLOCK: Final = 8 << 20
LINES_IN_FIRST_PIECE: Final = 1_000
LINES_PER_RECORD: Final = 100
"""Maximum number of lines of a quoted value. A longer one is treated as not closed."""
_QUOTING: Final = "the quoting is not well-formed"
_SWALLOWED: Final = "a quoted value over several lines holds as many delimiters as a row"
_BYTE_ORDER_MARKS: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Piece(NamedTuple):
    """Rows of the file, in order, and the broken lines between them with their reasons."""

    rows: pa.Table
    broken: list[str]


def decoded(path: Path, content: IO[bytes], source: Source) -> io.TextIOWrapper:
    """The content as text with `\\n` at the end of lines. Raises BadInputError for undeclared UTF-16."""
    encoding = codecs.lookup(source.encoding).name
    buffered = io.BufferedReader(content)  # type: ignore[type-var]
    if buffered.peek(2)[:2] in _BYTE_ORDER_MARKS and not encoding.startswith(("utf-16", "utf-32")):
        raise BadInputError(
            f"{path} starts with the byte order mark of UTF-16", expected=source.encoding, got="UTF-16",
            hint="set source.encoding: utf-16 in the mapping",
        )  # fmt: skip
    return io.TextIOWrapper(buffered, "utf-8-sig" if encoding == "utf-8" else encoding)


def header(path: Path, text: IO[str], source: Source) -> list[str]:
    """The column names in the first line. Raises BadInputError without them."""
    line = text.readline(CHARACTERS_PER_BLOCK).removeprefix("\ufeff")
    if not line.strip():
        raise BadInputError(f"{path} has no header", expected="a first line with the names of the columns")
    try:
        names: list[str] = csv.read_csv(pa.BufferReader(line.encode()), parse_options=_dialect(source)).column_names
    except pa.ArrowException as error:
        raise BadInputError(f"{path} has no readable header", got=f"{line[:200]!r}: {error}") from error
    return names


def rows_of(text: IO[str], names: list[str], reads: tuple[str, ...], source: Source) -> Iterator[Piece]:
    """The lines after the header in pieces: the columns `reads` as text, and the broken lines."""
    records = _Records(source, len(names))
    rest = ""
    for block in _blocks(text):
        whole, _, rest = (rest + block).rpartition("\n")
        if len(rest) > CHARACTERS_PER_BLOCK:
            raise BadInputError(
                f"a line is longer than {CHARACTERS_PER_BLOCK:,} characters", hint="see source.encoding in the mapping"
            )
        kept, broken, unfinished = records.split(whole, last=False)
        rest = unfinished + rest
        yield _parsed(kept, broken, names, reads, source)
    kept, broken, _ = records.split(rest, last=True)
    yield _parsed(kept, broken, names, reads, source)


def _blocks(text: IO[str]) -> Iterator[str]:
    """The text in blocks. The first block has few lines, to return the first rows with the broken lines among them."""
    lines: list[str] = []
    while len(lines) < LINES_IN_FIRST_PIECE and (line := text.readline(CHARACTERS_PER_BLOCK)):
        lines.append(line)
        if len(line) == CHARACTERS_PER_BLOCK:
            break
    yield "".join(lines)
    while block := text.read(CHARACTERS_PER_BLOCK):
        yield block


def _parsed(records: "_Text", broken: list[str], names: list[str], reads: tuple[str, ...], source: Source) -> Piece:
    if not records.rows:
        return Piece(pa.table({name: pa.array([], pa.string()) for name in reads}), broken)

    def keep(row: csv.InvalidRow) -> str:
        broken.append(f"{row.actual_columns} values in a row of {row.expected_columns} columns: {row.text}")
        return "skip"

    data = records.text.encode()
    parse_options = _dialect(source)
    parse_options.invalid_row_handler = keep
    count = len(broken)
    rows = csv.read_csv(
        pa.BufferReader(data),
        read_options=csv.ReadOptions(column_names=names, block_size=len(data) + 1, use_threads=False),
        parse_options=parse_options,
        convert_options=csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), include_columns=list(reads),
            null_values=list(source.nulls), strings_can_be_null=True, quoted_strings_can_be_null=True,
        ),
    )  # fmt: skip
    if rows.num_rows + len(broken) - count != records.rows:
        raise BadInputError(
            "the number of rows read is not that of the file", expected=f"{records.rows} rows",
            got=f"{rows.num_rows} read, {len(broken) - count} broken", hint="check source.quote and source.escape",
        )  # fmt: skip
    return Piece(rows, broken)


def _dialect(source: Source) -> csv.ParseOptions:
    return csv.ParseOptions(
        delimiter=source.delimiter, quote_char=source.quote or False, escape_char=source.escape or False,
        newlines_in_values=source.multiline,
    )  # fmt: skip


class _Text(NamedTuple):
    """Well-formed records, each followed by a line break, and their number."""

    text: str
    rows: int


class _Records:
    """Splits text into well-formed records of `columns` values and broken lines."""

    def __init__(self, source: Source, columns: int) -> None:
        delimiter, quote, escape = (
            f"\\x{ord(c):02x}" if c else "" for c in (source.delimiter, source.quote, source.escape)
        )
        escaped = f"|{escape}." if escape else ""
        field = unquoted = f"(?:[^{delimiter}{quote}{escape}]{escaped})*"
        if quote:
            inside = f"{quote}(?:[^{quote}{escape}]|{quote}{quote}{escaped})*"
            field = f"(?:{inside}{quote}|{unquoted})"
            self._quoted = re.compile(f"(?s){inside}{quote}")
            self._opened = re.compile(f"(?s)(?:{field}{delimiter})*{inside}")
        self._line = f"(?s)^{field}(?:{delimiter}{field})*$"
        self._record = re.compile(f"(?s){field}(?:{delimiter}{field}){{{columns - 1}}}")
        self._source, self._columns = source, columns

    def split(self, text: str, *, last: bool) -> tuple[_Text, list[str], str]:
        """The records, the broken lines with their reasons, and the lines of an unfinished record at the end of `text`.

        Unfinished records occur only with `multiline`, and not in the last text.
        """
        lines = pc.split_pattern(pa.array([text], pa.string()), "\n").values
        lines = lines.filter(pc.not_equal(lines, ""))
        if not any(mark in text for mark in (self._source.quote, self._source.escape) if mark):
            return _Text(text, len(lines)), [], ""
        good = pc.match_substring_regex(lines, self._line)
        if pc.all(good, min_count=0).as_py():
            return _Text(text, len(lines)), [], ""
        if self._source.multiline and self._source.quote:
            return self._joined(lines.to_pylist(), good.to_pylist(), self._source.quote, last=last)
        kept = lines.filter(good).to_pylist()
        broken = [f"{_QUOTING}: {line}" for line in lines.filter(pc.invert(good)).to_pylist()]
        return _Text("\n".join(kept), len(kept)), broken, ""

    def _joined(
        self, lines: list[str], good: list[bool], quote: str, *, last: bool
    ) -> tuple[_Text, list[str], str]:  # fmt: skip
        records: list[str] = []
        broken: list[str] = []
        at = 0
        while at < len(lines):
            length, reason = 1, ""
            if not good[at]:
                candidates = lines[at : at + LINES_PER_RECORD]
                length, reason = self._record_at(candidates, quote)
                if reason == _QUOTING and not last and len(candidates) < LINES_PER_RECORD:
                    return _Text("\n".join(records), len(records)), broken, "\n".join([*candidates, ""])
            if reason:
                broken += [f"{reason}: {line}" for line in lines[at : at + length]]
            else:
                records.append("\n".join(lines[at : at + length]))
            at += length
        return _Text("\n".join(records), len(records)), broken, ""

    def _record_at(self, lines: list[str], quote: str) -> tuple[int, str]:
        """Number of lines of the record that starts at the first line, and the reason if it is broken, otherwise ""."""
        record = lines[0]
        if self._opened.fullmatch(record):
            for number, line in enumerate(lines[1:], start=2):
                record = f"{record}\n{line}"
                if quote in line and self._record.fullmatch(record):
                    values = (match.group() for match in self._quoted.finditer(record))
                    held = [value.count(self._source.delimiter) for value in values if "\n" in value]
                    swallowed = any(count and count % max(self._columns - 1, 1) == 0 for count in held)
                    return number, _SWALLOWED if swallowed else ""
        return 1, _QUOTING
