"""The levels, from the simplest up, and what each of them is asked for."""

import importlib
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from fraud.params import Training

Say = Callable[..., None]
"""Progress: an event and its facts, as a structured log takes them."""


class Sample(NamedTuple):
    """Rows to learn from. `vectors` float32[n, len(VECTOR_NAMES)], `is_fraud` bool[n]."""

    vectors: NDArray[np.float32]
    is_fraud: NDArray[np.bool_]


class SplitPoint(NamedTuple):
    """`vectors[:, column] <= threshold` (float32) goes one way, what is above the other."""

    column: int
    threshold: np.float32


class Fitted(Protocol):
    """A level after training."""

    def predict(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """The native model's fraud probabilities, float64[n]: what the ONNX graph must equal."""

    def to_onnx(self) -> bytes:
        """The same function: `features` float32[n, d] -> `fraud_probability` float32[n]. Equal models, equal bytes."""

    def split_points(self) -> list[SplitPoint]:
        """Where the function jumps: rows on either side are what a conversion gets wrong first."""

    def facts(self) -> dict[str, float]:
        """What the fit found out, for the record: rounds, bounds, losses."""


class Level(NamedTuple):
    """One rung. `name` is also its module in this package."""

    number: int
    name: str

    def __str__(self) -> str:
        return f"{self.number}-{self.name}"

    def params(self, training: Training) -> BaseModel:
        """Its own section of params.yaml."""
        section: BaseModel = getattr(training, self.name)
        return section

    def fit(self, train: Sample, validation: Sample, params: Training, say: Say) -> Fitted:
        """Train. `validation` decides when to stop and how level 1 is scaled. The same inputs give the same bits."""
        module = importlib.import_module(f"fraud.training.ladder.{self.name}")  # torch alone takes seconds to import
        fitted: Fitted = module.fit(train, validation, params, say)
        return fitted

    def refit(self, rows: Sample, first: Fitted, params: Training, say: Say) -> Fitted:
        """Train once more on all rows, with the rounds and the scaling that the first fit chose."""
        module = importlib.import_module(f"fraud.training.ladder.{self.name}")
        fitted: Fitted = module.refit(rows, first, params, say)
        return fitted


LEVELS: Final = (Level(0, "rule"), Level(1, "logistic"), Level(2, "boosting"), Level(3, "mlp"))
