"""The levels of the ladder, from the simplest up, and their common interface."""

import importlib
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from fraud.core.declaration import Declaration
from fraud.params import Training

Progress = Callable[..., None]
"""Callback for progress: an event and its facts, as in a structured log."""
_PERIODS: Final = {"hour_of_day": 24.0, "day_of_week": 7.0}
"""Op of a request feature -> its period."""


class Inputs(NamedTuple):
    """What the levels use of the vector's columns: positions in the vector."""

    names: tuple[str, ...]
    amount: int | None
    """The amount in USD; None if it is no input."""
    hour: int | None
    """The hour of the day, UTC; None if it is no input."""
    circles: tuple[tuple[int, float], ...]
    """Columns that start again after a period: position, period."""

    @classmethod
    def of(cls, declaration: Declaration, names: tuple[str, ...]) -> Self:
        """The inputs of a declaration whose vector has the columns `names`."""
        found = {
            "amount" if f.column == "amount" else f.op: names.index(f.name)
            for f in declaration.requests
            if f.input and (f.op in _PERIODS or (f.op == "column" and f.column == "amount"))
        }
        circles = tuple((found[op], period) for op, period in _PERIODS.items() if op in found)
        return cls(names, found.get("amount"), found.get("hour_of_day"), circles)


class Sample(NamedTuple):
    """Training rows. `vectors` float32[n, len(inputs.names)], `is_fraud` bool[n]."""

    vectors: NDArray[np.float32]
    is_fraud: NDArray[np.bool_]
    inputs: Inputs


class SplitPoint(NamedTuple):
    """A split of a model: rows with `vectors[:, column] <= threshold` (float32), and all others."""

    column: int
    threshold: np.float32


class Fitted(Protocol):
    """A level after training."""

    def predict(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """The native model's fraud probabilities, float64[n]. The ONNX graph must give the same."""

    def to_onnx(self) -> bytes:
        """ONNX graph: `features` float32[n, d] -> `fraud_probability` float32[n]. Equal models give equal bytes."""

    def split_points(self) -> list[SplitPoint]:
        """Discontinuities of the function. The parity gate compares rows on both sides of each."""

    def facts(self) -> dict[str, float]:
        """Figures of the fit for the record: rounds, bounds, losses."""


class Level(NamedTuple):
    """One level. `name` is also its module in this package."""

    number: int
    name: str

    def __str__(self) -> str:
        return f"{self.number}-{self.name}"

    def params(self, training: Training) -> BaseModel:
        """The level's section of params.yaml."""
        section: BaseModel = getattr(training, self.name)
        return section

    def fit(self, train: Sample, validation: Sample, params: Training, progress: Progress) -> Fitted:
        """Fit on `train`, with early stopping and scaling chosen on `validation`. Equal inputs give equal bits."""
        module = importlib.import_module(f"fraud.training.ladder.{self.name}")  # torch alone takes seconds to import
        fitted: Fitted = module.fit(train, validation, params, progress)
        return fitted

    def refit(self, rows: Sample, first: Fitted, params: Training, progress: Progress) -> Fitted:
        """Fit on all rows, with the number of rounds and the scaling of the first fit."""
        module = importlib.import_module(f"fraud.training.ladder.{self.name}")
        fitted: Fitted = module.refit(rows, first, params, progress)
        return fitted


LEVELS: Final = (Level(0, "rule"), Level(1, "logistic"), Level(2, "boosting"), Level(3, "mlp"))
