"""The inputs of a model version that drift compares, and their values in a table."""

from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fraud.core.contract import US_PER_DAY, US_PER_HOUR
from fraud.core.declaration_types import CategoryColumn, RequestFeature
from fraud.core.plan import Plan

TRANSACTION: Final = "transaction"
_OF_HOUR: Final = frozenset({"hour_of_day", "hour_between"})


class Compared(NamedTuple):
    """An input whose distribution is compared."""

    name: str
    kind: str
    """number, flag, category, window, daily, or time."""
    entity: str
    """The entity of a window or daily feature; TRANSACTION for the others."""
    column: str
    """Column of `features` and of the reference; empty for the hour of the event time."""
    unknown: str | None = None
    """The value of a category that stands for all other texts; None for another kind."""
    learnt: tuple[str, ...] | None = None
    """The list of a category whose values were found at training; other texts are compared as `unknown`."""

    @property
    def categorical(self) -> bool:
        """Whether the values are compared one by one, and not by deciles."""
        return self.kind in ("category", "flag")


def compared(plan: Plan) -> tuple[Compared, ...]:
    """The hour, if the model has a feature of it, then columns, window and daily features in declared order.

    The day of the week is not compared: its distribution depends on the days of the window. Derived features are not
    compared: they would count the same change twice.
    """
    declaration = plan.declaration
    hour, _, *given = plan.vector.inputs
    found = (
        [Compared(hour.name, "time", TRANSACTION, "")] if any(f.op in _OF_HOUR for f in declaration.requests) else []
    )
    for one, source in zip(given, plan.sources, strict=True):
        feature = declaration.feature(one.name)
        if not isinstance(feature, RequestFeature):
            found.append(Compared(one.name, feature.kind, feature.entity, one.name))
            continue
        column = declaration.column(source.column or "")
        unknown = column.unknown if isinstance(column, CategoryColumn) else None
        learnt = one.categories if isinstance(column, CategoryColumn) and column.learn else None
        found.append(Compared(one.name, column.type, TRANSACTION, source.column or "", unknown, learnt))
    return tuple(found)


def warm_up_us(plan: Plan) -> int:
    """The longest span of a window or daily feature, after which it is complete."""
    windows = [feature.window_us for feature in plan.declaration.windows()]
    return max([*windows, *((table.days_before + 1) * US_PER_DAY for table in plan.tables)], default=0)


def values(table: pa.Table, one: Compared) -> NDArray[Any]:
    """The values of n rows, [n]: float64 with NaN where missing, or for a categorical one objects with None."""
    if one.kind == "time":
        hours: NDArray[np.float64] = (table["event_timestamp"].cast(pa.int64()).to_numpy() // US_PER_HOUR % 24) * 1.0
        return hours
    column = table[one.column]
    if not one.categorical:
        numbers: NDArray[np.float64] = pc.fill_null(column.cast(pa.float64()), np.nan).to_numpy()
        return numbers
    texts = column.cast(pa.string())
    if one.learnt is not None:
        others = pc.and_(pc.is_valid(texts), pc.invert(pc.is_in(texts, pa.array(one.learnt))))
        texts = pc.if_else(others, one.unknown, texts)
    return np.array(texts.to_pylist(), dtype=object)


def missing(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a value is missing, bool[n]."""
    return np.equal(values, None) if values.dtype == object else np.isnan(values)  # type: ignore[call-overload, no-any-return]
