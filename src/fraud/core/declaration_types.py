"""The parts of a feature declaration: column types, entities and kinds of features, with their bounds."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
)

from fraud.core.contract import MAX_ID_LENGTH, US_PER_DAY, US_PER_HOUR, US_PER_SECOND, id_text

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")
_UNITS: Final = {"d": US_PER_DAY, "h": US_PER_HOUR, "m": 60 * US_PER_SECOND, "s": US_PER_SECOND}
_DURATION: Final = re.compile(r"([1-9][0-9]{0,5})([smhd])")
_TIME: Final = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")
MAX_SPAN_DAYS: Final = 90
MAX_SPANS: Final = 16
"""Windows, or numbers of days, of one line."""
MAX_MAGNITUDE: Final = 1e15
"""Of bounds and defaults. Derived values stay within float32 with at most `declaration_checks.MAX_DEPTH` steps."""


class DeclarationError(ValueError):
    """A declaration is not valid. `path` leads to the wrong part, as keys and indices."""

    def __init__(self, path: tuple[str | int, ...], expected: str, got: str = "") -> None:
        super().__init__(f"{'.'.join(map(str, path))}: expected {expected}" + (f", got {got}" if got else ""))
        self.path, self.expected, self.got = path, expected, got


def is_name(text: str) -> bool:
    """Whether the text is a name of a column, entity or feature."""
    return _NAME.fullmatch(text) is not None


def duration_text(us: int) -> str:
    """Microseconds (whole seconds) as a duration in its largest whole unit: `7d`, `90s`."""
    unit = next(name for name, size in _UNITS.items() if us % size == 0)
    return f"{us // _UNITS[unit]}{unit}"


def _duration(value: object) -> object:
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError("a duration such as 90s, 15m, 1h or 7d")
    us = int(found[1]) * _UNITS[found[2]]
    if us > 2 * MAX_SPAN_DAYS * US_PER_DAY:
        raise ValueError(f"a duration of at most {2 * MAX_SPAN_DAYS}d")
    return us


def _window(us: int) -> int:
    if us > MAX_SPAN_DAYS * US_PER_DAY:
        raise ValueError(f"a window of at most {MAX_SPAN_DAYS}d")
    return us


def _category(text: str) -> str:
    """A category as entry points write it (`contract.id_text`), so that it can be found among the values."""
    if len(text) > MAX_ID_LENGTH or not text or id_text(text) != text:
        raise ValueError(f"a text of 1 to {MAX_ID_LENGTH} characters without surrounding spaces, not a word for null")
    return text


def _time_of_day(value: object) -> object:
    found = _TIME.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError('a time of day in quotes, such as "03:00"')
    return (int(found[1]) * 60 + int(found[2])) * 60 * US_PER_SECOND


def _time_text(us: int) -> str:
    minutes = us // (60 * US_PER_SECOND)
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Category = Annotated[str, AfterValidator(_category), Field(json_schema_extra={"maxLength": MAX_ID_LENGTH})]
Bound = Annotated[float, Field(ge=-MAX_MAGNITUDE, le=MAX_MAGNITUDE)]
Duration = Annotated[
    int, BeforeValidator(_duration), PlainSerializer(duration_text, return_type=str),
    WithJsonSchema({"type": "string", "pattern": "^[1-9][0-9]{0,5}[smhd]$", "examples": ["1h", "7d"]}),
]  # fmt: skip
"""Microseconds; written as `90s`, `15m`, `1h` or `7d`."""
Window = Annotated[Duration, AfterValidator(_window)]
TimeOfDay = Annotated[
    int, BeforeValidator(_time_of_day), PlainSerializer(_time_text, return_type=str),
    WithJsonSchema({"type": "string", "pattern": "^([01][0-9]|2[0-3]):[0-5][0-9]$", "examples": ["03:00"]}),
]  # fmt: skip
"""Microseconds after midnight, UTC; written as `03:00`."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    description: str = Field(default="", max_length=1_000, description="text for people; not part of the meaning")


class _Column(_Part):
    simulate: Name | None = Field(
        default=None, description="role of the column in simulated transactions; not part of the meaning"
    )


class NumberColumn(_Column):
    """A number with a unit and bounds."""

    type: Literal["number"] = Field(description="a number with a unit and bounds")
    unit: str = Field(max_length=40, description="text for people, such as miles or USD")
    min: Bound = Field(description="a smaller value is refused")
    max: Bound = Field(description="a larger value is refused")
    decimals: int | None = Field(
        default=None,
        ge=0,
        le=6,
        description="values are rounded half to even at every entry point; needed by aggregates",
    )


