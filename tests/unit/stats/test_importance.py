"""Permutation importance: against scikit-learn's, and the columns of a declared feature."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression

from fraud.core.declaration import parse
from fraud.core.plan import Plan
from fraud.stats import importance
from fraud.stats.importance import importances, vector_columns


def data(n: int = 6_000) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    random = np.random.default_rng(1)
    vectors = random.normal(size=(n, 4)).astype(np.float32)
    return vectors, random.random(n) < 1 / (1 + np.exp(4 - 2 * vectors[:, 0] - vectors[:, 1]))


def test_the_losses_are_those_of_scikit_learn() -> None:
    vectors, is_fraud = data()
    model = LogisticRegression().fit(vectors, is_fraud)
    ours = importances(lambda v: model.predict_proba(v)[:, 1], vectors, is_fraud, {f"f{i}": [i] for i in range(4)}, 1)
    theirs = permutation_importance(model, vectors, is_fraud, scoring="average_precision", n_repeats=20, random_state=1)
    assert [one.name for one in ours[:2]] == ["f0", "f1"]
    for one in ours:
        assert one.loss == pytest.approx(theirs.importances_mean[int(one.name[1])], abs=0.02)
        assert one.spread < 0.02


def test_fewer_legitimate_rows_with_weights_give_about_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, is_fraud = data(40_000)
    weights = np.array([2.0, 1.0, 0.0, 0.0])
    features = {"first": [0], "both": [0, 1], "none": [2, 3]}

    def predict(v: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.asarray(v @ weights)

    every = importances(predict, vectors, is_fraud, features, 1)
    monkeypatch.setattr(importance, "MAX_ROWS", 10_000)
    some = importances(predict, vectors, is_fraud, features, 1)
    assert [one.name for one in every] == ["both", "first", "none"]
    assert [one.loss for one in some] == pytest.approx([one.loss for one in every], abs=0.03)
    assert (every[2].loss, every[2].spread) == (0.0, 0.0)


def test_without_both_classes_nothing_is_measured() -> None:
    assert importances(lambda v: v[:, 0], np.ones((5, 1), np.float32), np.zeros(5, bool), {"f": [0]}, 1) == []


def test_a_feature_has_one_column_or_one_per_category_and_none_if_it_is_no_input() -> None:
    declared = parse(
        {
            "columns": {"kind": {"type": "category", "values": ["a", "b", "other"]}},
            "features": [
                {"name": "hour", "kind": "request", "op": "hour_of_day"},
                {"name": "kind", "kind": "request", "op": "column", "column": "kind"},
                {"name": "amount", "kind": "request", "op": "column", "column": "amount", "input": False},
                {"name": "late", "kind": "request", "op": "hour_between", "first": 22, "until": 6},
            ],
        }
    )
    plan = Plan(declared)
    assert vector_columns(plan) == {"hour": [0], "kind": [1, 2, 3], "late": [4]}
    assert plan.vector.names == ("hour", "kind_a", "kind_b", "kind_other", "late")
