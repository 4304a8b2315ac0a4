"""Rules between the parts of a declaration. `fraud.core.declaration.parse` applies them; all raise DeclarationError."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from fraud.core.declaration_types import (
    AGGREGATES,
    BUILT_IN,
    DAILY_AGGREGATES,
    LABEL_DELAY_DAYS,
    OPERANDS,
    STRENGTH,
    CategoryColumn,
    Column,
    DailyFeature,
    DeclarationError,
    Feature,
    IdColumn,
    NumberColumn,
    RequestFeature,
    WindowFeature,
    base_input,
    dependencies,
    duration_text,
    group_of,
    is_name,
    never_null,
)

if TYPE_CHECKING:
    from fraud.core.declaration import Declaration

Path = tuple[str | int, ...]
Lines = tuple[tuple[int, Feature], ...]
RESERVED: Final = frozenset(
    {
        "transaction_id", "event_timestamp", "created_timestamp", "event_us", "served_us", "latency_us", "dt",
        "prediction_id", "parse_error", "position", "reason", "is_fraud", "label_timestamp", "threshold", "degraded",
        "history", "fraud_probability", "model_version", "model_sha256", "feature_hash", "challenger_version",
        "challenger_probability", "transaction_velocity", "repeated", "reasons", "columns", "features", "sequences",
        "newest_us", "snapshots", "name", "source", "label", "traceparent",
    }
)  # fmt: skip
"""Names of the platform's own columns and fields, and of a mapping's keys, which a declaration cannot use."""
_TIME: Final = ("hour_of_day", "day_of_week")
_PER_ENTITY: Final = ("sequence", "newest_us", "snapshot")
"""The prediction log has these columns with the name of each entity."""
MAX_FEATURES: Final = 256
MAX_INPUTS: Final = 1_024
"""Columns of the vector."""
MAX_GROUPS: Final = 12
MAX_DEPTH: Final = 8
"""Features that are computed one after another. Differences of values of at most 1e30 then fit into float32."""
MAX_UNITS: Final = 2**50
"""Of a stored number: the sum of 4,096 of them, the longest history, fits into int64."""


def check(found: "Declaration", lines: Lines, *, learnt: bool) -> None:
    """Raise DeclarationError for the first rule that is broken. `lines`: the features with the index of their line."""
    if len(lines) > MAX_FEATURES:
        raise DeclarationError(("features",), f"at most {MAX_FEATURES} features", str(len(lines)))
    for name, column in found.columns.items():
        _check_column(found, name, column, learnt=learnt)
    _check_entities(found)
    names = _check_names(found, lines)
    for at, feature in lines:
        _check_feature(found, names, ("features", at), feature)
    _check_order(found, lines)
    _check_inputs(found, lines)
    groups = {group_of(f) for f in found.features if base_input(f)}
    if len(groups) > MAX_GROUPS:
        got = f"{len(groups)}: {', '.join(sorted(groups))}"
        raise DeclarationError(("features",), f"at most {MAX_GROUPS} groups of inputs", got)


def _check_column(found: "Declaration", name: str, column: Column, *, learnt: bool) -> None:
    path = ("columns", name)
    own = {f"{field}_{entity}" for field in _PER_ENTITY for entity in found.entities}
    if name in BUILT_IN or name in RESERVED or name in _TIME or name in own:
        raise DeclarationError(path, "another name: this one is the platform's own")
    if isinstance(column, NumberColumn):
        _check_number(path, column)
    if not isinstance(column, CategoryColumn):
        return
    if column.learn is None and column.values is None:
        raise DeclarationError(path, "the key values (a closed list) or learn (a number of categories)")
    if column.learn is not None and column.values is not None and not learnt:
        raise DeclarationError(path, "values or learn, not both")
    values = column.values or ()
    if len(set(values)) < len(values):
        raise DeclarationError((*path, "values"), "each value once")
    if values and column.unknown not in values:
        raise DeclarationError((*path, "unknown"), f"one of the values: {', '.join(values)}", column.unknown)


def _check_number(path: Path, column: NumberColumn) -> None:
    if not column.min < column.max:
        raise DeclarationError((*path, "max"), f"a number above min ({column.min:g})", f"{column.max:g}")
    if column.decimals is None:
        return
    for key, bound in (("min", column.min), ("max", column.max)):
        if round(bound, column.decimals) != bound:
            # A rounded value would be outside the bounds when it is checked again.
            raise DeclarationError((*path, key), f"a bound of at most {column.decimals} decimals", str(bound))
        if abs(bound) * 10**column.decimals > MAX_UNITS:
            expected = f"a bound of at most {MAX_UNITS / 10**column.decimals:.6g} with {column.decimals} decimals"
            raise DeclarationError((*path, key), expected, f"{bound:g}")


def _check_entities(found: "Declaration") -> None:
    for name, entity in found.entities.items():
        path = ("entities", name)
        if entity.id not in found.columns and entity.id not in BUILT_IN:
            ids = [n for n, c in {**BUILT_IN, **found.columns}.items() if isinstance(c, IdColumn)]
            raise DeclarationError((*path, "id"), f"one of {', '.join(ids)}", entity.id)
        if not isinstance(found.column(entity.id), IdColumn):
            raise DeclarationError((*path, "id"), "a column of type id", entity.id)
        windows = found.windows(name)
        longest = max((f.window_us for f in windows), default=0)
        if entity.keep is not None and entity.keep < longest:
            expected = f"at least the longest window of the entity, {duration_text(longest)}"
            raise DeclarationError((*path, "keep"), expected, duration_text(entity.keep))


def _check_names(found: "Declaration", lines: Lines) -> frozenset[str]:
    names = set[str]()
    own = {f"{field}_{entity}" for field in _PER_ENTITY for entity in found.entities}
    for at, feature in lines:
        path = ("features", at, "name")
        if feature.name in names:
            raise DeclarationError(path, "each name once", feature.name)
        if not is_name(feature.name):
            raise DeclarationError(path, "a name: lower-case letters, digits and _, at most 63", feature.name)
        request = feature if isinstance(feature, RequestFeature) else None
        if feature.name in RESERVED | own or (feature.name in _TIME and (request is None or request.op not in _TIME)):
            raise DeclarationError(path, "another name: this one is the platform's own", feature.name)
        columns = {**BUILT_IN, **found.columns}
        own_column = request is not None and (request.column == feature.name or request.column not in {None, *columns})
        if feature.name in columns and not own_column:
            raise DeclarationError(path, "another name: this one is a column's", feature.name)
        names.add(feature.name)
    return frozenset(names)


def _check_feature(found: "Declaration", names: frozenset[str], path: Path, feature: Feature) -> None:
    if isinstance(feature, RequestFeature):
        _check_request(found, names, path, feature)
    else:
        _check_aggregate(found, path, feature)
    if feature.default == 0.0:
        return
    if isinstance(feature.default, str) and (feature.default not in names or _is_category(found, feature.default)):
        raise DeclarationError((*path, "default"), "a number, or the name of a feature that is one", feature.default)
    if never_null(feature) or _is_category(found, feature.name):
        expected = "no default: the feature has a value for every transaction"
        raise DeclarationError((*path, "default"), expected, str(feature.default))


def _check_aggregate(found: "Declaration", path: Path, feature: WindowFeature | DailyFeature) -> None:
    if feature.entity not in found.entities:
        raise DeclarationError((*path, "entity"), f"one of {', '.join(found.entities) or 'entities'}", feature.entity)
    rules: Mapping[str, tuple[str, ...]] = AGGREGATES if isinstance(feature, WindowFeature) else DAILY_AGGREGATES
    _check_aggregated(found, (*path, "column"), feature, rules[feature.aggregate])
    if isinstance(feature, DailyFeature):
        if feature.aggregate != "fraud_rate" and feature.label_delay_days != LABEL_DELAY_DAYS:
            raise DeclarationError((*path, "label_delay_days"), "no label_delay_days: only fraud_rate reads labels")
        if feature.aggregate != "fraud_rate" and feature.strength != STRENGTH:
            raise DeclarationError((*path, "strength"), "no strength: only fraud_rate has one")
        return
    column = None if feature.column is None else found.column(feature.column)
    of_category = feature.aggregate == "share" and isinstance(column, CategoryColumn)
    if feature.value is not None and not of_category:
        raise DeclarationError((*path, "value"), "value with the share of a category column, and only there")
    if feature.value is None and of_category:
        raise DeclarationError(path, "the key value with the share of a category column")
    values = column.values if isinstance(column, CategoryColumn) and column.learn is None else None
    if feature.value is not None and values is not None and feature.value not in values:
        raise DeclarationError((*path, "value"), f"one of {', '.join(values)}", feature.value)


def _check_aggregated(
    found: "Declaration", path: Path, feature: WindowFeature | DailyFeature, kinds: tuple[str, ...]
) -> None:
    if not kinds:
        if feature.column is not None:
            raise DeclarationError(path, f"no column: {feature.aggregate} has none", feature.column)
        return
    column = _column(found, path, feature.column)
    if column.type not in kinds:
        raise DeclarationError(path, f"a column of type {' or '.join(kinds)}", f"{feature.column} ({column.type})")
    if isinstance(column, NumberColumn) and column.decimals is None:
        expected = "a number column with decimals: aggregates are computed from integers"
        raise DeclarationError(path, expected, str(feature.column))


def _check_request(found: "Declaration", names: frozenset[str], path: Path, feature: RequestFeature) -> None:
    needed, given = OPERANDS[feature.op], feature.operands
    for field in sorted(needed - given.keys()):
        raise DeclarationError(path, f"the key {field} with op {feature.op}")
    for field in sorted(given.keys() - needed):
        raise DeclarationError((*path, field), f"no key {field} with op {feature.op}", str(given[field]))
    if feature.op in _TIME and sum(f.op == feature.op for f in found.requests) > 1:
        raise DeclarationError((*path, "op"), f"one feature with op {feature.op} at most")
    if feature.op == "column":
        column = _column(found, (*path, "column"), feature.column)
        if isinstance(column, IdColumn):
            raise DeclarationError((*path, "column"), "a column of type number, flag or category", str(feature.column))
        if sum(f.op == "column" and f.column == feature.column for f in found.requests) > 1:
            raise DeclarationError((*path, "column"), "one feature of a column at most", str(feature.column))
    for field in ("of", "by", "minus"):
        name = given.get(field)
        if name is None:
            continue
        if name not in names:
            raise DeclarationError((*path, field), "the name of a feature", str(name))
        if _is_category(found, str(name)):
            raise DeclarationError((*path, field), "a feature that is a number, not a category", str(name))
        if feature.op == "missing" and not base_input(found.feature(str(name))):
            raise DeclarationError((*path, field), "a column, window or daily feature", str(name))


def _is_category(found: "Declaration", name: str) -> bool:
    return _categories(found, found.feature(name)) is not None


def _categories(found: "Declaration", feature: Feature) -> CategoryColumn | None:
    """The column of a feature that is a category; None for a number."""
    if not isinstance(feature, RequestFeature) or feature.op != "column":
        return None
    column = found.column(feature.column or "")
    return column if isinstance(column, CategoryColumn) else None


def _column(found: "Declaration", path: Path, name: str | None) -> Column:
    if name is None:
        raise DeclarationError(path[:-1], "the key column")
    if name not in found.columns and name not in BUILT_IN:
        raise DeclarationError(path, f"one of {', '.join([*BUILT_IN, *found.columns])}", name)
    return found.column(name)


def _check_order(found: "Declaration", lines: Lines) -> None:
    needs = {feature.name: dependencies(feature) for feature in found.features}
    done, steps = set[str](), 0
    while ready := [name for name, others in needs.items() if name not in done and others <= done]:
        done.update(ready)
        steps += 1
        if steps > MAX_DEPTH:
            at = next(at for at, feature in lines if feature.name == ready[0])
            expected = f"at most {MAX_DEPTH} features that are computed one after another"
            raise DeclarationError(("features", at), expected, ready[0])
    for at, feature in lines:
        if feature.name not in done:
            raise DeclarationError(("features", at), "no cycle of features that need each other",
                                   f"{feature.name} needs {', '.join(sorted(needs[feature.name] - done))}")  # fmt: skip


def _check_inputs(found: "Declaration", lines: Lines) -> None:
    """The columns of the vector: at least one, not too many, with different names."""
    names, total = {feature.name for feature in found.features}, 0
    for at, feature in lines:
        if not feature.input:
            continue
        column = _categories(found, feature)
        if column is None:
            total += 1
            continue
        total += len(column.values or ()) if column.learn is None else column.learn + 1
        prefix = f"{feature.name}_"
        same = sorted(n for n in names if n.startswith(prefix) and (
            column.learn is not None or n.removeprefix(prefix) in (column.values or ())))  # fmt: skip
        other = sorted(f.name for f in found.features if f.input and f.name.startswith(prefix)
                       and _categories(found, f) is not None)  # fmt: skip
        if same or other:
            expected = f"a name that is not the beginning of {(same or other)[0]}: the inputs of a category are named "
            raise DeclarationError(("features", at, "name"), f"{expected}{prefix}<value>", feature.name)
    if not 1 <= total <= MAX_INPUTS:
        raise DeclarationError(("features",), f"1 to {MAX_INPUTS} inputs of the model", str(total))
