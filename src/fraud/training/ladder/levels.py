"""The levels of the ladder, from the simplest up, and their common interface."""

import importlib
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from fraud.params import Training

Progress = Callable[..., None]
"""Callback for progress: an event and its facts, as in a structured log."""


class Sample(NamedTuple):
    """Training rows. `vectors` float32[n, len(VECTOR_NAMES)], `is_fraud` bool[n]."""

    vectors: NDArray[np.float32]
    is_fraud: NDArray[np.bool_]


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
