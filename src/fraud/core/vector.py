"""Build the float32 vector of a model from the values of a transaction, as its declaration says.

The features are computed in three steps: base values (columns, hour and day, window and daily features), imputation of
nulls, derived features. `row` computes one transaction, `table` many; both give the same bits.
"""

import struct
from collections.abc import Callable, Mapping, Sequence
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
    quotient: tuple[int, int] | None = None
    """The slots of a ratio's parts."""
    difference: tuple[int, int] | None = None
    """The slots of a difference's parts."""
    of_time: tuple[int, Mapping[int, float]] | None = None
    """The slot of the hour or weekday, and the value for each."""
    constant: float | None = None
    """Replaces a null."""
    other: int = -1
    """The slot whose value replaces a null."""


class _Phase:
    """Steps for one transaction, whose features need only those of earlier phases: compute, then replace nulls."""

    __slots__ = ("constants", "differences", "others", "quotients")

    def __init__(self, steps: Sequence[_Step]) -> None:
        self.quotients = tuple((step.target, *step.quotient) for step in steps if step.quotient is not None)
        self.differences = tuple((step.target, *step.difference) for step in steps if step.difference is not None)
        self.constants = tuple((step.target, step.constant) for step in steps if step.constant is not None)
        self.others = tuple((step.target, step.other) for step in steps if step.other >= 0)


def _getter(slots: Sequence[int]) -> Callable[[list[Any]], tuple[Any, ...]]:
    if len(slots) < 2:  # itemgetter of one index returns the bare value
        return lambda values: tuple(values[slot] for slot in slots)
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
        of_time = [(step.target, *step.of_time) for steps in phases for step in steps if step.of_time is not None]
        self._of_time = tuple(of_time)
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
        self._packer = struct.Struct(_format(self._numbers, len(names)))
        self._packed = _getter([slot for _, slot in self._numbers])

    def row(self, out: NDArray[np.float32], base: Sequence[float | int | None]) -> None:
        """Fill `out` (float32[len(names)], contiguous, any content) from the base values of one transaction.

        None is null.
        """
        self.write(out.data.cast("B"), 0, base)

    def write(self, buffer: bytearray | memoryview, offset: int, base: Sequence[float | int | None]) -> None:
        """`row` into a buffer with any content: float32, little endian, from byte `offset`."""
        slots: list[Any] = [*base, *self._zeros]
        for target, of in self._missing:
            slots[target] = 1.0 if slots[of] is None else 0.0
        for target, of, found in self._of_time:
            slots[target] = found[slots[of]]
        for phase in self._phases:
            for target, of, by in phase.quotients:
                slots[target] = _divided(slots[of], slots[by])
            for target, of, minus in phase.differences:
                slots[target] = float(slots[of]) - float(slots[minus])
            for target, constant in phase.constants:
                if slots[target] is None:
                    slots[target] = constant
            for target, other in phase.others:
                if slots[target] is None:
                    slots[target] = slots[other]
        numbers = self._packed(slots)
        try:
            self._packer.pack_into(buffer, offset, *numbers)
        except (OverflowError, struct.error):  # as in `table`: infinite beyond float32, NaN for a null
            row = np.zeros(len(self.names), dtype="<f4")
            with np.errstate(over="ignore"):
                row[[position for position, _ in self._numbers]] = np.array(numbers, dtype=np.float64)
            buffer[offset : offset + row.nbytes] = row.tobytes()
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


def _format(numbers: Sequence[tuple[int, int]], width: int) -> str:
    """The format for `struct` of a vector of `width` columns that has numbers at (position, slot) and zeros between."""
    text, end = "<", 0
    for position, _ in numbers:
        text += f"{_FLOAT_BYTES * (position - end)}xf"
        end = position + 1
    return f"{text}{_FLOAT_BYTES * (width - end)}x"


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
        return _Step(target, lambda s: _all_divided(s[of], s[by]), quotient=(of, by))
    if feature.op == "difference":
        of, minus = slots[feature.of or ""], slots[feature.minus or ""]
        return _Step(target, lambda s: s[of] - s[minus], difference=(of, minus))
    if feature.op == "day_in":
        days = frozenset(feature.days or ())
        return _Step(
            target,
            lambda s: np.isin(s[WEEKDAY], list(days)).astype(np.float64),
            of_time=(WEEKDAY, {day: float(day in days) for day in range(7)}),
        )
    first, until = feature.first or 0, feature.until or 0

    def inside(hour: Floats) -> NDArray[np.bool_]:
        return (first <= hour) & (hour < until) if first <= until else (hour >= first) | (hour < until)

    every = np.arange(24, dtype=np.float64)
    return _Step(
        target,
        lambda s: inside(s[HOUR]).astype(np.float64),
        of_time=(HOUR, dict(enumerate(inside(every).astype(np.float64).tolist()))),
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
