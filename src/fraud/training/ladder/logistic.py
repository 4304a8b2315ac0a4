"""Level 1: logistic regression. The scale of each long-tailed column is chosen on the validation part."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from fraud.core.features import VECTOR_NAMES
from fraud.params import Training
from fraud.stats.metrics import Ranked
from fraud.training.ladder.levels import Progress, Sample, SplitPoint
from fraud.training.ladder.onnx_graph import Graph
from fraud.training.ladder.scaling import LONG_TAILED, Scaling


@dataclass(frozen=True, slots=True)
class FittedLogistic:
    """Scaling and the fitted regression."""

    scaling: Scaling
    model: LogisticRegression

    def predict(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """scikit-learn's probabilities."""
        answer: NDArray[np.float64] = self.model.predict_proba(self.scaling.apply(vectors))[:, 1]
        return answer

    def to_onnx(self) -> bytes:
        """Scaling, a matrix product and a sigmoid, in float64."""
        graph = Graph(len(VECTOR_NAMES))
        product = graph.node("MatMul", self.scaling.nodes(graph), graph.constant(self.model.coef_.T))
        return graph.to_bytes(graph.node("Sigmoid", graph.node("Add", product, graph.constant(self.model.intercept_))))

    def split_points(self) -> list[SplitPoint]:
        """None: the function is continuous."""
        return []

    def facts(self) -> dict[str, float]:
        """Iterations of the solver, and for each long-tailed column 1 if its logarithm is used, otherwise 0."""
        logs = {f"log_{name}": float(name in self.scaling.logs) for name in LONG_TAILED}
        return {"iterations": float(self.model.n_iter_[0]), **logs}


def fit(train: Sample, validation: Sample, params: Training, progress: Progress) -> FittedLogistic:
    """Choose for each long-tailed column its value or its logarithm, by average precision on the validation part.

    First all columns are compared as logarithms and as values, then each column is switched by itself, in the order of
    LONG_TAILED.
    """

    def tried(logs: tuple[str, ...]) -> tuple[float, FittedLogistic]:
        fitted = _fitted(train, logs, params, progress)
        return Ranked(fitted.predict(validation.vectors), validation.is_fraud).average_precision(), fitted

    precision, best = max((tried(logs) for logs in (LONG_TAILED, ())), key=lambda found: found[0])
    for column in LONG_TAILED:
        logs = tuple(name for name in LONG_TAILED if (name in best.scaling.logs) != (name == column))
        found, other = tried(logs)
        if found > precision:
            precision, best = found, other
    progress("scaling chosen", **best.facts())
    return best


def refit(rows: Sample, first: FittedLogistic, params: Training, progress: Progress) -> FittedLogistic:
    """Fit means, deviations and coefficients again, with the same columns as logarithms."""
    return _fitted(rows, first.scaling.logs, params, progress)


def _fitted(rows: Sample, logs: tuple[str, ...], params: Training, progress: Progress) -> FittedLogistic:
    """Uses one thread: the order of sums in a threaded BLAS depends on the machine."""
    scaling, scaled = Scaling.fit(rows.vectors, logs)
    model = LogisticRegression(C=params.logistic.c, max_iter=params.logistic.max_iter, random_state=params.seed)
    with threadpool_limits(limits=1):
        model.fit(scaled, rows.is_fraud)
    progress("logistic regression converged", iterations=int(model.n_iter_[0]), logarithms=len(logs))
    return FittedLogistic(scaling, model)
