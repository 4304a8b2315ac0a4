"""Parts of the transactions in which a model must not be much worse, and the loss of a model on one of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fraud.core.contract import US_PER_DAY
from fraud.core.declaration import Declaration
from fraud.core.declaration_types import FlagColumn, RequestFeature, duration_text
from fraud.core.plan import Plan
from fraud.stats.metrics import Interval

AMOUNT_BANDS: Final = (0.0, 50.0, 200.0, 1000.0, float("inf"))
"""USD."""
_WITHOUT_EVENTS: Final = ("count", "seconds_since_last", "mean", "distinct")
"""Aggregates that are 0 or null without an event (with a value) in the window. The first declared one is used."""


@dataclass(frozen=True, slots=True)
class SliceLoss:
    """A slice's recall at capacity: the opponent's minus the candidate's, with its interval."""

    name: str
    frauds: int
    candidate: float
    opponent: float
    loss: Interval


def slices(
    plan: Plan, base: Sequence[NDArray[np.float64]], amount: NDArray[np.float64]
) -> dict[str, NDArray[np.bool_]]:
    """Named subsets of n transactions, bool[n] each.

    Each category and each flag, amount bands, and for every entity the transactions without an event in a window of at
    least a day. `base`: float64[n] for each of `plan.vector.inputs`; `amount` USD, float64[n].
    """
    named = dict(zip((given.name for given in plan.vector.inputs), base, strict=True))
    found = dict(_of_columns(plan, named))
    for low, high in pairwise(AMOUNT_BANDS):
        name = f"amount {low:.0f} to {high:.0f} USD" if high < float("inf") else f"amount above {low:.0f} USD"
        found[name] = (amount > low) & (amount <= high)
    return found | dict(_without_history(plan.declaration, named))


def _of_columns(plan: Plan, named: Mapping[str, NDArray[np.float64]]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    flags = {
        feature.name
        for feature in plan.declaration.features
        if isinstance(feature, RequestFeature)
        and feature.op == "column"
        and isinstance(plan.declaration.column(feature.column or ""), FlagColumn)
    }
    for name, _, categories in plan.vector.inputs:
        for code, category in enumerate(categories):
            yield f"{name} {category}", named[name] == code
        if name in flags:
            yield f"{name} true", named[name] == 1.0
            yield f"{name} false", named[name] == 0.0
            yield f"{name} missing", np.isnan(named[name])


def _without_history(
    declaration: Declaration, named: Mapping[str, NDArray[np.float64]]
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    for entity in sorted(declaration.entities):
        windows = [w for w in declaration.windows(entity) if w.window_us >= US_PER_DAY]
        for span in sorted({w.window_us for w in windows}):
            of_span = [w for w in windows if w.window_us == span]
            chosen = next((w for kind in _WITHOUT_EVENTS for w in of_span
                           if w.aggregate == kind), None)  # fmt: skip
            if chosen is not None:
                values = named[chosen.name]
                yield f"{entity} without transactions in {duration_text(span)}", np.isnan(values) | (values == 0)
