"""Random search for a level's hyper-parameters, evaluated on the validation part, with early stopping.

The generator is seeded by params.yaml and the level, so equal inputs draw equal values. There is no time limit, because
the result must not depend on the speed of the machine.
"""

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import numpy as np

from fraud.params import Training
from fraud.stats.metrics import Ranked
from fraud.training.ladder.levels import Fitted, Level, Progress, Sample

_LOGARITHMIC_FROM: Final = 10.0
"""If high / low is at least this, the logarithm is drawn uniformly."""


class Trial(NamedTuple):
    """One draw. Number 0 has the values of params.yaml."""

    number: int
    values: Mapping[str, float]
    average_precision: float
    """On the validation part."""
    fitted: Fitted
    training: Training


def trials(level: Level, train: Sample, validation: Sample, params: Training, progress: Progress) -> Iterator[Trial]:
    """Fit with the values of params.yaml, then with drawn values, until `patience` consecutive draws were no better.

    The best trial has the highest average precision, the earliest among equals. A level without bounds, or a search
    with 0 trials, gives the first trial only.
    """
    best, since = -1.0, 0
    for number, values in enumerate(_draws(level, params)):
        drawn = _with(params, level, values)
        fitted = level.fit(train, validation, drawn, progress)
        precision = Ranked(fitted.predict(validation.vectors), validation.is_fraud).average_precision()
        since = 0 if precision > best else since + 1
        best = max(best, precision)
        yield Trial(number, values, precision, fitted, drawn)
        if since >= params.search.patience:
            return


def _draws(level: Level, params: Training) -> Iterator[Mapping[str, float]]:
    """No changes first, then the draws."""
    yield {}
    bounds: Mapping[str, tuple[float, float]] = getattr(params.search, level.name, {})
    random = np.random.default_rng([params.seed, level.number])
    for _ in range(params.search.trials if bounds else 0):
        yield {name: _draw(random, *bounds[name], _whole(level, params, name)) for name in sorted(bounds)}


def _draw(random: np.random.Generator, low: float, high: float, whole: bool) -> float:
    wide = low > 0 and high >= low * _LOGARITHMIC_FROM
    value = float(np.exp(random.uniform(np.log(low), np.log(high)))) if wide else float(random.uniform(low, high))
    # Five digits, so that the record has the exact value.
    return round(value) if whole else float(f"{value:.5g}")


def _whole(level: Level, params: Training, name: str) -> bool:
    return type(level.params(params)).model_fields[name].annotation is int


def _with(params: Training, level: Level, values: Mapping[str, float]) -> Training:
    """`params` with the values of the level replaced and validated."""
    section = level.params(params)
    changed = type(section).model_validate({**section.model_dump(), **values})
    return params.model_copy(update={level.name: changed})
