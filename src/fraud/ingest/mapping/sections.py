"""Sections of a mapping file: how a column of the contract is read from the source. Typed and validated."""

import codecs
from datetime import UTC, datetime
from typing import Annotated, Final, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from fraud.core.contract import id_text
from fraud.core.declaration_types import CategoryColumn, Column, NumberColumn
from fraud.ingest.flags import FALSE, TRUE, plain

ISO: Final = "ISO8601"
MILES: Final = {"miles": 1.0, "kilometres": 1 / 1.609344, "metres": 1 / 1_609.344}
"""The international mile is 1,609.344 m exactly."""
_LENGTHS: Final = {
    "miles": "miles", "mile": "miles", "mi": "miles",
    "kilometres": "kilometres", "kilometre": "kilometres", "kilometers": "kilometres", "kilometer": "kilometres",
    "km": "kilometres",
    "metres": "metres", "metre": "metres", "meters": "metres", "meter": "metres", "m": "metres",
}  # fmt: skip
_EXAMPLE: Final = datetime(2024, 3, 17, 13, 45, 30, 250_000, UTC)
_CSV_ONLY: Final = ("delimiter", "quote", "escape", "encoding", "nulls", "multiline")


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError) as error:
        raise ValueError("give a time zone of the IANA database, like Europe/Berlin or UTC") from error
    return name


def _encoding(name: str) -> str:
    try:
        codecs.lookup(name)
        _EXAMPLE.isoformat().encode(name)
    except (LookupError, ValueError) as error:
        raise ValueError("give a text encoding of Python, like utf-8, utf-16, latin-1 or cp1252") from error
    return name


def _single(character: str | None) -> str | None:
    if character is not None and (len(character) != 1 or not character.isascii() or character in "\r\n\0"):
        raise ValueError("give one ASCII character")
    return character


def _format(text: str) -> str:
    """Try the format on an example, so that a wrong directive fails before the source is read."""
    import pandas as pd  # noqa: PLC0415 - importing it takes 0.5 s

    if text == ISO:
        return text
    if "%Z" in text:
        raise ValueError("%Z is ambiguous: %z reads offsets, Z, UTC and GMT")
    try:
        parsed = pd.to_datetime(_EXAMPLE.strftime(text), format=text)
    except ValueError as error:
        raise ValueError(f"give ISO8601 or a format of strptime: {error}") from error
    if parsed.date() != _EXAMPLE.date():
        raise ValueError("the format reads no complete date: year, month and day")
    return text


Zone = Annotated[str, AfterValidator(_zone)]
Encoding = Annotated[str, AfterValidator(_encoding)]
Character = Annotated[str, AfterValidator(_single)]
Format = Annotated[str, AfterValidator(_format)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(Section):
    """File format and CSV dialect."""

    format: Literal["csv", "parquet"]
    delimiter: Character = ","
    quote: Character | None = '"'
    """None: quotation marks are ordinary characters."""
    escape: Character | None = None
    multiline: bool = False
    """Whether a quoted value may contain line breaks."""
    encoding: Encoding = "utf-8"
    nulls: tuple[str, ...] = ("",)
    """Texts of a CSV file that represent null."""
    decimal: Literal[".", ","] = "."
    thousands: Literal[",", ".", " ", "'", "_", "\u00a0", "\u202f"] | None = None
    """Decimal mark and thousands separator of numbers in text."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        marks = [mark for mark in (self.delimiter, self.quote, self.escape) if mark is not None]
        if len(set(marks)) < len(marks):
            raise ValueError("delimiter, quote and escape must differ; a doubled quote needs no escape")
        if self.decimal == self.thousands:
            raise ValueError(f"decimal and thousands are both {self.decimal!r}: set both, like decimal: ','")
        if self.format != "csv" and (foreign := sorted(self.model_fields_set & set(_CSV_ONLY))):
            raise ValueError(f"{', '.join(foreign)} only applies to csv")
        return self


def _one_of(column: str | None, columns: tuple[str, ...], constant: str | None = None) -> bool:
    return (column is not None) + bool(columns) + (constant is not None) == 1


class Text(Section):
    """A text: one column, several joined columns, or a constant."""

    column: str | None = None
    columns: tuple[str, ...] = ()
    constant: str | None = None
    separator: str = "-"
    prefix: str = ""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if not _one_of(self.column, self.columns, self.constant):
            raise ValueError("give exactly one of column, columns, constant")
        return self

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.column,) if self.column is not None else self.columns


class CategoryText(Text):
    """A declared category. A text that is neither in `map` nor in the column's closed list becomes its unknown value at
    ingest."""

    map: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _readable(self) -> Self:
        for text in (*self.map, *self.map.values()):
            try:
                id_text(text)
            except ValueError as error:
                raise ValueError(f"{text!r} {error}") from error
        return self


def _keeps_the_value(remove: str) -> str:
    if refused := sorted(c for c in set(remove) if c.isdigit() or c in "+-eE"):
        raise ValueError(f"remove must not contain {''.join(refused)!r}: it would change the number")
    return remove


Scale = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Removed = Annotated[str, AfterValidator(_keeps_the_value)]


class Number(Section):
    """A number: a column's value times `scale`, after removing characters such as `$`."""

    column: str
    scale: Scale = 1.0
    remove: Removed = ""


class Time(Section):
    """A time. Text is read with `format` (strptime or ISO8601), numbers with `unit` since 1970 or `since`. Parquet
    timestamps need neither. Several columns are joined by `separator` and read with `format`.

    `zone` is required for times without a zone and refused for others.
    """

    column: str | None = None
    columns: tuple[str, ...] = ()
    separator: str = "-"
    format: Format | None = None
    unit: Literal["us", "ms", "s", "min", "h", "d"] | None = None
    since: AwareDatetime | None = None
    zone: Zone | None = None

    @model_validator(mode="after")
    def _one_reading(self) -> Self:
        if not _one_of(self.column, self.columns):
            raise ValueError("give exactly one of column, columns")
        if self.columns and self.format is None:
            raise ValueError("columns are joined to a text: give its format")
        if self.format is not None and self.unit is not None:
            raise ValueError("give format for text or unit for numbers, not both")
        if self.since is not None and self.unit is None:
            raise ValueError("since is the start that numbers count from: give their unit")
        return self

    @model_validator(mode="after")
    def _zone_is_known(self) -> Self:
        if self.unit is not None and self.zone is not None:
            raise ValueError("numbers count from a moment in UTC: leave zone out")
        if self.format not in (None, ISO):
            carries_zone = "%z" in str(self.format)
            if carries_zone == (self.zone is not None):
                raise ValueError(
                    f"format {self.format!r} reads the zone from the text: leave zone out" if carries_zone
                    else f"format {self.format!r} reads no zone: give the zone of these times, like UTC"
                )  # fmt: skip
        return self

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.column,) if self.column is not None else self.columns


