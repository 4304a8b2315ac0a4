"""Build the float32 vector of a model from the values of a transaction, as its declaration says.

The features are computed in three steps: base values (columns, hour and day, window and daily features), imputation of
nulls, derived features. `row` computes one transaction, `table` many; both give the same bits.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fraud.core.declaration import Declaration, is_category
from fraud.core.declaration_types import (
    CategoryColumn,
    Feature,
    RequestFeature,
    base_input,
    dependencies,
    group_of,
    never_null,
)

HOUR: Final = 0
WEEKDAY: Final = 1
_TIME: Final = {"hour_of_day": HOUR, "day_of_week": WEEKDAY}
MAX_QUOTIENT: Final = 1e30
"""A larger quotient is null, as is one by 0: it would be infinite in float32, or in the features computed from it."""
Floats = NDArray[np.float64]
_FLOAT_BYTES: Final = 4
_ONE: Final = struct.pack("<f", 1.0)


class Input(NamedTuple):
    """A base value: what a vector is computed from."""

    name: str
    group: str
    """For the reasons of a decision."""
    categories: tuple[str, ...]
    """The values of a category, whose base value is an index into them; () for a number."""


class _Step(NamedTuple):
    """Sets slot `target` of many transactions from other slots. One of the other fields does it for one transaction."""

    target: int
    many: Callable[[list[Floats]], Floats]
    one: Callable[[list[Any]], float | None] | None = None
    constant: float | None = None
    """Replaces a null."""
    other: int = -1
    """The slot whose value replaces a null."""


class _Phase:
    """Steps for one transaction, whose features need only those of earlier phases: compute, then replace nulls."""

    __slots__ = ("constants", "derived", "others")

    def __init__(self, steps: Sequence[_Step]) -> None:
        self.derived = tuple((step.target, step.one) for step in steps if step.one is not None)
        self.constants = tuple((step.target, step.constant) for step in steps if step.constant is not None)
        self.others = tuple((step.target, step.other) for step in steps if step.other >= 0)


class _Run:
    """Numbers that lie side by side in the vector."""

    __slots__ = ("packer", "start", "values")

    def __init__(self, start: int, slots: Sequence[int]) -> None:
        self.start, self.packer = start * _FLOAT_BYTES, struct.Struct(f"<{len(slots)}f")
        self.values = _getter(slots)


def _getter(slots: Sequence[int]) -> Callable[[list[Any]], tuple[Any, ...]]:
    if len(slots) == 1:  # itemgetter of one index returns the bare value
        slot = slots[0]
        return lambda values: (values[slot],)
    return itemgetter(*slots)


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
        self._zeros = (0.0,) * len(derived)
        missing, phases = _steps(declaration, slots)
        self._missing = tuple((step.target, slots[f.of or ""]) for step, f in missing)
        self._phases = tuple(_Phase(steps) for steps in phases if steps)
        self._steps = (*(step for step, _ in missing), *(step for steps in phases for step in steps))
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
        self._runs = tuple(_runs(self._numbers))

    def row(self, out: NDArray[np.float32], base: Sequence[float | int | None]) -> None:
        """Fill `out` (float32[len(names)], contiguous, any content) from the base values of one transaction.

        None is null.
        """
        out.fill(0)
        self.write(out.data.cast("B"), 0, base)

    def write(self, buffer: bytearray | memoryview, offset: int, base: Sequence[float | int | None]) -> None:
        """`row` into a buffer of zeros: float32, little endian, from byte `offset`."""
        slots: list[Any] = [*base, *self._zeros]
        for target, of in self._missing:
            slots[target] = 1.0 if slots[of] is None else 0.0
        for phase in self._phases:
            for target, one in phase.derived:
                slots[target] = one(slots)
            for target, constant in phase.constants:
                if slots[target] is None:
                    slots[target] = constant
            for target, other in phase.others:
                if slots[target] is None:
                    slots[target] = slots[other]
        for run in self._runs:
            values = run.values(slots)
            try:
                run.packer.pack_into(buffer, offset + run.start, *values)
            except (OverflowError, struct.error):  # as in `table`: infinite beyond float32, NaN for a null
                with np.errstate(over="ignore"):
                    packed = np.array(values, dtype=np.float64).astype("<f4").tobytes()
                buffer[offset + run.start : offset + run.start + len(packed)] = packed
        for start, slot in self._blocks:
            at = offset + _FLOAT_BYTES * (start + slots[slot])
            buffer[at : at + _FLOAT_BYTES] = _ONE

    def table(self, base: Sequence[Floats]) -> NDArray[np.float32]:
        """`row` for n transactions: float32[n, len(names)]. `base`: float64[n] per input, NaN is null."""
        n = len(base[0])
        slots: list[Floats] = [np.asarray(column, dtype=np.float64) for column in base]
        slots += [np.zeros(n)] * len(self._zeros)
        for step in self._steps:
            slots[step.target] = step.many(slots)
        out = np.zeros((n, len(self.names)), dtype=np.float32)
        for position, slot in self._numbers:
            out[:, position] = slots[slot]
        rows = np.arange(n)
        for start, slot in self._blocks:
            out[rows, start + slots[slot].astype(np.int64)] = 1.0
        return out


def _runs(numbers: Sequence[tuple[int, int]]) -> Iterator[_Run]:
    """(position, slot) of the numbers, in order of position, as runs of neighbouring positions."""
    start, slots = 0, list[int]()
    for position, slot in numbers:
        if slots and position != start + len(slots):
            yield _Run(start, slots)
            slots = []
        if not slots:
            start = position
        slots.append(slot)
    if slots:
        yield _Run(start, slots)


def _time_slot(feature: Feature) -> int | None:
    return _TIME.get(feature.op) if isinstance(feature, RequestFeature) else None


def _categories(declaration: Declaration, feature: Feature) -> tuple[str, ...]:
    if not is_category(declaration, feature.name) or not isinstance(feature, RequestFeature):
        return ()
    column = declaration.column(feature.column or "")
    return (column.values or (column.unknown,)) if isinstance(column, CategoryColumn) else ()


def _steps(
    declaration: Declaration, slots: dict[str, int]
) -> tuple[list[tuple[_Step, RequestFeature]], list[list[_Step]]]:
    """First `missing`, which reads values before imputation; then each feature in a phase after those it needs."""
    missing = [
        (_missing(slots[f.name], slots[f.of or ""]), f)
        for f in declaration.features
        if isinstance(f, RequestFeature) and f.op == "missing"
    ]
    left = {f.name: f for f in declaration.features if not (isinstance(f, RequestFeature) and f.op == "missing")}
    done = {f.name for f in declaration.features} - left.keys()
    phases = []
    while left:
        ready = [f for f in left.values() if dependencies(f) <= done]
        phases.append([step for feature in ready for step in _steps_of(declaration, feature, slots)])
        for feature in ready:
            done.add(feature.name)
            del left[feature.name]
    return missing, phases


def _steps_of(declaration: Declaration, feature: Feature, slots: dict[str, int]) -> list[_Step]:
    target = slots[feature.name]
    if isinstance(feature, RequestFeature) and feature.op not in ("column", "hour_of_day", "day_of_week"):
        derived = _derived(feature, target, slots)
        return [derived, _imputed(feature, target, slots)] if feature.op == "ratio" else [derived]
    if _time_slot(feature) is not None or is_category(declaration, feature.name):
        return []
    return [] if never_null(feature) else [_imputed(feature, target, slots)]


def _missing(target: int, of: int) -> _Step:
    return _Step(target, lambda s: np.isnan(s[of]).astype(np.float64))


def _imputed(feature: Feature, target: int, slots: dict[str, int]) -> _Step:
    if isinstance(feature.default, str):
        other = slots[feature.default]
        return _Step(target, lambda s: np.where(np.isnan(s[target]), s[other], s[target]), other=other)
    constant = float(feature.default)
    return _Step(target, lambda s: np.where(np.isnan(s[target]), constant, s[target]), constant=constant)


def _derived(feature: RequestFeature, target: int, slots: dict[str, int]) -> _Step:
    if feature.op == "ratio":
        of, by = slots[feature.of or ""], slots[feature.by or ""]
        return _Step(target, lambda s: _all_divided(s[of], s[by]), lambda s: _divided(s[of], s[by]))
    if feature.op == "difference":
        of, minus = slots[feature.of or ""], slots[feature.minus or ""]
        return _Step(target, lambda s: s[of] - s[minus], lambda s: float(s[of]) - float(s[minus]))
    if feature.op == "day_in":
        days = frozenset(feature.days or ())
        return _Step(
            target, lambda s: np.isin(s[WEEKDAY], list(days)).astype(np.float64), lambda s: float(s[WEEKDAY] in days)
        )
    first, until = feature.first or 0, feature.until or 0
    if first <= until:
        return _Step(
            target,
            lambda s: ((first <= s[HOUR]) & (s[HOUR] < until)).astype(np.float64),
            lambda s: float(first <= s[HOUR] < until),
        )
    return _Step(
        target,
        lambda s: ((s[HOUR] >= first) | (s[HOUR] < until)).astype(np.float64),
        lambda s: float(s[HOUR] >= first or s[HOUR] < until),
    )


def _divided(of: float, by: float) -> float | None:
    if by == 0:
        return None
    quotient = float(of) / float(by)
    return quotient if -MAX_QUOTIENT <= quotient <= MAX_QUOTIENT else None


def _all_divided(of: Floats, by: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        quotient = of / by
    divided: Floats = np.where((by != 0) & (np.abs(quotient) <= MAX_QUOTIENT), quotient, np.nan)
    return divided
