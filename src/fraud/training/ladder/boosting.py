"""Level 2: gradient-boosted trees (scikit-learn's HistGradientBoosting) with early stopping on the validation part.

Several fits that differ in their seed, and so in the columns that each split considers, are averaged: one ensemble of
trees in one graph.
"""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import log_loss
from threadpoolctl import threadpool_limits

from fraud.params import Training
from fraud.training.ladder.levels import Progress, Sample, SplitPoint
from fraud.training.ladder.onnx_graph import INPUT, ML, Graph

_LOGGED_EVERY: Final = 50
"""Progress is reported every so many trees."""


@dataclass(frozen=True, slots=True)
class FittedBoosting:
    """The fitted classifiers, whose log odds are averaged.

    The trees are read from scikit-learn's private arrays; there is no public interface.
    """

    members: tuple[HistGradientBoostingClassifier, ...]
    validation_log_loss: float = float("nan")
    """Of the averaged probabilities of the first fit on the validation part."""

    def predict(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """Probabilities of the mean log odds of scikit-learn's classifiers."""
        total = np.zeros(len(vectors))
        for member in self.members:
            total += member.decision_function(vectors)
        answer: NDArray[np.float64] = 1.0 / (1.0 + np.exp(-total / len(self.members)))
        return answer

    def _trees(self) -> list[NDArray[np.void]]:
        stages = [stage for member in self.members for stage in member._predictors]  # noqa: SLF001 - no public interface
        return [stage[0].nodes for stage in stages]

    def to_onnx(self) -> bytes:
        """One TreeEnsembleRegressor and a sigmoid, with the nodes in scikit-learn's order: parents before children."""
        trees = self._trees()
        nodes = np.concatenate(trees)
        tree = np.repeat(np.arange(len(trees)), [len(t) for t in trees])
        number = np.concatenate([np.arange(len(t)) for t in trees])
        leaf = nodes["is_leaf"].astype(bool)
        baselines = [float(m._baseline_prediction.ravel()[0]) for m in self.members]  # noqa: SLF001 - as above
        weights = (nodes["value"][leaf] / len(self.members)).astype(np.float32)
        graph = Graph(int(self.members[0].n_features_in_))
        logit = graph.node(
            "TreeEnsembleRegressor", INPUT, domain=ML, n_targets=1, aggregate_function="SUM",
            base_values=[sum(baselines) / len(baselines)],
            nodes_treeids=tree.tolist(), nodes_nodeids=number.tolist(),
            nodes_featureids=np.where(leaf, 0, nodes["feature_idx"]).tolist(),
            nodes_modes=np.where(leaf, "LEAF", "BRANCH_LEQ").tolist(),
            nodes_values=np.where(leaf, np.float32(0), floor32(nodes["num_threshold"])).tolist(),
            nodes_truenodeids=np.where(leaf, 0, nodes["left"]).tolist(),
            nodes_falsenodeids=np.where(leaf, 0, nodes["right"]).tolist(),
            nodes_missing_value_tracks_true=np.where(leaf, 0, nodes["missing_go_to_left"]).tolist(),
            target_treeids=tree[leaf].tolist(), target_nodeids=number[leaf].tolist(),
            target_ids=[0] * int(leaf.sum()), target_weights=weights.tolist(),
        )  # fmt: skip
        return graph.to_bytes(graph.node("Sigmoid", logit))

    def split_points(self) -> list[SplitPoint]:
        """The distinct splits of all trees."""
        nodes = np.concatenate(self._trees())
        inner = nodes[nodes["is_leaf"] == 0]
        found = set(zip(inner["feature_idx"].tolist(), floor32(inner["num_threshold"]).tolist(), strict=True))
        return [SplitPoint(column, np.float32(threshold)) for column, threshold in sorted(found)]

    def facts(self) -> dict[str, float]:
        """Number of trees of all members and the log loss on the validation part."""
        return {"trees": float(len(self._trees())), "validation_log_loss": self.validation_log_loss}


def floor32(thresholds: NDArray[np.float64]) -> NDArray[np.float32]:
    """The largest float32 that is not above each threshold: for float32 x, `x <= t` exactly when `x <= floor32(t)`.

    Rounding to the nearest float32 would give another result for values between t and the rounded t.
    """
    nearest = thresholds.astype(np.float32)
    return np.where(nearest > thresholds, np.nextafter(nearest, np.float32(-np.inf)), nearest)


def fit(train: Sample, validation: Sample, params: Training, progress: Progress) -> FittedBoosting:
    """Fit members with different seeds, each until its loss on the validation part has not improved for
    `early_stopping_rounds` rounds.

    Uses one thread: gradient sums depend on the number of threads, and equal inputs must give equal bytes.
    """
    settings = params.boosting
    members = []
    for number in range(settings.members):
        model = _classifier(
            params, number, max_iter=settings.max_iter, early_stopping=True,
            n_iter_no_change=settings.early_stopping_rounds,
        )  # fmt: skip
        with threadpool_limits(limits=1):
            model.fit(train.vectors, train.is_fraud, X_val=validation.vectors, y_val=validation.is_fraud)
        if not number:  # one curve for the record
            for trees in range(_LOGGED_EVERY, len(model.validation_score_), _LOGGED_EVERY):
                progress("round", step=trees, validation_loss=-float(model.validation_score_[trees]))
        members.append(model)
    fitted = FittedBoosting(tuple(members))
    loss = float(log_loss(validation.is_fraud, fitted.predict(validation.vectors)))
    progress("early stopping finished", trees=int(fitted.facts()["trees"]), most=settings.members * settings.max_iter)
    return replace(fitted, validation_log_loss=loss)


def refit(rows: Sample, first: FittedBoosting, params: Training, progress: Progress) -> FittedBoosting:
    """Fit each member with the number of trees of its first fit."""
    members = []
    for number, member in enumerate(first.members):
        model = _classifier(params, number, max_iter=int(member.n_iter_), early_stopping=False)
        with threadpool_limits(limits=1):
            model.fit(rows.vectors, rows.is_fraud)
        members.append(model)
    fitted = replace(first, members=tuple(members))
    progress("boosting refitted", trees=int(fitted.facts()["trees"]))
    return fitted


def _classifier(params: Training, member: int, **stopping: float | bool) -> HistGradientBoostingClassifier:
    settings = params.boosting
    return HistGradientBoostingClassifier(
        learning_rate=settings.learning_rate, max_leaf_nodes=settings.max_leaf_nodes,
        max_features=settings.max_features, min_samples_leaf=settings.min_samples_leaf,
        l2_regularization=settings.l2_regularization,
        random_state=params.seed + member, **stopping,
    )  # fmt: skip
