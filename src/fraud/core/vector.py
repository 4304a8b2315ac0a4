"""Build the float32 vector of a model from the values of a transaction, as its declaration says.

The features are computed in three steps: base values (columns, hour and day, window and daily features), imputation of
nulls, derived features. `row` computes one transaction, `table` many; both give the same bits.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fraud.core.declaration import BUILT_IN, Declaration, base_input, dependencies, group_of, is_category
from fraud.core.declaration_types import CategoryColumn, Feature, RequestFeature

HOUR: Final = 0
WEEKDAY: Final = 1
_TIME: Final = {"hour_of_day": HOUR, "day_of_week": WEEKDAY}
Floats = NDArray[np.float64]


class Input(NamedTuple):
    """A base value: what a vector is computed from."""

    name: str
    group: str
    """For the reasons of a decision."""
    categories: tuple[str, ...]
    """The values of a category, whose base value is an index into them; () for a number."""


class _Step(NamedTuple):
    """Sets slot `target` of one transaction (`one`) or of many (`many`) from other slots."""

    target: int
    one: Callable[[list[Any]], float | None]
    many: Callable[[list[Floats]], Floats]


class Vector:
    """The vector of a declaration whose category lists are filled in."""

    def __init__(self, declaration: Declaration) -> None:
        base = [f for f in declaration.features if base_input(f) and _time_slot(f) is None]
        groups = {f.op: group_of(f) for f in declaration.requests if f.op in _TIME}
        self.inputs: Final = (
            Input("hour_of_day", groups.get("hour_of_day", "time"), ()),
            Input("day_of_week", groups.get("day_of_week", "time"), ()),
            *(Input(f.name, group_of(f), _categories(declaration, f)) for f in base),
        )
        """The base values, in the order in which `row` and `table` take them: hour (0..23, UTC), weekday (Monday = 0),
        then the columns, window and daily features in declared order."""
        slots = {f.name: 2 + i for i, f in enumerate(base)}
        slots |= {f.name: slot for f in declaration.features if (slot := _time_slot(f)) is not None}
        derived = [f for f in declaration.features if f.name not in slots]
        slots |= {f.name: 2 + len(base) + i for i, f in enumerate(derived)}
        self._derived = len(derived)
        self._steps = tuple(_steps(declaration, slots))
        self._numbers, self._blocks, names = list[tuple[int, int]](), list[tuple[int, int]](), list[str]()
        for feature in declaration.features:
            if not feature.input:
                continue
            categories, slot = _categories(declaration, feature), slots[feature.name]
            if categories:
                self._blocks.append((len(names), slot))
                names += [f"{feature.name}_{value}" for value in categories]
            else:
                self._numbers.append((len(names), slot))
                names.append(feature.name)
        self.names: Final = tuple(names)
        """The columns of the vector."""

    def row(self, out: NDArray[np.float32], base: Sequence[float | int | None]) -> None:
        """Fill `out` (float32[len(names)], any content) from the base values of one transaction; None is null."""
        slots: list[Any] = [*base, *([0.0] * self._derived)]
        for target, one, _ in self._steps:
            slots[target] = one(slots)
        values = [0.0] * len(self.names)
        for position, slot in self._numbers:
            values[position] = slots[slot]
        for start, slot in self._blocks:
            values[start + slots[slot]] = 1.0
        out[:] = values

    def table(self, base: Sequence[Floats]) -> NDArray[np.float32]:
        """`row` for n transactions: float32[n, len(names)]. `base`: float64[n] per input, NaN is null."""
        n = len(base[0])
        slots: list[Floats] = [np.asarray(column, dtype=np.float64) for column in base]
        slots += [np.zeros(n)] * self._derived
        for target, _, many in self._steps:
            slots[target] = many(slots)
        out = np.zeros((n, len(self.names)), dtype=np.float32)
        for position, slot in self._numbers:
            out[:, position] = slots[slot]
        rows = np.arange(n)
        for start, slot in self._blocks:
            out[rows, start + slots[slot].astype(np.int64)] = 1.0
        return out


def _time_slot(feature: Feature) -> int | None:
    return _TIME.get(feature.op) if isinstance(feature, RequestFeature) else None


def _categories(declaration: Declaration, feature: Feature) -> tuple[str, ...]:
    if not is_category(declaration, feature.name) or not isinstance(feature, RequestFeature):
        return ()
    column = declaration.column(feature.column or "")
    return (column.values or (column.unknown,)) if isinstance(column, CategoryColumn) else ()


def _steps(declaration: Declaration, slots: dict[str, int]) -> list[_Step]:
    """First `missing`, which reads values before imputation; then each feature after those it needs."""
    steps = [
        _missing(slots[f.name], slots[f.of or ""])
        for f in declaration.features
        if isinstance(f, RequestFeature) and f.op == "missing"
    ]
    left = {f.name: f for f in declaration.features if not (isinstance(f, RequestFeature) and f.op == "missing")}
    done = {f.name for f in declaration.features} - left.keys()
    while left:
        ready = [f for f in left.values() if dependencies(f) <= done]
        for feature in ready:
            steps += _steps_of(declaration, feature, slots)
            done.add(feature.name)
            del left[feature.name]
    return steps


def _steps_of(declaration: Declaration, feature: Feature, slots: dict[str, int]) -> list[_Step]:
    target = slots[feature.name]
    if isinstance(feature, RequestFeature) and feature.op not in ("column", "hour_of_day", "day_of_week"):
        derived = _derived(feature, target, slots)
        return [derived, _imputed(feature, target, slots)] if feature.op == "ratio" else [derived]
    if _time_slot(feature) is not None or is_category(declaration, feature.name):
        return []
    return [] if _never_null(feature) else [_imputed(feature, target, slots)]


def _never_null(feature: Feature) -> bool:
    if isinstance(feature, RequestFeature):
        return feature.column in BUILT_IN
    return feature.empty is not None


def _missing(target: int, of: int) -> _Step:
    return _Step(target, lambda s: 1.0 if s[of] is None else 0.0, lambda s: np.isnan(s[of]).astype(np.float64))


def _imputed(feature: Feature, target: int, slots: dict[str, int]) -> _Step:
    if isinstance(feature.default, str):
        other = slots[feature.default]
        return _Step(
            target,
            lambda s: s[other] if s[target] is None else s[target],
            lambda s: np.where(np.isnan(s[target]), s[other], s[target]),
        )
    constant = float(feature.default)
    return _Step(
        target,
        lambda s: constant if s[target] is None else s[target],
        lambda s: np.where(np.isnan(s[target]), constant, s[target]),
    )


def _derived(feature: RequestFeature, target: int, slots: dict[str, int]) -> _Step:
    if feature.op == "ratio":
        of, by = slots[feature.of or ""], slots[feature.by or ""]
        return _Step(target, lambda s: _divided(s[of], s[by]), lambda s: _all_divided(s[of], s[by]))
    if feature.op == "difference":
        of, minus = slots[feature.of or ""], slots[feature.minus or ""]
        return _Step(target, lambda s: float(s[of]) - float(s[minus]), lambda s: s[of] - s[minus])
    if feature.op == "day_in":
        days = frozenset(feature.days or ())
        return _Step(
            target, lambda s: float(s[WEEKDAY] in days), lambda s: np.isin(s[WEEKDAY], list(days)).astype(np.float64)
        )
    first, until = feature.first or 0, feature.until or 0
    if first <= until:
        return _Step(
            target,
            lambda s: float(first <= s[HOUR] < until),
            lambda s: ((first <= s[HOUR]) & (s[HOUR] < until)).astype(np.float64),
        )
    return _Step(
        target,
        lambda s: float(s[HOUR] >= first or s[HOUR] < until),
        lambda s: ((s[HOUR] >= first) | (s[HOUR] < until)).astype(np.float64),
    )


def _divided(of: float, by: float) -> float | None:
    return None if by == 0 else float(of) / float(by)


def _all_divided(of: Floats, by: Floats) -> Floats:
    zero = by == 0
    divided: Floats = np.where(zero, np.nan, of / np.where(zero, 1.0, by))
    return divided
