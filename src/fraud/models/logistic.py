"""Level 1: logistic regression on scaled inputs."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from fraud.core.features import VECTOR_NAMES
from fraud.models.graph import Graph
from fraud.models.ladder import Sample, Say, SplitPoint
from fraud.models.scaled import Scaling
from fraud.params import Training


@dataclass(frozen=True, slots=True)
class FittedLogistic:
    """Scaling and regression."""

    scaling: Scaling
    model: LogisticRegression

    def predict(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """scikit-learn's probabilities."""
        answer: NDArray[np.float64] = self.model.predict_proba(self.scaling.apply(vectors))[:, 1]
        return answer

    def to_onnx(self) -> bytes:
        """Scaling, one product, a sigmoid, in float64."""
        graph = Graph(len(VECTOR_NAMES))
        product = graph.node("MatMul", self.scaling.nodes(graph), graph.constant(self.model.coef_.T))
        return graph.to_bytes(graph.node("Sigmoid", graph.node("Add", product, graph.constant(self.model.intercept_))))

    def split_points(self) -> list[SplitPoint]:
        """None: the function is smooth."""
        return []

    def facts(self) -> dict[str, float]:
        """Iterations of the solver."""
        return {"iterations": float(self.model.n_iter_[0])}


def fit(train: Sample, _validation: Sample, params: Training, say: Say) -> FittedLogistic:
    """One thread: a threaded BLAS sums in another order on another machine."""
    scaling, scaled = Scaling.fit(train.vectors)
    model = LogisticRegression(C=params.logistic.c, max_iter=params.logistic.max_iter, random_state=params.seed)
    with threadpool_limits(limits=1):
        model.fit(scaled, train.is_fraud)
    say("logistic regression converged", iterations=int(model.n_iter_[0]))
    return FittedLogistic(scaling, model)


def refit(rows: Sample, _first: FittedLogistic, params: Training, say: Say) -> FittedLogistic:
    """Scaling and coefficients measured again."""
    return fit(rows, rows, params, say)
