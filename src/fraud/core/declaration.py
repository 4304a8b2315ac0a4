"""The feature declaration: columns, entities and features of a team, as typed data with one canonical form.

`feature_repo/features.yaml` is its written form; docs/features.md describes it. A model version carries the canonical
form (JSON) with the category lists that its training found. `parse` reads both. `fraud.core.declaration_types` has the
parts, `fraud.core.declaration_checks` the rules between them.
"""

import json
from collections.abc import Iterator, Mapping
from hashlib import sha256
from math import isfinite
from typing import Annotated, Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fraud.core import declaration_types as types
from fraud.core.contract import US_PER_DAY
from fraud.core.declaration_checks import MAX_FEATURES, MAX_GROUPS, RESERVED, check
from fraud.core.declaration_types import (
    BUILT_IN,
    CategoryColumn,
    Column,
    DailyFeature,
    DeclarationError,
    Entity,
    Feature,
    RequestFeature,
    WindowFeature,
    base_input,
    dependencies,
    group_of,
)

__all__ = [
    "BUILT_IN", "MAX_GROUPS", "RESERVED", "Daily", "Declaration", "DeclarationError", "base_input", "dependencies",
    "group_of", "is_category", "parse",
]  # fmt: skip

LATENESS_US: Final = 7 * US_PER_DAY
"""`keep` is at least the longest window; without `keep` it is this much more."""
DEFAULT_MAX_EVENTS: Final = 1_024
_MAX_DEPTH: Final = 16
"""Of the written form, which is 5 levels deep."""
_MAX_INTEGER: Final = 2**63


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

    columns: dict[types.Name, Annotated[Column, Field(discriminator="type")]] = Field(
        default={},
        max_length=64,
        description="columns of a transaction in addition to transaction_id, event_timestamp, created_timestamp, "
        "user_id, merchant_id and amount",
    )
    entities: dict[types.Name, Entity] = Field(
        default={}, max_length=8, description="what window and daily features are computed over"
    )
    daily: Daily = Field(default=Daily(), description="of the daily features")
    features: tuple[Annotated[Feature, Field(discriminator="kind")], ...] = Field(
        min_length=1, max_length=MAX_FEATURES, description="in the order of the model's inputs"
    )

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
        """The declaration with the values of learnt category columns, by column (`columns.learnt_values`).

        Raises KeyError for a missing one.
        """
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
    values, as in a model version. A value of another type is refused, never converted.
    """
    _check_plain(written, ())
    try:
        found = Declaration.model_validate_json(json.dumps(written), strict=True)
    except ValidationError as error:
        raise _located(error, written) from error
    lines = tuple(_expanded(found.features))
    found = found.model_copy(update={"features": tuple(feature for _, feature in lines)})
    found = found.model_copy(update={"entities": dict(_with_defaults(found))})
    check(found, lines, learnt=learnt)
    return found


def is_category(found: Declaration, name: str) -> bool:
    """Whether the feature is a category, which has one vector column per value."""
    feature = found.feature(name)
    return isinstance(feature, RequestFeature) and feature.op == "column" and isinstance(
        found.column(feature.column or ""), CategoryColumn)  # fmt: skip


def _check_plain(value: object, path: tuple[str | int, ...]) -> None:
    """Refuse values that JSON does not have, such as the dates and infinities of YAML."""
    if len(path) > _MAX_DEPTH:
        raise DeclarationError(path, f"at most {_MAX_DEPTH} levels")
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise DeclarationError(path, "a key that is text", repr(key)[:100])
            _check_plain(inner, (*path, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            _check_plain(inner, (*path, i))
    elif isinstance(value, float) and not isfinite(value):
        raise DeclarationError(path, "a finite number", str(value))
    elif isinstance(value, int) and abs(value) > _MAX_INTEGER:
        raise DeclarationError(path, "a number of at most 64 bits")
    elif value is not None and not isinstance(value, str | int | float):
        raise DeclarationError(path, "text (in quotes), a number, true or false", f"{value} ({type(value).__name__})")


_TAGS: Final = {"request", "window", "daily", "number", "flag", "category", "id"}
"""Kinds and types, which pydantic puts into the location of an error after the feature's index or column's name."""

_WORDS: Final = {"an object": "a mapping", "a valid tuple": "a list", "Tuple": "List", "Dictionary": "Mapping",
                 " after validation": ""}  # fmt: skip
"""pydantic's words -> those of YAML."""


def _located(error: ValidationError, written: object) -> DeclarationError:
    """The first error, with its path in the file."""
    errors = [(_path(e["loc"], written), e) for e in error.errors(include_url=False)]
    place = errors[0][0]
    # A value that may have two types has an error for each; the one about the value says more than one about the type.
    first = min((e for path, e in errors if path[: len(place)] == place), key=lambda e: e["type"].endswith("_type"))
    path = _path(first["loc"], written)
    context, got = first.get("ctx", {}), repr(first.get("input"))[:100]
    match first["type"]:
        case "extra_forbidden":
            return DeclarationError(path, "a key that docs/features.md describes; this one is unknown")
        case "missing":
            return DeclarationError(path, f"the key {first['loc'][-1]}")
        case "union_tag_not_found":
            return DeclarationError(path, f"the key {context['discriminator'].strip(chr(39))}")
        case "union_tag_invalid":
            key = context["discriminator"].strip("'")
            return DeclarationError((*path, key), f"one of {context['expected_tags']}", repr(context["tag"]))
        case "string_pattern_mismatch":
            return DeclarationError(path, "a name: lower-case letters, digits and _, at most 63", got)
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    for word, meaning in _WORDS.items():
        message = message.replace(word, meaning)
    return DeclarationError(path, message[:1].lower() + message[1:], got)


def _path(loc: tuple[str | int, ...], written: object) -> tuple[str | int, ...]:
    """The parts of an error's location that the file contains: without kinds, types and names of validators."""
    if loc[:1] in (("columns",), ("features",)) and len(loc) > 2 and loc[2] in _TAGS:
        loc = (*loc[:2], *loc[3:])
    path, node = list[str | int](), written
    for part in loc:
        inside: dict[object, object] = dict(enumerate(node)) if isinstance(node, list) else {}
        inside = node if isinstance(node, dict) else inside
        if part in inside:
            node = inside[part]
            path.append(part)
    return tuple(path)


def _digest(meaning: object) -> str:
    return sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()


def _expanded(features: tuple[Feature, ...]) -> Iterator[tuple[int, Feature]]:
    """Each feature with the index of its line. A line with several windows becomes several features."""
    for at, line in enumerate(features):
        field, spans = "", tuple[int, ...]()
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
