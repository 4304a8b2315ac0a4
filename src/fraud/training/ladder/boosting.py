"""Level 2: gradient-boosted trees (scikit-learn's HistGradientBoosting) with early stopping on the validation part."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from fraud.params import Training
from fraud.training.ladder.bins import Bins, floor32
from fraud.training.ladder.levels import Progress, Sample, SplitPoint
from fraud.training.ladder.onnx_graph import INPUT, ML, Graph

_LOGGED_EVERY: Final = 50
"""Progress is reported every so many trees."""


@dataclass(frozen=True, slots=True)
class FittedBoosting:
    """The fitted classifier; its trees split values, not codes.

    `losses` are the log losses on the validation part: before the first round and after each. The
    trees are read from scikit-learn's private arrays; there is no public interface.
    """

    model: HistGradientBoostingClassifier
    losses: tuple[float, ...]

    def predict(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """scikit-learn's probabilities."""
        answer: NDArray[np.float64] = self.model.predict_proba(vectors)[:, 1]
        return answer

    def _trees(self) -> list[NDArray[np.void]]:
        return [stage[0].nodes for stage in self.model._predictors]  # noqa: SLF001 - no public interface to the trees

    def to_onnx(self) -> bytes:
        """One TreeEnsembleRegressor and a sigmoid. The nodes are in scikit-learn's order: parents before children."""
        trees = self._trees()
        nodes = np.concatenate(trees)
        tree = np.repeat(np.arange(len(trees)), [len(t) for t in trees])
        number = np.concatenate([np.arange(len(t)) for t in trees])
        leaf = nodes["is_leaf"].astype(bool)
        baseline = float(self.model._baseline_prediction.ravel()[0])  # noqa: SLF001 - as above
        graph = Graph(int(self.model.n_features_in_))
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
        return graph.to_bytes(graph.sigmoid(logit))

    def split_points(self) -> list[SplitPoint]:
        """The distinct splits of all trees."""
        nodes = np.concatenate(self._trees())
        inner = nodes[nodes["is_leaf"] == 0]
        found = set(zip(inner["feature_idx"].tolist(), floor32(inner["num_threshold"]).tolist(), strict=True))
        return [SplitPoint(column, np.float32(threshold)) for column, threshold in sorted(found)]

    def facts(self) -> dict[str, float]:
        """Number of trees and the log loss on the validation part."""
        return {"trees": float(self.model.n_iter_), "validation_log_loss": self.losses[-1]}


def fit(train: Sample, validation: Sample, params: Training, progress: Progress) -> FittedBoosting:
    """Fit until the loss on the validation part has not improved for `early_stopping_rounds` rounds.

    Uses one thread: gradient sums depend on the number of threads, and equal inputs must give equal bytes.
    """
    model = _classifier(
        params, max_iter=params.boosting.max_iter, early_stopping=True,
        n_iter_no_change=params.boosting.early_stopping_rounds,
    )  # fmt: skip
    _fit(model, train, validation)
    losses = tuple((-model.validation_score_).tolist())
    for trees in range(_LOGGED_EVERY, len(losses), _LOGGED_EVERY):
        progress("round", step=trees, validation_loss=losses[trees])
    progress("early stopping finished", trees=int(model.n_iter_), most=params.boosting.max_iter)
    return FittedBoosting(model, losses)


def refit(rows: Sample, first: FittedBoosting, params: Training, progress: Progress) -> FittedBoosting:
    """Fit with the number of trees of the first fit."""
    model = _classifier(params, max_iter=int(first.model.n_iter_), early_stopping=False)
    _fit(model, rows)
    progress("boosting refitted", trees=int(model.n_iter_))
    return FittedBoosting(model, first.losses)


def _fit(model: HistGradientBoostingClassifier, rows: Sample, validation: Sample | None = None) -> None:
    """Fit on the codes of `Bins` instead of values, and then replace the thresholds of the trees by the bounds."""
    bins = Bins.of(rows.vectors, rows.is_fraud)
    later = {} if validation is None else {"X_val": bins.codes(validation.vectors), "y_val": validation.is_fraud}
    with threadpool_limits(limits=1):
        model.fit(bins.codes(rows.vectors), rows.is_fraud, **later)
    for stage in model._predictors:  # noqa: SLF001 - no public interface to the trees
        nodes = stage[0].nodes
        inner = nodes["is_leaf"] == 0
        nodes["num_threshold"][inner] = bins.thresholds(nodes["feature_idx"][inner], nodes["num_threshold"][inner])


def _classifier(params: Training, **stopping: float | bool) -> HistGradientBoostingClassifier:
    settings = params.boosting
    return HistGradientBoostingClassifier(
        learning_rate=settings.learning_rate, max_leaf_nodes=settings.max_leaf_nodes,
        max_features=settings.max_features, min_samples_leaf=settings.min_samples_leaf,
        l2_regularization=settings.l2_regularization,
        random_state=params.seed, **stopping,
    )  # fmt: skip
