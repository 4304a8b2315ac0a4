"""Inputs of levels 1 and 3: logarithms of long-tailed columns, sine and cosine of the hour, all standardized.

Implemented for numpy and as ONNX nodes, both in float64. The serving vector is the same for every level.
"""

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from fraud.core.features import VECTOR_NAMES
from fraud.training.ladder.onnx_graph import INPUT, Graph

LONG_TAILED: Final = ("amount", "distance_from_home", "transaction_velocity_1h", "avg_amount_7d", "amount_to_avg_7d")
"""Non-negative columns that span orders of magnitude; their logarithm is log(1 + x)."""
_HOUR: Final = np.array([VECTOR_NAMES.index("hour_of_day")], dtype=np.int64)
_CIRCLE: Final = 2.0 * np.pi / 24.0
_ROWS_AT_ONCE: Final = 16_384


@dataclass(frozen=True, slots=True)
class Scaling:
    """Mean and deviation of each derived column, float64[d]. `logs` are the columns whose logarithm is used."""

    logs: tuple[str, ...]
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]

    @classmethod
    def fit(cls, vectors: NDArray[np.float32], logs: tuple[str, ...] = LONG_TAILED) -> tuple[Self, NDArray[np.float64]]:
        """The scaling of the rows, and the scaled rows, float64[n, d]. A constant column is scaled to zero."""
        derived = _derived(vectors, logs)
        mean = derived.mean(axis=0)
        derived -= mean
        blocks = range(0, len(derived), _ROWS_AT_ONCE)
        squares = np.sum([np.sum(derived[start : start + _ROWS_AT_ONCE] ** 2, axis=0) for start in blocks], axis=0)
        deviation = np.sqrt(squares / len(derived))
        scaling = cls(logs, mean, np.where(deviation > 0, deviation, 1.0))
        derived /= scaling.deviation
        return scaling, derived

    def apply(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """float32[n, len(VECTOR_NAMES)] -> float64[n, d]."""
        derived = _derived(vectors, self.logs)
        derived -= self.mean
        derived /= self.deviation
        return derived

    def nodes(self, graph: Graph) -> str:
        """Add the same function as ONNX nodes; the name of the output, float64[n, d]."""
        logs, others = _columns(self.logs)
        wide = graph.node("Cast", INPUT, to=TensorProto.DOUBLE)
        angle = graph.node(
            "Mul", graph.node("Gather", wide, graph.constant(_HOUR), axis=1), graph.constant(np.array([_CIRCLE]))
        )
        parts = [graph.node("Sin", angle), graph.node("Cos", angle)]
        parts.append(graph.node("Gather", wide, graph.constant(others), axis=1))
        if len(logs):
            chosen = graph.node("Gather", wide, graph.constant(logs), axis=1)
            parts.insert(0, graph.node("Log", graph.node("Add", chosen, graph.constant(np.ones(1)))))
        centred = graph.node("Sub", graph.node("Concat", *parts, axis=1), graph.constant(self.mean))
        return graph.node("Div", centred, graph.constant(self.deviation))


def _columns(logs: tuple[str, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions in the vector: of the columns whose logarithm is used, and of the other columns except the hour."""
    as_is = [i for i, name in enumerate(VECTOR_NAMES) if name not in {*logs, "hour_of_day"}]
    return np.array([VECTOR_NAMES.index(name) for name in logs], dtype=np.int64), np.array(as_is, dtype=np.int64)


def _derived(vectors: NDArray[np.float32], logs: tuple[str, ...]) -> NDArray[np.float64]:
    """Computed in blocks, to limit the memory of float64 copies."""
    chosen, others = _columns(logs)
    derived = np.empty((len(vectors), len(chosen) + 2 + len(others)))
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        wide = vectors[start : start + _ROWS_AT_ONCE].astype(np.float64)
        angle = wide[:, _HOUR] * _CIRCLE
        derived[start : start + _ROWS_AT_ONCE] = np.hstack(
            [np.log(wide[:, chosen] + 1.0), np.sin(angle), np.cos(angle), wide[:, others]]
        )
    return derived
