"""The features of a declaration as a table, and the differences between two declarations."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from fraud import printing
from fraud.core.columns import kind_of
from fraud.core.declaration import Declaration
from fraud.core.declaration_types import (
    DailyFeature,
    Feature,
    RequestFeature,
    WindowFeature,
    base_input,
    duration_text,
    group_of,
    never_null,
)
from fraud.core.plan import Plan
from fraud.job import JobResult


class FeatureRow(BaseModel):
    """One feature."""

    model_config = ConfigDict(frozen=True)

    name: str
    kind: str
    entity: str
    computation: str
    """Aggregate and column, or op and operands."""
    window: str
    """Of a window or daily feature."""
    type: str
    default: str
    """What a null becomes; empty for a feature that is never null."""
    group: str
    """For the reasons of a decision; empty for a feature that is derived from others."""
    inputs: int
    """Columns of the model's vector."""


class Listing(JobResult):
    """The features in declared order."""

    declaration: str
    feature_hash: str
    stored_hash: str
    columns: dict[str, str]
    entities: dict[str, str]
    features: tuple[FeatureRow, ...]
    inputs: int
    """Columns of the model's vector."""

    def as_text(self) -> str:
        """A table of the features, then columns and entities."""
        return "\n".join(
            [
                f"{self.declaration}: {len(self.features)} features, {self.inputs} inputs of the model",
                f"feature_hash {self.feature_hash[:12]}, stored_hash {self.stored_hash[:12]}",
                "", *printing.table(row.model_dump() for row in self.features),
                "", "columns", *(f"  {name}: {text}" for name, text in self.columns.items()),
                "", "entities", *(f"  {name}: {text}" for name, text in self.entities.items()),
            ]
        )  # fmt: skip


class Change(BaseModel):
    """Keys of a feature, column or entity that differ."""

    model_config = ConfigDict(frozen=True)

    name: str
    keys: dict[str, tuple[Any, Any]]
    """Key -> values in the first and in the second declaration; None for an absent key."""


class Differences(JobResult):
    """From the first declaration to the second."""

    first: str
    second: str
    same: bool
    """Whether the two have one meaning."""
    added: dict[str, tuple[str, ...]]
    """`columns`, `entities`, `features` and `inputs` that only the second has."""
    removed: dict[str, tuple[str, ...]]
    changed: dict[str, tuple[Change, ...]]
    """Of columns, entities and features that both have."""
    reordered: bool
    """Whether features that both have are in another order, so that the inputs of the model are."""
    work: tuple[str, ...]
    """What must be done before a version with the second declaration can be promoted, if the first is in use."""

    def as_text(self) -> str:
        """Signs as in a patch: + added, - removed, ~ changed."""
        if self.same:
            return f"{self.first} and {self.second} have the same features"
        lines = [f"from {self.first} to {self.second}"]
        for what in ("columns", "entities", "features", "inputs"):
            entries = [f"  + {name}" for name in self.added.get(what, ())]
            entries += [f"  - {name}" for name in self.removed.get(what, ())]
            for change in self.changed.get(what, ()):
                keys = (f"{key}: {_text(old)} -> {_text(new)}" for key, (old, new) in change.keys.items())
                entries.append(f"  ~ {change.name}  {', '.join(keys)}")
            lines += ["", what, *entries] if entries else []
        lines += ["", "the features are in another order"] if self.reordered else []
        return "\n".join([*lines, "", "to do", *(f"  {line}" for line in self.work or ("train a version",))])


def listed(named: str, declaration: Declaration) -> Listing:
    """The table of a declaration."""
    plan = Plan(declaration)
    return Listing(
        declaration=named, feature_hash=plan.hash, stored_hash=plan.stored_hash,
        columns={name: kind_of(column) for name, column in declaration.columns.items()},
        entities={name: _entity(declaration, name) for name in declaration.entities},
        features=tuple(_row(plan, feature) for feature in declaration.features), inputs=len(plan.vector.names),
    )  # fmt: skip


def compared(one: tuple[str, Declaration], other: tuple[str, Declaration]) -> Differences:
    """The differences of two named declarations. Learnt category lists are compared as inputs of the model only."""
    (first, old), (second, new) = one, other
    before, after = _parts(old), _parts(new)
    inputs = tuple(Plan(declaration).vector.names for declaration in (old, new))
    added = {what: tuple(n for n in after[what] if n not in before[what]) for what in before}
    removed = {what: tuple(n for n in before[what] if n not in after[what]) for what in before}
    added["inputs"] = tuple(n for n in inputs[1] if n not in set(inputs[0]))
    removed["inputs"] = tuple(n for n in inputs[0] if n not in set(inputs[1]))
    changed = {
        what: tuple(
            Change(name=name, keys=keys)
            for name, value in before[what].items()
            if name in after[what] and (keys := _keys(value, after[what][name]))
        )
        for what in before
    }
    shared = [[n for n in d["features"] if n in before["features"] and n in after["features"]] for d in (before, after)]
    return Differences(
        first=first, second=second, same=old.hash == new.hash and inputs[0] == inputs[1], added=added,
        removed=removed, changed=changed, reordered=shared[0] != shared[1], work=tuple(_work(old, new)),
    )  # fmt: skip


