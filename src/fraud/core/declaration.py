"""The feature declaration: columns, entities and features of a team, as typed data with one canonical form.

`feature_repo/features.yaml` is its written form; docs/features.md describes it. A model version carries the canonical
form (JSON) with the category lists that its training found. `parse` reads both.
"""

import json
from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Annotated, Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fraud.core import declaration_types as types
from fraud.core.contract import US_PER_DAY
from fraud.core.declaration_types import (
    AGGREGATES,
    DAILY_AGGREGATES,
    CategoryColumn,
    Column,
    DailyFeature,
    Entity,
    Feature,
    IdColumn,
    NumberColumn,
    RequestFeature,
    WindowFeature,
)

BUILT_IN: Final[Mapping[str, Column]] = {
    "user_id": IdColumn(type="id"),
    "merchant_id": IdColumn(type="id"),
    "amount": NumberColumn(type="number", unit="USD", min=0.0, max=1e9, decimals=4),
}
"""Columns of the transaction contract that a declaration may use without declaring them."""
RESERVED: Final = frozenset(
    {
        "transaction_id", "event_timestamp", "created_timestamp", "event_us", "served_us", "latency_us", "dt",
        "prediction_id", "parse_error", "position", "reason", "is_fraud", "label_timestamp", "threshold", "degraded",
        "history", "fraud_probability", "model_version", "model_sha256", "feature_hash", "challenger_version",
        "challenger_probability", "transaction_velocity", "repeated", "reasons",
    }
)  # fmt: skip
"""Names of the platform's own columns and fields, which a declaration cannot use."""
LATENESS_US: Final = 7 * US_PER_DAY
DEFAULT_MAX_EVENTS: Final = 1_024
MAX_GROUPS: Final = 10


class DeclarationError(ValueError):
    """A declaration is not valid. `path` leads to the wrong part, as keys and indices."""

    def __init__(self, path: tuple[str | int, ...], expected: str, got: str = "") -> None:
        super().__init__(f"{'.'.join(map(str, path))}: expected {expected}" + (f", got {got}" if got else ""))
        self.path, self.expected, self.got = path, expected, got


class Daily(BaseModel):
    """When the daily snapshots are published."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    available_at: types.TimeOfDay = Field(
        default=3 * 3_600 * 1_000_000,
        description="time of day (UTC) from which the snapshot of that day holds, for one day",
    )


class Declaration(BaseModel):
    """Columns, entities and features. Create it with `parse`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    columns: dict[types.Name, Annotated[Column, Field(discriminator="type")]] = Field(default={}, max_length=64)
    entities: dict[types.Name, Entity] = Field(default={}, max_length=8)
    daily: Daily = Daily()
    features: tuple[Annotated[Feature, Field(discriminator="kind")], ...] = Field(min_length=1, max_length=256)

    @property
    def requests(self) -> tuple[RequestFeature, ...]:
        return tuple(f for f in self.features if isinstance(f, RequestFeature))

    def windows(self, entity: str | None = None) -> tuple[WindowFeature, ...]:
        """The window features (of one entity), in declared order."""
        return tuple(f for f in self.features if isinstance(f, WindowFeature) and entity in (None, f.entity))

    def daily_features(self, entity: str | None = None) -> tuple[DailyFeature, ...]:
        """The daily features (of one entity), in declared order."""
        return tuple(f for f in self.features if isinstance(f, DailyFeature) and entity in (None, f.entity))

    @property
    def stored_features(self) -> tuple[WindowFeature | DailyFeature, ...]:
        """The features that have a column in the lake: window and daily ones, in declared order."""
        return tuple(f for f in self.features if not isinstance(f, RequestFeature))

    def column(self, name: str) -> Column:
        """A declared or built-in column. Raises KeyError."""
        return BUILT_IN[name] if name in BUILT_IN else self.columns[name]

    def feature(self, name: str) -> Feature:
        """The feature of this name. Raises KeyError."""
        for feature in self.features:
            if feature.name == name:
                return feature
        raise KeyError(name)

    def resolved(self, lists: Mapping[str, tuple[str, ...]]) -> Self:
        """The declaration with the values of learnt category columns, by column. Raises KeyError for a missing one."""
        columns = {
            name: column.model_copy(update={"values": lists[name]}) if name in self.to_learn else column
            for name, column in self.columns.items()
        }
        return self.model_copy(update={"columns": columns})

    @property
    def to_learn(self) -> tuple[str, ...]:
        """The category columns whose values are found at training."""
        return tuple(n for n, c in self.columns.items() if isinstance(c, CategoryColumn) and c.learn is not None)

    def canonical(self) -> str:
        """The declaration as JSON without descriptions and roles of the simulator; `parse` reads it."""
        return json.dumps(self._meaning(learnt=True), sort_keys=True, separators=(",", ":"))

    @property
    def hash(self) -> str:
        """sha256 of the meaning. Comments, the order of keys and learnt category lists do not change it."""
        return _digest(self._meaning(learnt=False))

    @property
    def stored_hash(self) -> str:
        """sha256 of what the lake's feature values depend on: columns, entities, window and daily features."""
        stored = [f.model_dump(mode="json", exclude={"description", "default", "group", "input"})
                  for f in sorted(self.stored_features, key=lambda f: f.name)]  # fmt: skip
        meaning = self._meaning(learnt=False)
        return _digest({"columns": meaning["columns"], "entities": meaning["entities"], "daily": meaning["daily"],
                        "features": stored})  # fmt: skip

    def _meaning(self, *, learnt: bool) -> dict[str, Any]:
        left_out = {"description", "simulate"}
        columns = {
            name: column.model_dump(
                mode="json",
                exclude=left_out | ({"values"} if not learnt and name in self.to_learn else set()),
                exclude_none=True,
            )
            for name, column in self.columns.items()
        }
        return {
            "columns": columns,
            "entities": {name: e.model_dump(mode="json", exclude=left_out) for name, e in self.entities.items()},
            "daily": self.daily.model_dump(mode="json"),
            "features": [f.model_dump(mode="json", exclude=left_out, exclude_none=True) for f in self.features],
        }


