"""The mapping file: how the columns of a source become the contract. YAML, typed and validated."""

import codecs
from collections.abc import Hashable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Literal, Self
from zoneinfo import ZoneInfo

import yaml
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from fraud.core.contract import CATEGORIES
from fraud.errors import BadConfigError

ISO: Final = "ISO8601"
MILES: Final = {"miles": 1.0, "kilometres": 1 / 1.609344, "metres": 1 / 1_609.344}
"""The international mile is 1,609.344 m exactly."""
_EXAMPLE: Final = datetime(2024, 3, 17, 13, 45, 30, 250_000, UTC)
_CSV_ONLY: Final = ("delimiter", "quote", "escape", "encoding", "nulls", "multiline")


class _UniqueKeys(yaml.SafeLoader):
    """Rejects repeated keys, of which PyYAML would silently use the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        keys = [key.value for key, _ in node.value]
        if twice := sorted({str(key) for key in keys if keys.count(key) > 1}):
            raise yaml.constructor.ConstructorError(problem=f"{', '.join(twice)} twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


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


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(_Section):
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


class Text(_Section):
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
    """A merchant category. A category that is neither in `map` nor in the contract becomes `other` at ingest."""

    map: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _known(self) -> Self:
        if unknown := sorted(set(self.map.values()) - set(CATEGORIES)):
            raise ValueError(f"map has the targets {unknown}, the contract has {', '.join(CATEGORIES)}")
        return self


class Number(_Section):
    """A number: a column's value times `scale`, after removing characters such as `$`."""

    column: str
    scale: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    remove: str = ""

    @model_validator(mode="after")
    def _keeps_the_value(self) -> Self:
        if refused := sorted(c for c in set(self.remove) if c.isdigit() or c in "+-eE"):
            raise ValueError(f"remove must not contain {''.join(refused)!r}: it would change the number")
        return self


class Time(_Section):
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


class GreatCircle(_Section):
    """Columns with degrees: latitude, longitude."""

    home: tuple[str, str]
    merchant: tuple[str, str]


class Distance(_Section):
    """Distance from home: a column with its unit, or the great circle between two places."""

    column: str | None = None
    unit: Literal["miles", "kilometres", "metres"] | None = None
    great_circle: GreatCircle | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.column is None) == (self.great_circle is None) or (self.column is None) != (self.unit is None):
            raise ValueError("give column and unit, or great_circle")
        return self

    @property
    def reads(self) -> tuple[str, ...]:
        if self.great_circle is not None:
            return (*self.great_circle.home, *self.great_circle.merchant)
        return (self.column,) if self.column is not None else ()


def verdict(text: str) -> str:
    """Normalize a label for comparison: lower case, `true` and `1.0` as 1, `false` and `0.0` as 0."""
    plain = text.strip().lower()
    return {"true": "1", "1.0": "1", "false": "0", "0.0": "0"}.get(plain, plain)


class Label(_Section):
    """Fraud label. Its time is a column (`known_at`), or the event time plus a delay."""

    column: str
    fraud: tuple[str, ...] = ("1", "t", "yes", "y")
    legitimate: tuple[str, ...] = ("0", "f", "no", "n")
    delay_days: float = Field(default=7.0, ge=0, le=3650)
    known_at: Time | None = None

    @model_validator(mode="after")
    def _disjoint(self) -> Self:
        if both := sorted({*map(verdict, self.fraud)} & {*map(verdict, self.legitimate)}):
            raise ValueError(f"{both} cannot mean fraud and legitimate")
        return self


class Mapping(_Section):
    """The columns of the contract, each with its origin in the source. A missing optional column is null."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    """Part of the names of landing files."""
    source: Source
    transaction_id: Text
    event_timestamp: Time
    created_timestamp: Time | None = None
    user_id: Text
    merchant_id: Text
    merchant_category: CategoryText | None = None
    amount: Number
    distance_from_home: Distance | None = None
    label: Label | None = None

    @property
    def _times(self) -> dict[str, Time]:
        times = {"event_timestamp": self.event_timestamp, "created_timestamp": self.created_timestamp}
        times["label.known_at"] = self.label.known_at if self.label else None
        return {name: time for name, time in times.items() if time is not None}

    @model_validator(mode="after")
    def _text_has_a_format(self) -> Self:
        for name, time in self._times.items():
            if self.source.format == "csv" and time.format is None and time.unit is None:
                raise ValueError(f"{name} needs format (strptime or ISO8601) or unit, because a CSV file contains text")
        return self

    @model_validator(mode="after")
    def _decimal_mark_stays(self) -> Self:
        if self.source.decimal in self.amount.remove:
            raise ValueError(
                f"amount.remove contains source.decimal, {self.source.decimal!r}: set source.decimal, source.thousands"
            )
        return self

    @property
    def origins(self) -> dict[str, tuple[str, ...]]:
        """The source columns of each column of the contract."""
        created, label = self.created_timestamp or self.event_timestamp, self.label
        known_at = (label.known_at or self.event_timestamp).reads if label else ()
        return {
            "transaction_id": self.transaction_id.reads,
            "event_timestamp": self.event_timestamp.reads,
            "created_timestamp": created.reads,
            "user_id": self.user_id.reads,
            "merchant_id": self.merchant_id.reads,
            "merchant_category": self.merchant_category.reads if self.merchant_category else (),
            "amount": (self.amount.column,),
            "distance_from_home": self.distance_from_home.reads if self.distance_from_home else (),
            "is_fraud": (label.column,) if label else (),
            "label_timestamp": known_at,
        }

    @property
    def reads(self) -> tuple[str, ...]:
        """The source columns of the mapping, each once, in order."""
        return tuple(dict.fromkeys(name for columns in self.origins.values() for name in columns))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read and validate the file. Raises BadConfigError with file and key."""
        if not path.is_file():
            raise BadConfigError(
                f"{path} is not there", expected="a mapping file", hint="docs/data.md has the reference of mapping keys"
            )
        try:
            return cls.model_validate(yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys))  # noqa: S506 - a SafeLoader
        except UnicodeDecodeError as error:
            raise BadConfigError(
                f"{path} is not UTF-8", expected="a mapping saved as UTF-8", got=f"byte {error.start}: {error.reason}",
                hint="save it as UTF-8; source.encoding applies to the data",
            ) from error  # fmt: skip
        except yaml.YAMLError as error:
            raise BadConfigError(f"{path} is not YAML", got=str(error)) from error
        except ValidationError as error:
            first = error.errors()[0]
            key, got = ".".join(map(str, first["loc"])), repr(first["input"])
            quotes = "; YAML reads yes, no and 1 as text only in quotes" if isinstance(first["input"], int) else ""
            raise BadConfigError(
                f"{path}: {key or 'the whole file'}", expected=first["msg"].removeprefix("Value error, "),
                got=got if key else "", hint=f"docs/data.md has the reference of mapping keys{quotes}",
            ) from error  # fmt: skip