class FlagColumn(_Column):
    """True, false or null."""

    type: Literal["flag"] = Field(description="true, false or null")


class CategoryColumn(_Column):
    """One of a list of texts. Another text, or null, becomes `unknown`."""

    type: Literal["category"] = Field(description="one of a list of texts: values, or learn")
    values: tuple[Category, ...] | None = Field(
        default=None, min_length=1, max_length=300, description="the closed list; it contains the unknown value"
    )
    learn: int | None = Field(
        default=None, ge=1, le=200, description="training finds this many of the most frequent values"
    )
    unknown: Category = Field(default="other", description="what another text, and null, becomes")


class IdColumn(_Column):
    """An identifier of at most 128 characters."""

    type: Literal["id"] = Field(description="an identifier of at most 128 characters, or null")


Column = NumberColumn | FlagColumn | CategoryColumn | IdColumn
BUILT_IN: Final[Mapping[str, Column]] = {
    "user_id": IdColumn(type="id"),
    "merchant_id": IdColumn(type="id"),
    "amount": NumberColumn(type="number", unit="USD", min=0.0, max=1e9, decimals=4),
}
"""Columns of the transaction contract that a declaration may use without declaring them."""


class Entity(_Part):
    """What features are aggregated over: all transactions with the same value of an id column."""

    id: Name = Field(description="column of type id")
    max_events: int | None = Field(
        default=None, ge=8, le=4_096, description="length of the stored history, for window features; default: 1024"
    )
    keep: Duration | None = Field(
        default=None, description="an event this much older than the newest one is in no window; default: the longest "
        "window and 7 days"
    )  # fmt: skip


class _Feature(_Part):
    name: Annotated[str, Field(max_length=63)] = Field(
        description="lower-case letters, digits and _; with several windows or days it contains {window} or {days}"
    )
    default: Bound | Name = Field(
        default=0.0, description="what a null becomes in the model's input: a number or the name of a feature"
    )
    input: bool = Field(default=True, description="whether the feature is an input of the model")
    group: Name | None = Field(default=None, description="group of inputs in the reasons of a decision")


Op = Literal["column", "hour_of_day", "day_of_week", "missing", "ratio", "difference", "hour_between", "day_in"]
OPERANDS: Final[Mapping[str, frozenset[str]]] = {
    "column": frozenset({"column"}),
    "hour_of_day": frozenset(),
    "day_of_week": frozenset(),
    "missing": frozenset({"of"}),
    "ratio": frozenset({"of", "by"}),
    "difference": frozenset({"of", "minus"}),
    "hour_between": frozenset({"first", "until"}),
    "day_in": frozenset({"days"}),
}
"""The keys that each op needs."""


def _ordered(days: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(set(days)))


class RequestFeature(_Feature):
    """A value of the transaction alone, or one derived from other features."""

    kind: Literal["request"] = Field(description="computed from the transaction, or from other features")
    op: Op = Field(description="how the value is computed")
    column: Name | None = Field(default=None, description="op column: the column")
    of: Name | None = Field(default=None, description="the feature that is divided, subtracted from or missing")
    by: Name | None = Field(default=None, description="op ratio: the feature that divides")
    minus: Name | None = Field(default=None, description="op difference: the feature that is subtracted")
    first: Annotated[int, Field(ge=0, le=23)] | None = Field(default=None, description="first hour, UTC")
    until: Annotated[int, Field(ge=0, le=24)] | None = Field(default=None, description="hour after the last one, UTC")
    days: Annotated[tuple[Annotated[int, Field(ge=0, le=6)], ...], AfterValidator(_ordered)] | None = Field(
        default=None, min_length=1, max_length=7, description="op day_in: days of the week, Monday = 0"
    )

    @property
    def operands(self) -> dict[str, Any]:
        """The keys of the op that are given."""
        fields = ("column", "of", "by", "minus", "first", "until", "days")
        return {field: value for field in fields if (value := getattr(self, field)) is not None}


Aggregate = Literal[
    "count", "sum", "mean", "min", "max", "distinct", "seconds_since_last", "share", "matches", "same_as_last"
]
AGGREGATES: Final[Mapping[str, tuple[str, ...]]] = {
    "count": (),
    "sum": ("number",),
    "mean": ("number",),
    "min": ("number",),
    "max": ("number",),
    "distinct": ("id", "category"),
    "seconds_since_last": (),
    "share": ("flag", "category"),
    "matches": ("id", "category", "flag"),
    "same_as_last": ("id", "category", "flag"),
}
"""Aggregate of a window -> the types of its column; () for none."""


