"""Compare models on the same rows: figures with intervals, paired differences, slices, selection of a level.

Every comparison uses the same resamples for all models, so that common noise cancels.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple, Self, get_args

import numpy as np
from numpy.typing import NDArray

from fraud.stats.costs import Costs
from fraud.stats.metrics import Floats, Interval, Ranked, interval, resamples
from fraud.stats.slices import SliceLoss

Measure = Literal["average_precision", "auc", "recall", "saved_per_1000", "expected_over_seen"]
MEASURES: Final[tuple[Measure, ...]] = get_args(Measure)
"""Recall and savings are those at the alert capacity."""


class Rows(NamedTuple):
    """Rows on which models are compared. `users` int[n], 0..m-1, are the groups of the bootstrap."""

    vectors: NDArray[np.float32]
    """float32[n, d], the input of the model."""
    is_fraud: NDArray[np.bool_]
    users: NDArray[np.int64]
    amount: NDArray[np.float64]
    """USD."""
    hour: NDArray[np.int64]
    """0..23, UTC."""
    slices: Mapping[str, NDArray[np.bool_]] = {}
    """Named subsets, bool[n] each (`fraud.stats.slices`)."""

    def at(self, chosen: slice) -> Self:
        """Some of the rows; `users` keep their numbers."""
        return self._replace(
            vectors=self.vectors[chosen], is_fraud=self.is_fraud[chosen], users=self.users[chosen],
            amount=self.amount[chosen], hour=self.hour[chosen],
            slices={name: mask[chosen] for name, mask in self.slices.items()},
        )  # fmt: skip


class Compared:
    """Figures of several models over one set of resamples. Models are numbered in the given order."""

    def __init__(
        self, rows: Rows, probabilities: Sequence[NDArray[np.floating]], costs: Costs, *, resamplings: int, seed: int
    ) -> None:
        """`probabilities` float[n] of each model. `rows` need both classes."""
        self._gains = costs.gains(rows.amount, rows.is_fraud)
        self._rows, self._costs = rows, costs
        self._models = [(Ranked(p, rows.is_fraud), p.astype(np.float64)) for p in probabilities]
        self.value = self._figures(None)
        self._drawn = np.array([self._figures(weights) for weights in resamples(rows.users, resamplings, seed)])

    def _figures(self, weights: Floats | None) -> Floats:
        """float64[models, measures]."""
        return np.array([self._of_model(ranked, p, weights) for ranked, p in self._models])

    def _of_model(self, ranked: Ranked, probability: Floats, weights: Floats | None) -> list[float]:
        tally = ranked.tally(weights)
        chances = tally.chances(self._costs.capacity)
        seen, rows = float(tally.frauds[-1]), float(tally.rows[-1])
        saved = float(np.sum(chances * ranked.group_sums(self._gains if weights is None else self._gains * weights)))
        # Sums of products instead of `@`: a threaded BLAS is slower for these sizes.
        expected = float(np.sum(probability if weights is None else probability * weights))
        return [
            tally.average_precision(),
            tally.roc_auc(),
            float(np.sum(chances * np.diff(tally.frauds, prepend=0.0))) / seen if seen else float("nan"),
            saved * 1000.0 / rows,
            expected / seen if seen else float("nan"),
        ]

    def interval(self, model: int, measure: Measure) -> Interval:
        """A model's figure with its interval."""
        column = MEASURES.index(measure)
        return interval(float(self.value[model, column]), self._drawn[:, model, column])

    def gain(self, model: int, other: int, measure: Measure) -> Interval:
        """The paired difference: a model's figure minus another's."""
        column = MEASURES.index(measure)
        value = float(self.value[model, column] - self.value[other, column])
        return interval(value, self._drawn[:, model, column] - self._drawn[:, other, column])


class Step(NamedTuple):
    """Comparison of a level with the best level below it."""

    level: int
    against: int
    gain: Interval
    """Average precision."""
    taken: bool


def select_level(compared: Compared, levels: int, margin: float) -> tuple[int, list[Step]]:
    """Select the level to deploy: a higher level must exceed the best below by the margin, with an interval above 0."""
    chosen, steps = 0, []
    for level in range(1, levels):
        gain = compared.gain(level, chosen, "average_precision")
        taken = gain.low > 0 and gain.value >= margin
        steps.append(Step(level, chosen, gain, taken))
        chosen = level if taken else chosen
    return chosen, steps


def slice_losses(
    rows: Rows, candidate: NDArray[np.floating], opponent: NDArray[np.floating], capacity: float,
    *, resamplings: int, seed: int,
) -> tuple[SliceLoss, ...]:  # fmt: skip
    """Recall at the same capacity of both models in each slice with a fraud, and the candidate's loss."""
    named = [(name, mask & rows.is_fraud) for name, mask in rows.slices.items() if np.any(mask & rows.is_fraud)]
    if not named:
        return ()
    masks = np.array([mask for _, mask in named], dtype=np.float64)[:, rows.is_fraud]
    ranked = [Ranked(p, rows.is_fraud) for p in (candidate, opponent)]

    def recalls(weights: Floats | None) -> Floats:
        """float64[2, slices]."""
        drawn = np.ones(int(rows.is_fraud.sum())) if weights is None else weights[rows.is_fraud]
        total = masks @ drawn
        found = [masks @ (drawn * r.alerted(capacity, weights)[rows.is_fraud]) for r in ranked]
        shares: Floats = np.divide(found, total, out=np.full((2, len(named)), np.nan), where=total > 0)
        return shares

    value = recalls(None)
    drawn = np.array([recalls(weights) for weights in resamples(rows.users, resamplings, seed)])
    losses = drawn[:, 1] - drawn[:, 0]
    return tuple(
        SliceLoss(
            name, int(mask.sum()), float(value[0, i]), float(value[1, i]),
            interval(float(value[1, i] - value[0, i]), losses[:, i]),
        )
        for i, (name, mask) in enumerate(named)
    )  # fmt: skip