def parse(written: object, *, learnt: bool = False) -> Declaration:
    """Check a declaration and expand lines with several windows. Raises DeclarationError.

    `written` is the content of the YAML file or of the canonical JSON. `learnt`: category columns with `learn` may have
    values, as in a model version.
    """
    try:
        found = Declaration.model_validate(written)
    except ValidationError as error:
        raise _located(error) from error
    lines = tuple(_expanded(found.features))
    found = found.model_copy(update={"features": tuple(feature for _, feature in lines)})
    found = found.model_copy(update={"entities": dict(_with_defaults(found))})
    _check_columns(found, learnt=learnt)
    _check_entities(found)
    names = _check_names(found, lines)
    for at, feature in lines:
        _check_feature(found, names, ("features", at), feature)
    _check_order(found, lines)
    groups = {group_of(f) for f in found.features if base_input(f)}
    if len(groups) > MAX_GROUPS:
        raise DeclarationError(
            ("features",), f"at most {MAX_GROUPS} groups of inputs", f"{len(groups)}: {sorted(groups)}"
        )
    return found


_MEMBERS: Final = {"request", "window", "daily", "number", "flag", "category", "id", "float", "int"}
"""Names of the members of unions, which pydantic puts into the location of an error."""


def _located(error: ValidationError) -> DeclarationError:
    """The first error, with its path in the file."""
    first = error.errors()[0]
    path = tuple(p for i, p in enumerate(first["loc"]) if i == 0 or not (p in _MEMBERS or "[" in str(p)))
    if first["type"] == "extra_forbidden":
        return DeclarationError(path, "a key that docs/features.md describes; this one is unknown")
    if first["type"] == "missing":
        return DeclarationError(path[:-1], f"the key {path[-1]}")
    message = first["msg"].removeprefix("Value error, ")
    return DeclarationError(path, message[:1].lower() + message[1:], repr(first.get("input"))[:100])


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


def _digest(meaning: object) -> str:
    return sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()