def _work(old: Declaration, new: Declaration) -> list[str]:
    """What a version with the new declaration needs that one with the old one does not."""
    before, after = Plan(old), Plan(new)
    layouts = {s.layout.id for s in before.windows}
    known = {table.id for table in before.tables}
    daily = [table for table in after.tables if table.id not in known]
    work = [f"build: daily table of {t.entity} ({t.id}), {len(t.names)} features: fraud build-daily" for t in daily]
    if old.stored_hash != new.stored_hash:
        work.append(f"build: the feature values of every day ({new.stored_hash[:12]}): fraud build-features")
    work += [
        f"load: history of {s.layout.entity} ({s.layout.id}), {s.layout.record.itemsize} bytes per event: "
        "fraud materialize"
        for s in after.windows
        if s.layout.id not in layouts
    ]
    work += [f"load: daily table of {table.entity} ({table.id}): fraud materialize" for table in daily]
    work += [
        f"kept until no alias needs it: history of {s.layout.entity} ({s.layout.id})"
        for s in before.windows
        if s.layout.id not in {t.layout.id for t in after.windows}
    ]
    work += [
        f"kept until no alias needs it: daily table of {table.entity} ({table.id})"
        for table in before.tables
        if table.id not in {t.id for t in after.tables}
    ]
    return work + (["train a version with the new inputs: fraud train"] if old.hash != new.hash else [])


def _parts(declaration: Declaration) -> dict[str, dict[str, Any]]:
    """Columns, entities and features by name, in canonical form."""
    meaning = json.loads(declaration.canonical())
    for column in meaning["columns"].values():
        if "learn" in column:
            column.pop("values", None)
    return {
        "columns": meaning["columns"], "entities": meaning["entities"],
        "features": {feature["name"]: feature for feature in meaning["features"]},
    }  # fmt: skip


def _keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = [*old, *(name for name in new if name not in old)]
    return {name: (old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)}


def _row(plan: Plan, feature: Feature) -> FeatureRow:
    vector = plan.vector
    inputs = next((i for i in vector.inputs if i.name == feature.name), None)
    columns = 0 if not feature.input else len(inputs.categories or (1,)) if inputs else 1
    return FeatureRow(
        name=feature.name, kind=feature.kind, entity="" if isinstance(feature, RequestFeature) else feature.entity,
        computation=_computation(feature), window=_window(feature),
        type="category" if inputs and inputs.categories else _dtype(feature),
        default=_default(plan, feature), group=group_of(feature) if base_input(feature) else "", inputs=columns,
    )  # fmt: skip


def _computation(feature: Feature) -> str:
    if not isinstance(feature, RequestFeature):
        of = f" of {feature.column}" if feature.column else ""
        value = f" = {feature.value}" if isinstance(feature, WindowFeature) and feature.value else ""
        return f"{feature.aggregate}{of}{value}"
    texts = {
        "ratio": f"{feature.of} / {feature.by}",
        "difference": f"{feature.of} - {feature.minus}",
        "hour_between": f"hour from {feature.first} until {feature.until}",
        "day_in": f"day of week in {', '.join(map(str, feature.days or ()))}",
        "missing": f"{feature.of} is null",
        "column": f"column {feature.column}",
    }
    return texts.get(feature.op, feature.op)


def _dtype(feature: Feature) -> str:
    return "float64" if isinstance(feature, RequestFeature) else feature.dtype


def _window(feature: Feature) -> str:
    if isinstance(feature, WindowFeature):
        return duration_text(feature.window_us)
    if isinstance(feature, DailyFeature):
        delay = f", labels after {feature.label_delay_days} d" if feature.aggregate == "fraud_rate" else ""
        return f"{feature.span_days} d{delay}"
    return ""


def _default(plan: Plan, feature: Feature) -> str:
    if never_null(feature) or any(i.name == feature.name and i.categories for i in plan.vector.inputs):
        return ""
    return feature.default if isinstance(feature.default, str) else printing.figure(feature.default)


def _entity(declaration: Declaration, name: str) -> str:
    entity = declaration.entities[name]
    if entity.max_events is None or entity.keep is None:
        return f"{entity.id}; daily features only"
    return f"{entity.id}; the last {entity.max_events:,} events of {duration_text(entity.keep)}"


def _text(value: object) -> str:
    return "none" if value is None else str(value)
