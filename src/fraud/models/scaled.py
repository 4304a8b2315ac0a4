"""What levels 1 and 3 see: long tails as logarithms, the hour as a point on a circle, everything standardised.

Stated twice, for numpy and as graph nodes, both in float64: the serving vector stays what it is for every level.
"""

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from fraud.core.features import VECTOR_NAMES
from fraud.models.graph import INPUT, Graph

LONG_TAILED: Final = ("amount", "distance_from_home", "transaction_velocity_1h", "avg_amount_7d", "amount_to_avg_7d")
"""Never negative and spread over orders of magnitude: log(1 + x)."""
_LOG: Final = np.array([VECTOR_NAMES.index(name) for name in LONG_TAILED], dtype=np.int64)
_HOUR: Final = np.array([VECTOR_NAMES.index("hour_of_day")], dtype=np.int64)
_AS_IS: Final = np.array(
    [i for i, name in enumerate(VECTOR_NAMES) if name not in {*LONG_TAILED, "hour_of_day"}], dtype=np.int64
)
_CIRCLE: Final = 2.0 * np.pi / 24.0
_ROWS_AT_ONCE: Final = 16_384


@dataclass(frozen=True, slots=True)
class Scaling:
    """Mean and deviation of each derived column, float64[d]."""

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]

    @classmethod
    def fit(cls, vectors: NDArray[np.float32]) -> tuple[Self, NDArray[np.float64]]:
        """Measured on the rows, and the rows by it, float64[n, d]. A column that never varies is left at zero."""
        derived = _derived(vectors)
        mean = derived.mean(axis=0)
        derived -= mean
        blocks = range(0, len(derived), _ROWS_AT_ONCE)
        squares = np.sum([np.sum(derived[start : start + _ROWS_AT_ONCE] ** 2, axis=0) for start in blocks], axis=0)
        deviation = np.sqrt(squares / len(derived))
        scaling = cls(mean, np.where(deviation > 0, deviation, 1.0))
        derived /= scaling.deviation
        return scaling, derived

    def apply(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """float32[n, len(VECTOR_NAMES)] -> float64[n, d]."""
        derived = _derived(vectors)
        derived -= self.mean
        derived /= self.deviation
        return derived

    def nodes(self, graph: Graph) -> str:
        """The same as nodes; the name of their value, float64[n, d]."""
        wide = graph.node("Cast", INPUT, to=TensorProto.DOUBLE)
        columns = [graph.node("Gather", wide, graph.constant(index), axis=1) for index in (_LOG, _HOUR, _AS_IS)]
        logs = graph.node("Log", graph.node("Add", columns[0], graph.constant(np.ones(1))))
        angle = graph.node("Mul", columns[1], graph.constant(np.array([_CIRCLE])))
        derived = graph.node(
            "Concat", logs, graph.node("Sin", angle), graph.node("Cos", angle), columns[2], axis=1
        )  # fmt: skip
        centred = graph.node("Sub", derived, graph.constant(self.mean))
        return graph.node("Div", centred, graph.constant(self.deviation))


def _derived(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """In blocks: whole columns in float64 would lie in memory several times."""
    derived = np.empty((len(vectors), len(_LOG) + 2 + len(_AS_IS)))
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        wide = vectors[start : start + _ROWS_AT_ONCE].astype(np.float64)
        angle = wide[:, _HOUR] * _CIRCLE
        derived[start : start + _ROWS_AT_ONCE] = np.hstack(
            [np.log(wide[:, _LOG] + 1.0), np.sin(angle), np.cos(angle), wide[:, _AS_IS]]
        )
    return derived
