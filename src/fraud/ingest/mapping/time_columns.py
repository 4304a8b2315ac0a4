"""Read columns of a source as timestamps: text with a format, numbers with a unit, Parquet timestamps."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from fraud.core.contract import US_PER_DAY, US_PER_HOUR, US_PER_SECOND
from fraud.errors import BadConfigError, BadInputError
from fraud.ingest.mapping.number_columns import Numbers, is_text
from fraud.ingest.mapping.row_errors import RowErrors, true
from fraud.ingest.mapping.sections import ISO, Time
from fraud.lake.catalog import TIMESTAMP

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EARLIEST: Final = (datetime(1900, 1, 1, tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)
_LATEST: Final = (datetime(2200, 1, 1, tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)
_RANGE: Final = "between the years 1900 and 2200"
"""Readable times. Ingest then applies the narrower bounds of the contract."""
_US_PER_UNIT: Final = {
    "us": 1, "ms": 1_000, "s": US_PER_SECOND, "min": 60 * US_PER_SECOND, "h": US_PER_HOUR, "d": US_PER_DAY,
}  # fmt: skip
_TICKS_PER_SECOND: Final = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}

_OFFSET: Final = r"(?:[Zz]|UTC|GMT|[+-][0-9]{2}:?[0-9]{2}|[T ][0-9:.,]+\s*[+-][0-9]{2})$"
_SPELLINGS: Final = (
    (r"\s*(?:[Zz]|UTC|GMT)$", "+00:00"),
    (r"([T ][0-9:.,]+)\s*([+-][0-9]{2})$", r"\1\2:00"),
    (r"\s+([+-][0-9]{2}:?[0-9]{2})$", r"\1"),
)
"""Replacements that convert the spellings of an offset at the end of a text to the one that parsers read."""


class Times:
    """Reads the columns of one piece of a source as timestamp[us, UTC].

    An unreadable value becomes null and an error. An ambiguous local time (clocks set back) is read as the earlier one,
    a non-existent one (clocks set forward) as the time of the change.
    """

    def __init__(self, columns: dict[str, pa.Array], numbers: Numbers, errors: RowErrors) -> None:
        self._columns, self._numbers, self._errors = columns, numbers, errors

    def moments(self, name: str, time: Time) -> pa.Array:
        """The times of contract column `name`.

        Raises BadConfigError when the mapping lacks a format or zone that the column's type needs, or gives a zone that
        the type already has. Raises BadInputError for a column of another type.
        """
        if time.unit is not None:
            return self._counted(name, time)
        if time.columns:
            parts = [self._part(column) for column in time.columns]
            return self._parsed(name, time, pc.binary_join_element_wise(*parts, time.separator))
        values = self._columns[time.reads[0]]
        kind = values.type
        if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
            return self._typed(name, time, values)
        if not is_text(kind):
            raise BadInputError(
                f"column {time.column} has the wrong type", expected="timestamps, text, or numbers with a unit",
                got=str(kind), hint=f"set {name}.unit if the column has numbers, such as seconds",
            )  # fmt: skip
        if time.format is None:
            raise BadConfigError(
                f"{name}.format is missing", expected="a strptime format or ISO8601",
                got=f"column {time.column} is text",
            )  # fmt: skip
        return self._parsed(name, time, values)

    def _part(self, column: str) -> pa.Array:
        kind = self._columns[column].type
        if not (is_text(kind) or pa.types.is_integer(kind) or pa.types.is_date(kind)):
            raise BadInputError(
                f"column {column} has the wrong type", expected="text, integers or dates to join", got=str(kind)
            )
        return self._columns[column].cast(pa.string())

    def _counted(self, name: str, time: Time) -> pa.Array:
        """Numbers in `unit` since `since`, by default 1970-01-01 UTC."""
        start = ((time.since or _EPOCH) - _EPOCH) // timedelta(microseconds=1)
        numbers = self._numbers.floats(name, time.reads[0])
        us = pc.add(pc.multiply(numbers, float(_US_PER_UNIT[str(time.unit)])), float(start))
        kept = self._possible(name, us, _EARLIEST, _LATEST, numbers)
        return pc.cast(pc.round(kept), pa.int64()).cast(TIMESTAMP)

    def _typed(self, name: str, time: Time, values: pa.Array) -> pa.Array:
        if pa.types.is_date(values.type):
            values = values.cast(pa.timestamp("s" if pa.types.is_date32(values.type) else "ms"))
        kind = values.type
        if kind.tz is not None and time.zone is not None:
            raise BadConfigError(f"{name}.zone: column {time.column} has the zone {kind.tz}", hint="remove the key")
        ticks = _TICKS_PER_SECOND[kind.unit]
        earliest, latest = (bound // US_PER_SECOND * ticks for bound in (_EARLIEST, _LATEST))
        kept = self._possible(name, values.cast(pa.int64()), earliest, latest, values.cast(pa.int64())).cast(kind)
        if kind.tz is not None:
            return kept.cast(TIMESTAMP, safe=False)
        return _in_zone(name, time, kept.cast(pa.timestamp("us"), safe=False))

    def _parsed(self, name: str, time: Time, values: pa.Array) -> pa.Array:
        """Text with a format. Seconds may have a fraction or none, offsets any of their spellings."""
        texts = pc.utf8_trim_whitespace(values)
        has_offset = true(pc.fill_null(pc.match_substring_regex(texts, _OFFSET), False))
        aware = time.zone is None
        if time.format == ISO:
            if aware:
                unreadable = true(pc.is_valid(texts)) & ~has_offset
                self._errors.add(unreadable, name, f"no time zone (the mapping can give it, as {name}.zone)", values)
            else:
                unreadable = has_offset
                self._errors.add(unreadable, name, f"a time zone in the text, and {time.zone} in the mapping", values)
            texts = pc.if_else(pa.array(unreadable), None, texts)
        if aware:
            for pattern, replacement in _SPELLINGS:
                texts = pc.replace_substring_regex(texts, pattern, replacement)
        parsed = _as_moments(texts, str(time.format), aware=aware)
        times = pa.array(parsed.astype("datetime64[us, UTC]" if aware else "datetime64[us]"))
        # pandas parses the words now and today as the present time with any format.
        times = pc.if_else(pc.match_substring_regex(texts, "[0-9]"), times, None)
        failed = true(pc.and_(pc.is_valid(texts), pc.is_null(times)))
        self._errors.add(failed, name, f"not a time like {time.format} {_RANGE}", values)
        counted = times.cast(pa.int64())
        kept = self._possible(name, counted, _EARLIEST, _LATEST, values).cast(times.type)
        return kept.cast(TIMESTAMP) if aware else _in_zone(name, time, kept)

    def _possible(self, name: str, counts: pa.Array, earliest: int, latest: int, shown: pa.Array) -> pa.Array:
        """The counts from `earliest` until before `latest`. Other values become null and an error."""
        low, high = pa.scalar(earliest, counts.type), pa.scalar(latest, counts.type)
        possible = pc.fill_null(pc.and_(pc.greater_equal(counts, low), pc.less(counts, high)), False)
        self._errors.add(true(pc.and_not(pc.is_valid(counts), possible)), name, f"not a time {_RANGE}", shown)
        return pc.if_else(possible, counts, None)


def _as_moments(texts: pa.Array, format_: str, *, aware: bool) -> pd.Series:
    series = texts.to_pandas()
    if format_ == ISO:
        series = series.str.replace(r"(:[0-9]{2}),([0-9]+)", r"\1.\2", regex=True)
    first, *others = _variants(format_)
    moments = pd.to_datetime(series, format=first, errors="coerce", utc=aware)
    for other in others:
        missed = moments.isna() & series.notna()
        if missed.any():
            moments[missed] = pd.to_datetime(series[missed], format=other, errors="coerce", utc=aware)
    return moments


def _variants(format_: str) -> list[str]:
    """The format with and without a fraction of seconds, and without a space before the offset."""
    close = re.sub(r"\s+%z$", "%z", format_)
    other = close.replace("%S.%f", "%S") if "%S.%f" in close else close.replace("%S", "%S.%f")
    return [close, other] if other != close else [close]


def _in_zone(name: str, time: Time, naive: pa.Array) -> pa.Array:
    if time.zone is None:
        raise BadConfigError(
            f"{name}.zone is missing",
            expected="the time zone of the column, such as UTC",
            got=f"{time.column} has no zone",
        )
    return pc.assume_timezone(naive, time.zone, ambiguous="earliest", nonexistent="latest").cast(TIMESTAMP)
