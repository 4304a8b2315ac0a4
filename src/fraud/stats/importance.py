"""Permutation importance: the average precision that a model loses when the values of one feature are shuffled.

(L. Breiman, Random Forests, 2001.) The columns of a feature are shuffled together, across the rows. A feature whose
information other features contain as well has a low importance, although the model uses it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fraud.core.plan import Plan
from fraud.stats.metrics import Ranked

REPEATS: Final = 5
MAX_ROWS: Final = 12_000
"""All frauds, and as many legitimate rows, evenly spaced and weighted, as fit below this number."""


class Importance(NamedTuple):
    """The loss of average precision by shuffling a feature: mean and standard deviation over the repeats."""

    name: str
    loss: float
    spread: float


def importances(
    predict: Callable[[NDArray[np.float32]], NDArray[np.floating]],
    vectors: NDArray[np.float32],
    is_fraud: NDArray[np.bool_],
    features: Mapping[str, Sequence[int]],
    seed: int,
) -> list[Importance]:
    """The importance of each feature, the largest loss first. `features`: name -> its columns in `vectors`.

    `predict` takes float32[n, d] and returns float[n]; it is called `1 + REPEATS * len(features)` times on at most
    MAX_ROWS rows. Empty without both classes.
    """
    frauds, legitimate = np.flatnonzero(is_fraud), np.flatnonzero(~is_fraud)
    if not len(frauds) or not len(legitimate):
        return []
    most = min(len(legitimate), max(MAX_ROWS - len(frauds), len(frauds)))
    kept = legitimate[np.linspace(0, len(legitimate) - 1, most).astype(np.int64)]
    chosen = np.sort(np.concatenate([frauds, kept]))
    rows, truth = vectors[chosen], is_fraud[chosen]
    weights = np.where(truth, 1.0, len(legitimate) / most)

    def precision(given: NDArray[np.float32]) -> float:
        return Ranked(predict(given), truth).tally(weights).average_precision()

    whole = precision(rows)
    found = []
    for number, (name, columns) in enumerate(features.items()):
        at, random = list(columns), np.random.default_rng([seed, number])
        shuffled = rows.copy()
        losses = []
        for _ in range(REPEATS):
            shuffled[:, at] = rows[random.permutation(len(rows))][:, at]
            losses.append(whole - precision(shuffled))
        found.append(Importance(name, float(np.mean(losses)), float(np.std(losses))))
    return sorted(found, key=lambda one: -one.loss)


def vector_columns(plan: Plan) -> dict[str, list[int]]:
    """The columns of the vector that each declared feature has, in declared order: one, or one per category."""
    widths = {given.name: max(1, len(given.categories)) for given in plan.vector.inputs}
    found, position = dict[str, list[int]](), 0
    for feature in plan.declaration.features:
        if feature.input:
            width = widths.get(feature.name, 1)
            found[feature.name] = list(range(position, position + width))
            position += width
    return found