class WindowFeature(_Feature):
    """An aggregate over the entity's earlier transactions within a window."""

    kind: Literal["window"] = Field(description="over the entity's earlier transactions within a window")
    entity: Name = Field(description="name of a declared entity")
    aggregate: Aggregate = Field(description="how the value is computed")
    column: Name | None = Field(default=None, description="the aggregated column")
    value: Category | None = Field(default=None, description="share of a category column: the category")
    window: Annotated[tuple[Window, ...], Field(min_length=1, max_length=MAX_SPANS)] | Window = Field(
        description="one or several; with several, the name contains {window}"
    )

    @property
    def window_us(self) -> int:
        """The window of an expanded feature."""
        return max(self.window) if isinstance(self.window, tuple) else self.window

    @property
    def dtype(self) -> Literal["float64", "int64"]:
        """Type of the feature's column in the lake and in Feast."""
        return "int64" if self.aggregate == "distinct" else "float64"

    @property
    def empty(self) -> float | None:
        """Value without any event; None is null."""
        return 0.0 if self.aggregate in ("count", "sum", "distinct", "matches") else None


DailyAggregate = Literal["count", "sum", "mean", "distinct", "fraud_rate"]
DAILY_AGGREGATES: Final[Mapping[str, tuple[str, ...]]] = {
    "count": (),
    "sum": ("number",),
    "mean": ("number",),
    "distinct": ("id", "category"),
    "fraud_rate": (),
}


LABEL_DELAY_DAYS: Final = 7
STRENGTH: Final = 20.0
Span = Annotated[int, Field(ge=1, le=MAX_SPAN_DAYS)]


class DailyFeature(_Feature):
    """An aggregate over an entity's transactions of whole days, as known at the start of a day."""

    kind: Literal["daily"] = Field(description="over the entity's transactions of whole days, known each night")
    entity: Name = Field(description="name of a declared entity")
    aggregate: DailyAggregate = Field(description="how the value is computed")
    column: Name | None = Field(default=None, description="the aggregated column")
    days: Annotated[tuple[Span, ...], Field(min_length=1, max_length=MAX_SPANS)] | Span = Field(
        description="one or several numbers of days; with several, the name contains {days}"
    )
    label_delay_days: int = Field(
        default=LABEL_DELAY_DAYS, ge=0, le=60, description="fraud_rate: days before the snapshot left out"
    )
    strength: float = Field(default=STRENGTH, ge=0, le=1e6, description="fraud_rate: weight of the base rate, in rows")

    @property
    def span_days(self) -> int:
        """The days of an expanded feature."""
        return max(self.days) if isinstance(self.days, tuple) else self.days

    @property
    def first_day_before(self) -> int:
        """Days between the snapshot and the first day of the aggregate."""
        return self.span_days + (self.label_delay_days if self.aggregate == "fraud_rate" else 0)

    @property
    def dtype(self) -> Literal["float64", "int64"]:
        """Type of the feature's column in the lake and in Feast."""
        return "int64" if self.aggregate == "distinct" else "float64"

    @property
    def empty(self) -> float | None:
        """Value while no snapshot is published; None is null."""
        return 0.0 if self.aggregate in ("count", "sum", "distinct") else None


Feature = RequestFeature | WindowFeature | DailyFeature


def base_input(feature: Feature) -> bool:
    """Whether the feature's value is given rather than derived from other features."""
    return not isinstance(feature, RequestFeature) or feature.op in ("column", "hour_of_day", "day_of_week")


def group_of(feature: Feature) -> str:
    """The group of a base input, for the reasons of a decision."""
    if feature.group is not None:
        return feature.group
    if isinstance(feature, RequestFeature):
        return feature.column or "time"
    return feature.entity


def dependencies(feature: Feature) -> set[str]:
    """Names of the features from whose values this feature's value is computed."""
    found = {feature.default} if isinstance(feature.default, str) else set[str]()
    if isinstance(feature, RequestFeature):
        found |= {str(feature.operands[field]) for field in ("of", "by", "minus") if field in feature.operands}
    return found


def never_null(feature: Feature) -> bool:
    """Whether the feature has a value for every transaction, so that a default has no effect."""
    if isinstance(feature, RequestFeature):
        return feature.op != "ratio" and (feature.op != "column" or feature.column in BUILT_IN)
    return feature.empty is not None