def _expanded(features: tuple[Feature, ...]) -> Iterator[tuple[int, Feature]]:
    """Each feature with the index of its line. A line with several windows becomes several features."""
    for at, line in enumerate(features):
        field, spans = "", tuple[Any, ...]()
        if isinstance(line, WindowFeature):
            field, spans = "window", line.window if isinstance(line.window, tuple) else ()
        elif isinstance(line, DailyFeature):
            field, spans = "days", line.days if isinstance(line.days, tuple) else ()
        if not spans:
            if "{" in line.name:
                raise DeclarationError(("features", at, "name"), "a name without {} for a single value", line.name)
            yield at, line
            continue
        placeholder = f"{{{field}}}"
        if line.name.count(placeholder) != 1 or line.name.count("{") != 1:
            raise DeclarationError(("features", at, "name"), f"{placeholder} once, since there are several", line.name)
        for span in spans:
            text = types.duration_text(span) if field == "window" else str(span)
            yield at, line.model_copy(update={"name": line.name.replace(placeholder, text), field: span})


def _with_defaults(found: Declaration) -> Iterator[tuple[str, Entity]]:
    for name, entity in found.entities.items():
        windows = found.windows(name)
        if not windows:
            yield name, entity
            continue
        longest = max(feature.window_us for feature in windows)
        yield (
            name,
            entity.model_copy(
                update={
                    "max_events": entity.max_events or DEFAULT_MAX_EVENTS,
                    "keep": longest + LATENESS_US if entity.keep is None else entity.keep,
                }
            ),
        )


def _check_columns(found: Declaration, *, learnt: bool) -> None:
    for name, column in found.columns.items():
        path = ("columns", name)
        if name in BUILT_IN or name in RESERVED:
            raise DeclarationError(path, "another name: this one is the platform's own")
        if isinstance(column, NumberColumn) and not column.min < column.max:
            raise DeclarationError((*path, "max"), f"a number above min ({column.min})", str(column.max))
        if isinstance(column, CategoryColumn):
            if column.learn is None and column.values is None:
                raise DeclarationError(path, "values (a closed list), or learn (a number of categories)")
            if column.learn is not None and column.values is not None and not learnt:
                raise DeclarationError(path, "values or learn, not both")
            values = column.values or ()
            if len(set(values)) < len(values):
                raise DeclarationError((*path, "values"), "each value once")
            if values and column.unknown not in values:
                raise DeclarationError((*path, "unknown"), f"one of the values: {', '.join(values)}", column.unknown)


def _check_entities(found: Declaration) -> None:
    for name, entity in found.entities.items():
        path = ("entities", name)
        if entity.id not in found.columns and entity.id not in BUILT_IN:
            raise DeclarationError((*path, "id"), "a declared column", entity.id)
        if not isinstance(found.column(entity.id), IdColumn):
            raise DeclarationError((*path, "id"), "a column of type id", entity.id)
        windows = found.windows(name)
        if windows and entity.keep is not None and entity.keep < max(f.window_us for f in windows):
            raise DeclarationError((*path, "keep"), "at least the longest window of the entity",
                                   types.duration_text(entity.keep))  # fmt: skip


def _check_names(found: Declaration, lines: tuple[tuple[int, Feature], ...]) -> frozenset[str]:
    names = set[str]()
    columns = {feature.column: feature.name for feature in found.requests if feature.op == "column"}
    for at, feature in lines:
        path = ("features", at, "name")
        if feature.name in names:
            raise DeclarationError(path, "each name once", feature.name)
        if feature.name in RESERVED or feature.name in ("user_id", "merchant_id"):
            raise DeclarationError(path, "another name: this one is the platform's own", feature.name)
        if feature.name in {**found.columns, **BUILT_IN} and columns.get(feature.name) != feature.name:
            raise DeclarationError(path, "another name: this one is a column's", feature.name)
        if not types.is_name(feature.name):
            raise DeclarationError(path, "lower-case letters, digits and _, at most 63", feature.name)
        names.add(feature.name)
    return frozenset(names)


