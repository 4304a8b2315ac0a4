"""How somebody else's file becomes the transaction contract: a mapping, written as YAML, typed and checked here."""

from pathlib import Path
from typing import Annotated, Final, Literal, Self
from zoneinfo import ZoneInfo

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from fraud.core.contract import CATEGORIES
from fraud.errors import BadConfigError

ISO: Final = "ISO8601"
MILES: Final = {"miles": 1.0, "kilometres": 1 / 1.609344, "metres": 1 / 1_609.344}
"""The international mile is 1,609.344 m exactly."""


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError) as error:
        raise ValueError("give a time zone of the IANA database, like Europe/Berlin or UTC") from error
    return name


Zone = Annotated[str, AfterValidator(_zone)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(_Section):
    """What kind of file it is."""

    format: Literal["csv", "parquet"]
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    encoding: str = "utf-8"
    nulls: tuple[str, ...] = ("",)
    """Texts of a CSV file that mean null."""


class Text(_Section):
    """A text: of one column, of several joined, or the same for every row."""

    column: str | None = None
    columns: tuple[str, ...] = ()
    constant: str | None = None
    separator: str = "-"
    prefix: str = ""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.column is not None) + bool(self.columns) + (self.constant is not None) != 1:
            raise ValueError("give exactly one of column, columns, constant")
        return self

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.column,) if self.column is not None else self.columns


class CategoryText(Text):
    """A merchant category. What is neither mapped nor in the contract's list becomes `other` at ingest."""

    map: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _known(self) -> Self:
        if unknown := sorted(set(self.map.values()) - set(CATEGORIES)):
            raise ValueError(f"map leads to {unknown}, not in the contract: {', '.join(CATEGORIES)}")
        return self


class Number(_Section):
    """A number: a column's value times `scale`, after removing characters such as `$,`."""

    column: str
    scale: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    remove: str = ""


class Time(_Section):
    """A moment. Text by `format` (strptime, or ISO8601), numbers since 1970 by `unit`, Parquet timestamps as they are.

    `zone` says where the clock hung whose times carry no zone; it must be there exactly when they carry none.
    """

    column: str
    format: str | None = None
    unit: Literal["s", "ms", "us"] | None = None
    zone: Zone | None = None

    @model_validator(mode="after")
    def _zone_is_known(self) -> Self:
        if self.format is not None and self.unit is not None:
            raise ValueError("give format for text or unit for numbers, not both")
        if self.unit is not None and self.zone is not None:
            raise ValueError("numbers since 1970 count in UTC: leave zone out")
        if self.format not in (None, ISO):
            carries_zone = "%z" in str(self.format)
            if carries_zone == (self.zone is not None):
                raise ValueError(
                    f"format {self.format!r} reads the zone from the text: leave zone out" if carries_zone
                    else f"format {self.format!r} reads no zone: say in zone where its clock hung, like UTC"
                )  # fmt: skip
        return self


class GreatCircle(_Section):
    """Columns with degrees: latitude, longitude."""

    home: tuple[str, str]
    merchant: tuple[str, str]


class Distance(_Section):
    """How far from home: a column with its unit, or the great circle between two places."""

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


class Label(_Section):
    """The verdict, for a feed of its own: when it became known is a column, or the event's time and a delay."""

    column: str
    fraud: tuple[str, ...] = ("1",)
    legitimate: tuple[str, ...] = ("0",)
    delay_days: float = Field(default=7.0, ge=0, le=3650)
    known_at: Time | None = None

    @model_validator(mode="after")
    def _disjoint(self) -> Self:
        if both := sorted(set(self.fraud) & set(self.legitimate)):
            raise ValueError(f"{both} cannot mean fraud and legitimate")
        return self


class Mapping(_Section):
    """One source's columns in the contract's terms. What is optional and missing is null."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    """Files in the landing zone are named by it."""
    source: Source
    transaction_id: Text
    event_timestamp: Time
    created_timestamp: Time | None = None
    user_id: Text
    merchant_id: Text
    merchant_category: CategoryText
    amount: Number
    distance_from_home: Distance | None = None
    label: Label | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        """The source columns it needs, each once, in order."""
        texts = (self.transaction_id, self.user_id, self.merchant_id, self.merchant_category)
        times = [t for t in (self.event_timestamp, self.created_timestamp) if t is not None]
        names = [name for text in texts for name in text.reads]
        names += [time.column for time in times] + [self.amount.column]
        names += self.distance_from_home.reads if self.distance_from_home else ()
        if self.label is not None:
            names.append(self.label.column)
            names += [self.label.known_at.column] if self.label.known_at else []
        return tuple(dict.fromkeys(names))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read and check the file. Raises BadConfigError naming file and key."""
        if not path.is_file():
            raise BadConfigError(f"{path} is not there", do="name a mapping file; docs/data.md says what goes into one")
        try:
            return cls.model_validate(yaml.safe_load(path.read_text()))
        except yaml.YAMLError as error:
            raise BadConfigError(f"{path} is not YAML", came=str(error)) from error
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"])) or "the whole file"
            raise BadConfigError(
                f"{path}: {key}", expected=first["msg"].removeprefix("Value error, "), came=repr(first.get("input")),
                do="docs/data.md has the reference of mappings",
            ) from error  # fmt: skip
