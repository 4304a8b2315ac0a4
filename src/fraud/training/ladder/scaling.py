"""Inputs of levels 1 and 3: logarithms of heavy-tailed columns, sine and cosine of periodic ones, all standardized.

Implemented for numpy and as ONNX nodes, both in float64. The serving vector is the same for every level.
"""

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from fraud.training.ladder.levels import Inputs, Sample
from fraud.training.ladder.onnx_graph import INPUT, Graph

SKEWED: Final = 1.0
"""Skewness (third standardized moment) above which a column has a heavy tail. That of an exponential is 2."""
_ROWS_AT_ONCE: Final = 16_384


def heavy_tailed(rows: Sample) -> tuple[str, ...]:
    """The columns whose logarithm is closer to symmetric than their value, the most skewed first.

    Columns with at most two values (flags, one-hot columns) and periodic columns are not considered.
    """
    periodic = {position for position, _ in rows.inputs.circles}
    found = []
    for position, name in enumerate(rows.inputs.names):
        column = rows.vectors[:, position].astype(np.float64)
        if position in periodic or _at_most_two(column):
            continue
        plain, as_log = (abs(_skewness(values)) for values in (column, _log(column)))
        if plain > SKEWED and as_log < plain:
            found.append((-plain, position, name))
    return tuple(name for _, _, name in sorted(found))


@dataclass(frozen=True, slots=True)
class Scaling:
    """Mean and deviation of each derived column, float64[d]. `logs` are the columns whose logarithm is used.

    The logarithm of x is sign(x) * log(1 + |x|), so that it exists for every value that a request can have.
    """

    names: tuple[str, ...]
    """Columns of the vector."""
    circles: tuple[tuple[int, float], ...]
    logs: tuple[str, ...]
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]

    @classmethod
    def fit(cls, rows: Sample, logs: tuple[str, ...]) -> tuple[Self, NDArray[np.float64]]:
        """The scaling of the rows, and the scaled rows, float64[n, d]. A constant column is scaled to zero."""
        columns = _Columns(rows.inputs, logs)
        derived = columns.derived(rows.vectors)
        mean = derived.mean(axis=0)
        derived -= mean
        blocks = range(0, len(derived), _ROWS_AT_ONCE)
        squares = np.sum([np.sum(derived[start : start + _ROWS_AT_ONCE] ** 2, axis=0) for start in blocks], axis=0)
        deviation = np.sqrt(squares / len(derived))
        deviation = np.where(deviation > 0, deviation, 1.0)
        scaling = cls(rows.inputs.names, rows.inputs.circles, logs, mean, deviation)
        derived /= scaling.deviation
        return scaling, derived

    @property
    def derived_names(self) -> tuple[str, ...]:
        """The column of the vector that each derived column is computed from."""
        columns = self._columns
        order = np.concatenate([columns.logs, columns.circles, columns.circles, columns.others])
        return tuple(self.names[position] for position in order)

    @property
    def _columns(self) -> "_Columns":
        return _Columns(Inputs(self.names, None, None, self.circles), self.logs)

    def apply(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """float32[n, len(names)] -> float64[n, d]."""
        derived = self._columns.derived(vectors)
        derived -= self.mean
        derived /= self.deviation
        return derived

    def nodes(self, graph: Graph) -> str:
        """Add the same function as ONNX nodes; the name of the output, float64[n, d]."""
        columns, parts = self._columns, list[str]()
        wide = graph.node("Cast", INPUT, to=TensorProto.DOUBLE)

        def chosen(positions: NDArray[np.int64]) -> str:
            return graph.node("Gather", wide, graph.constant(positions), axis=1)

        if len(columns.logs):
            value = chosen(columns.logs)
            size = graph.node("Log", graph.node("Add", graph.node("Abs", value), graph.constant(np.ones(1))))
            parts.append(graph.node("Mul", graph.node("Sign", value), size))
        if len(columns.circles):
            angle = graph.node("Mul", chosen(columns.circles), graph.constant(columns.turns))
            parts += [graph.node("Sin", angle), graph.node("Cos", angle)]
        if len(columns.others):
            parts.append(chosen(columns.others))
        whole = parts[0] if len(parts) == 1 else graph.node("Concat", *parts, axis=1)
        return graph.node("Div", graph.node("Sub", whole, graph.constant(self.mean)), graph.constant(self.deviation))


class _Columns:
    """Positions in the vector: of logarithms, of periodic columns, and of the others."""

    def __init__(self, inputs: Inputs, logs: tuple[str, ...]) -> None:
        periodic = {position for position, _ in inputs.circles}
        others = [i for i, name in enumerate(inputs.names) if name not in logs and i not in periodic]
        self.logs = np.array([inputs.names.index(name) for name in logs], dtype=np.int64)
        self.circles = np.array([position for position, _ in inputs.circles], dtype=np.int64)
        self.turns = np.array([2.0 * np.pi / period for _, period in inputs.circles])
        self.others = np.array(others, dtype=np.int64)

    def derived(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """Computed in blocks, to limit the memory of float64 copies."""
        derived = np.empty((len(vectors), len(self.logs) + 2 * len(self.circles) + len(self.others)))
        for start in range(0, len(vectors), _ROWS_AT_ONCE):
            wide = vectors[start : start + _ROWS_AT_ONCE].astype(np.float64)
            angle = wide[:, self.circles] * self.turns
            derived[start : start + _ROWS_AT_ONCE] = np.hstack(
                [_log(wide[:, self.logs]), np.sin(angle), np.cos(angle), wide[:, self.others]]
            )
        return derived


def _log(values: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.sign(values) * np.log(np.abs(values) + 1.0)
    return found


def _at_most_two(values: NDArray[np.float64]) -> bool:
    """Whether there are at most two different values."""
    low, high = values.min(), values.max()
    return bool(np.all((values == low) | (values == high)))


def _skewness(values: NDArray[np.float64]) -> float:
    """The third standardized moment; 0 for a constant."""
    centred = values - values.mean()
    deviation = float(np.sqrt(np.mean(centred**2)))
    return float(np.mean((centred / deviation) ** 3)) if deviation > 0 else 0.0