def _check_feature(found: Declaration, names: frozenset[str], path: tuple[str | int, ...], feature: Feature) -> None:
    if isinstance(feature.default, str) and (feature.default not in names or is_category(found, feature.default)):
        raise DeclarationError((*path, "default"), "a number, or the name of a feature that is one", feature.default)
    if isinstance(feature, RequestFeature):
        _check_request(found, names, path, feature)
        return
    if feature.entity not in found.entities:
        raise DeclarationError((*path, "entity"), f"one of {', '.join(found.entities)}", feature.entity)
    rules = AGGREGATES if isinstance(feature, WindowFeature) else DAILY_AGGREGATES
    kinds = rules[feature.aggregate]
    if not kinds:
        if feature.column is not None:
            raise DeclarationError((*path, "column"), f"no column: {feature.aggregate} has none", feature.column)
        return
    column = _column(found, (*path, "column"), feature.column)
    if column.type not in kinds:
        raise DeclarationError(
            (*path, "column"), f"a column of type {' or '.join(kinds)}", f"{feature.column} ({column.type})"
        )
    if isinstance(column, NumberColumn) and column.decimals is None:
        expected = "a number column with decimals: aggregates are computed from integers"
        raise DeclarationError((*path, "column"), expected, str(feature.column))
    if isinstance(feature, WindowFeature) and (feature.value is not None) != (
        feature.aggregate == "share" and isinstance(column, CategoryColumn)
    ):
        raise DeclarationError((*path, "value"), "value with the share of a category column, and only there")


def _check_request(
    found: Declaration, names: frozenset[str], path: tuple[str | int, ...], feature: RequestFeature
) -> None:
    needed, given = types.OPERANDS[feature.op], feature.operands
    for field in sorted(needed - given.keys()):
        raise DeclarationError(path, f"the key {field} with op {feature.op}")
    for field in sorted(given.keys() - needed):
        raise DeclarationError((*path, field), f"no key {field} with op {feature.op}")
    if feature.op == "column":
        column = _column(found, (*path, "column"), feature.column)
        if isinstance(column, IdColumn):
            raise DeclarationError((*path, "column"), "a column of type number, flag or category", str(feature.column))
        if isinstance(column, CategoryColumn) and feature.default != 0.0:
            raise DeclarationError((*path, "default"), "no default for a category: a null becomes its unknown value")
        if sum(f.op == "column" and f.column == feature.column for f in found.requests) > 1:
            raise DeclarationError((*path, "column"), "one feature of a column at most", str(feature.column))
    for field in ("of", "by", "minus"):
        name = given.get(field)
        if name is None:
            continue
        if name not in names:
            raise DeclarationError((*path, field), "the name of a feature", str(name))
        if is_category(found, str(name)):
            raise DeclarationError((*path, field), "a feature that is a number", str(name))
        if feature.op == "missing" and not base_input(found.feature(str(name))):
            raise DeclarationError((*path, field), "a column, window or daily feature", str(name))


def is_category(found: Declaration, name: str) -> bool:
    """Whether the feature is a category, which has one vector column per value."""
    feature = found.feature(name)
    return isinstance(feature, RequestFeature) and feature.op == "column" and isinstance(
        found.column(feature.column or ""), CategoryColumn)  # fmt: skip


def _column(found: Declaration, path: tuple[str | int, ...], name: str | None) -> Column:
    if name is None:
        raise DeclarationError(path[:-1], "the key column")
    if name not in found.columns and name not in BUILT_IN:
        raise DeclarationError(path, f"one of {', '.join([*BUILT_IN, *found.columns])}", name)
    return found.column(name)


def _check_order(found: Declaration, lines: tuple[tuple[int, Feature], ...]) -> None:
    needs = {feature.name: dependencies(feature) for feature in found.features}
    done = set[str]()
    while ready := [name for name, others in needs.items() if name not in done and others <= done]:
        done.update(ready)
    for at, feature in lines:
        if feature.name not in done:
            raise DeclarationError(("features", at), "no cycle of features that need each other",
                                   f"{feature.name} needs {', '.join(sorted(needs[feature.name] - done))}")  # fmt: skip


def dependencies(feature: Feature) -> set[str]:
    """Names of the features from whose values this feature's value is computed."""
    found = {feature.default} if isinstance(feature.default, str) else set[str]()
    if isinstance(feature, RequestFeature):
        found |= {str(feature.operands[field]) for field in ("of", "by", "minus") if field in feature.operands}
    return found
