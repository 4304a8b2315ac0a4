"""Level 1: logistic regression. The scale of each heavy-tailed column is chosen on the validation part."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from fraud.params import Training
from fraud.stats.metrics import Ranked
from fraud.training.ladder.levels import Progress, Sample, SplitPoint
from fraud.training.ladder.onnx_graph import Graph
from fraud.training.ladder.scaling import Scaling, heavy_tailed

_SWITCHED: Final = 8
"""Columns that are switched by themselves: those with the largest weights of the heavy-tailed ones."""
_SEARCH_ROWS: Final = 60_000
"""The scales are compared on all frauds and evenly spaced legitimate rows, at most so many."""


@dataclass(frozen=True, slots=True)
class FittedLogistic:
    """Scaling and the fitted regression. `candidates` are the heavy-tailed columns."""

    scaling: Scaling
    model: LogisticRegression
    candidates: tuple[str, ...]

    def predict(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """scikit-learn's probabilities."""
        answer: NDArray[np.float64] = self.model.predict_proba(self.scaling.apply(vectors))[:, 1]
        return answer

    def to_onnx(self) -> bytes:
        """Scaling, a matrix product and a sigmoid, in float64."""
        graph = Graph(len(self.scaling.names))
        product = graph.node("MatMul", self.scaling.nodes(graph), graph.constant(self.model.coef_.T))
        return graph.to_bytes(graph.node("Sigmoid", graph.node("Add", product, graph.constant(self.model.intercept_))))

    def split_points(self) -> list[SplitPoint]:
        """None: the function is continuous."""
        return []

    def facts(self) -> dict[str, float]:
        """Iterations of the solver, and for each heavy-tailed column 1 if its logarithm is used, otherwise 0."""
        logs = {f"log_{name}": float(name in self.scaling.logs) for name in self.candidates}
        return {"iterations": float(self.model.n_iter_[0]), **logs}


def fit(train: Sample, validation: Sample, params: Training, progress: Progress) -> FittedLogistic:
    """Choose for each heavy-tailed column its value or its logarithm, by average precision on the validation part.

    First all columns are compared as logarithms and as values, then the columns with the largest weights are switched,
    each by itself. The chosen scales are fitted on all rows.
    """
    candidates, rows = heavy_tailed(train), _some(train)

    def tried(logs: tuple[str, ...]) -> tuple[float, FittedLogistic]:
        fitted = _fitted(rows, logs, candidates, params, progress)
        return Ranked(fitted.predict(validation.vectors), validation.is_fraud).average_precision(), fitted

    precision, best = max((tried(logs) for logs in (candidates, ())), key=lambda found: found[0])
    for column in _largest(best):
        logs = tuple(name for name in candidates if (name in best.scaling.logs) != (name == column))
        found, other = tried(logs)
        if found > precision:
            precision, best = found, other
    if rows is not train:
        best = _fitted(train, best.scaling.logs, candidates, params, progress)
    progress("scaling chosen", **best.facts())
    return best


def refit(rows: Sample, first: FittedLogistic, params: Training, progress: Progress) -> FittedLogistic:
    """Fit means, deviations and coefficients again, with the same columns as logarithms."""
    return _fitted(rows, first.scaling.logs, first.candidates, params, progress)


def _some(train: Sample) -> Sample:
    """The rows on which scales are compared."""
    frauds, legitimate = np.flatnonzero(train.is_fraud), np.flatnonzero(~train.is_fraud)
    most = max(_SEARCH_ROWS - len(frauds), len(frauds))
    if len(legitimate) <= most:
        return train
    kept = legitimate[np.linspace(0, len(legitimate) - 1, most).astype(np.int64)]
    chosen = np.sort(np.concatenate([frauds, kept]))
    return Sample(train.vectors[chosen], train.is_fraud[chosen], train.inputs)


def _largest(fitted: FittedLogistic) -> list[str]:
    """The heavy-tailed columns with the largest weights, at most _SWITCHED."""
    order = fitted.scaling.derived_names
    weights = dict(zip(order, np.abs(fitted.model.coef_[0]).tolist(), strict=True))
    return sorted(fitted.candidates, key=lambda name: (-weights[name], name))[:_SWITCHED]


def _fitted(
    rows: Sample, logs: tuple[str, ...], candidates: tuple[str, ...], params: Training, progress: Progress
) -> FittedLogistic:
    """Uses one thread: the order of sums in a threaded BLAS depends on the machine."""
    scaling, scaled = Scaling.fit(rows, logs)
    model = LogisticRegression(C=params.logistic.c, max_iter=params.logistic.max_iter, random_state=params.seed)
    with threadpool_limits(limits=1):
        model.fit(scaled, rows.is_fraud)
    progress("logistic regression converged", iterations=int(model.n_iter_[0]), logarithms=len(logs))
    return FittedLogistic(scaling, model, candidates)
