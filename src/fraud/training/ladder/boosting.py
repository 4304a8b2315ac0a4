"""Level 2: gradient-boosted trees (scikit-learn's HistGradientBoosting), stopped early on a later part of time."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from fraud.core.features import VECTOR_NAMES
from fraud.params import Training
from fraud.training.ladder.levels import Sample, Say, SplitPoint
from fraud.training.ladder.onnx_graph import INPUT, ML, Graph

_TOLD_EVERY: Final = 50
"""Trees from one line of progress to the next."""


@dataclass(frozen=True, slots=True)
class FittedBoosting:
    """The fitted classifier; `losses` are the log losses of the validation part, by round, the start included.

    Its trees are read through scikit-learn's private arrays, as every converter does.
    """

    model: HistGradientBoostingClassifier
    losses: tuple[float, ...]

    def predict(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """scikit-learn's probabilities."""
        answer: NDArray[np.float64] = self.model.predict_proba(vectors)[:, 1]
        return answer

    def _trees(self) -> list[NDArray[np.void]]:
        return [stage[0].nodes for stage in self.model._predictors]  # noqa: SLF001 - there is no public way to the trees

    def to_onnx(self) -> bytes:
        """One TreeEnsembleRegressor and a sigmoid. Node order is scikit-learn's: parents before children."""
        trees = self._trees()
        nodes = np.concatenate(trees)
        tree = np.repeat(np.arange(len(trees)), [len(t) for t in trees])
        number = np.concatenate([np.arange(len(t)) for t in trees])
        leaf = nodes["is_leaf"].astype(bool)
        baseline = float(self.model._baseline_prediction.ravel()[0])  # noqa: SLF001 - as above
        graph = Graph(len(VECTOR_NAMES))
        logit = graph.node(
            "TreeEnsembleRegressor", INPUT, domain=ML, n_targets=1, aggregate_function="SUM",
            base_values=[baseline],
            nodes_treeids=tree.tolist(), nodes_nodeids=number.tolist(),
            nodes_featureids=np.where(leaf, 0, nodes["feature_idx"]).tolist(),
            nodes_modes=np.where(leaf, "LEAF", "BRANCH_LEQ").tolist(),
            nodes_values=np.where(leaf, np.float32(0), floor32(nodes["num_threshold"])).tolist(),
            nodes_truenodeids=np.where(leaf, 0, nodes["left"]).tolist(),
            nodes_falsenodeids=np.where(leaf, 0, nodes["right"]).tolist(),
            nodes_missing_value_tracks_true=np.where(leaf, 0, nodes["missing_go_to_left"]).tolist(),
            target_treeids=tree[leaf].tolist(), target_nodeids=number[leaf].tolist(),
            target_ids=[0] * int(leaf.sum()), target_weights=nodes["value"][leaf].astype(np.float32).tolist(),
        )  # fmt: skip
        return graph.to_bytes(graph.node("Sigmoid", logit))

    def split_points(self) -> list[SplitPoint]:
        """Every different split of every tree."""
        nodes = np.concatenate(self._trees())
        inner = nodes[nodes["is_leaf"] == 0]
        found = set(zip(inner["feature_idx"].tolist(), floor32(inner["num_threshold"]).tolist(), strict=True))
        return [SplitPoint(column, np.float32(threshold)) for column, threshold in sorted(found)]

    def facts(self) -> dict[str, float]:
        """Trees kept and the validation part's log loss."""
        return {"trees": float(self.model.n_iter_), "validation_log_loss": self.losses[-1]}


def floor32(thresholds: NDArray[np.float64]) -> NDArray[np.float32]:
    """The largest float32 that is not above each threshold: for float32 x, `x <= t` exactly when `x <= floor32(t)`.

    Rounding to the nearest would send a value that lies between t and its rounding the other way.
    """
    nearest = thresholds.astype(np.float32)
    return np.where(nearest > thresholds, np.nextafter(nearest, np.float32(-np.inf)), nearest)


def fit(train: Sample, validation: Sample, params: Training, say: Say) -> FittedBoosting:
    """Stops when the validation part's loss has not improved for some rounds.

    One thread: gradient sums of several threads depend on their number, and equal inputs must give equal bytes.
    """
    model = _classifier(
        params, max_iter=params.boosting.max_iter, early_stopping=True,
        n_iter_no_change=params.boosting.early_stopping_rounds,
    )  # fmt: skip
    with threadpool_limits(limits=1):
        model.fit(train.vectors, train.is_fraud, X_val=validation.vectors, y_val=validation.is_fraud)
    losses = tuple((-model.validation_score_).tolist())
    for trees in range(_TOLD_EVERY, len(losses), _TOLD_EVERY):
        say("round", step=trees, validation_loss=losses[trees])
    say("boosting stopped", trees=int(model.n_iter_), most=params.boosting.max_iter)
    return FittedBoosting(model, losses)


def refit(rows: Sample, first: FittedBoosting, params: Training, say: Say) -> FittedBoosting:
    """As many trees as the first fit kept."""
    model = _classifier(params, max_iter=int(first.model.n_iter_), early_stopping=False)
    with threadpool_limits(limits=1):
        model.fit(rows.vectors, rows.is_fraud)
    say("boosting fitted again", trees=int(model.n_iter_))
    return FittedBoosting(model, first.losses)


def _classifier(params: Training, **stopping: float | bool) -> HistGradientBoostingClassifier:
    settings = params.boosting
    return HistGradientBoostingClassifier(
        learning_rate=settings.learning_rate, max_leaf_nodes=settings.max_leaf_nodes,
        max_features=settings.max_features, min_samples_leaf=settings.min_samples_leaf,
        l2_regularization=settings.l2_regularization,
        random_state=params.seed, **stopping,
    )  # fmt: skip