class GreatCircle(Section):
    """Columns with degrees: latitude, longitude."""

    home: tuple[str, str]
    merchant: tuple[str, str]


class DeclaredNumber(Section):
    """A declared number: a column, a constant, or the distance between two places.

    `unit` is the unit of `column` if the declared unit is a length; the value is converted.
    """

    column: str | None = None
    constant: float | None = Field(default=None, allow_inf_nan=False)
    great_circle: GreatCircle | None = None
    unit: Literal["miles", "kilometres", "metres"] | None = None
    scale: Scale = 1.0
    remove: Removed = ""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.column is not None) + (self.constant is not None) + (self.great_circle is not None) != 1:
            raise ValueError("give exactly one of column, constant, great_circle")
        if self.column is None and (foreign := sorted(self.model_fields_set & {"unit", "scale", "remove"})):
            raise ValueError(f"{', '.join(foreign)} only applies to column")
        return self

    @property
    def reads(self) -> tuple[str, ...]:
        if self.great_circle is not None:
            return (*self.great_circle.home, *self.great_circle.merchant)
        return (self.column,) if self.column is not None else ()


class Flag(Section):
    """A declared flag: a column whose texts, numbers or booleans stand for true and false, or a constant."""

    column: str | None = None
    constant: bool | None = None
    true_values: tuple[str, ...] = TRUE
    false_values: tuple[str, ...] = FALSE

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.column is None) == (self.constant is None):
            raise ValueError("give exactly one of column, constant")
        if both := sorted({*map(plain, self.true_values)} & {*map(plain, self.false_values)}):
            raise ValueError(f"{both} cannot mean true and false")
        return self

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.column,) if self.column is not None else ()


Declared = DeclaredNumber | Flag | CategoryText | Text


def section_of(column: Column) -> type[Declared]:
    """The section that maps a declared column."""
    sections: dict[str, type[Declared]] = {
        "number": DeclaredNumber, "flag": Flag, "category": CategoryText, "id": Text,
    }  # fmt: skip
    return sections[column.type]


def check_section(section: Declared, column: Column) -> None:
    """Raises ValueError when the section does not fit the declared column."""
    if isinstance(section, CategoryText) and isinstance(column, CategoryColumn) and column.learn is None:
        values = column.values or ()
        constants = () if section.constant is None else (section.constant,)
        if unknown := sorted({*section.map.values(), *constants} - set(values)):
            raise ValueError(f"{unknown} is not in the column's list: {', '.join(values)}")
    if not isinstance(section, DeclaredNumber) or not isinstance(column, NumberColumn):
        return
    is_length = column.unit in _LENGTHS
    if section.constant is not None and not column.min <= section.constant <= column.max:
        raise ValueError(f"constant must be from {column.min:g} to {column.max:g} {column.unit}")
    if section.great_circle is not None and not is_length:
        raise ValueError(f"great_circle needs a column in miles, kilometres or metres, this one is in {column.unit}")
    if section.column is not None and is_length != (section.unit is not None):
        raise ValueError(
            f"give the unit of column: {', '.join(MILES)}"
            if is_length
            else f"leave unit out: {column.unit} is no length"
        )


def length_factor(unit: str | None, column: NumberColumn) -> float:
    """Factor from a length unit to the unit of a declared column; 1 without a unit."""
    return 1.0 if unit is None else MILES[unit] / MILES[_LENGTHS[column.unit]]


class Label(Section):
    """Fraud label. Its time is a column (`known_at`), or the event time plus a delay."""

    column: str
    fraud: tuple[str, ...] = ("1", "t", "yes", "y")
    legitimate: tuple[str, ...] = ("0", "f", "no", "n")
    delay_days: float = Field(default=7.0, ge=0, le=3650)
    known_at: Time | None = None

    @model_validator(mode="after")
    def _disjoint(self) -> Self:
        if both := sorted({*map(plain, self.fraud)} & {*map(plain, self.legitimate)}):
            raise ValueError(f"{both} cannot mean fraud and legitimate")
        return self
