"""The compiled walk over trees answers as ONNX Runtime does, bit for bit, and is not used for other graphs."""

from itertools import count
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from fraud.core.plan import Plan
from fraud.declaration_file import load
from fraud.params import Params
from fraud.scoring import trees
from fraud.scoring.onnx_session import OnnxModel
from fraud.scoring.trees import MAX_LEAVES, FastTrees, Forest, batch_model
from fraud.training.ladder import boosting
from fraud.training.ladder.levels import Inputs, Sample

ROOT = Path(__file__).resolve().parents[3]
TRAINING = Params.load(ROOT / "params.yaml").training
THREE = load(ROOT / "tests/declarations/three.yaml")
COLUMNS = 5
BOUNDS = np.array([-1.5, 0.0, 0.1, 1e-30, 2.0, 1e9], np.float32)


def forest(seed: int, leaves: list[int], *, mode: str = "BRANCH_LEQ", **settings: object) -> bytes:
    """ONNX bytes of random trees with so many leaves each, a parent before its children."""
    rng = np.random.default_rng(seed)
    nodes: dict[str, list[object]] = {name: [] for name in (
        "treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids",
        "missing_value_tracks_true",
    )}  # fmt: skip
    targets: list[tuple[int, int, float]] = []

    def grow(tree: int, size: int, numbers: "count[int]") -> int:
        number = next(numbers)
        at = len(nodes["nodeids"])
        for values in nodes.values():
            values.append(None)
        if size == 1:
            row: tuple[object, ...] = (tree, number, 0, "LEAF", 0.0, 0, 0, 0)
            targets.append((tree, number, float(np.float32(rng.normal()))))
        else:
            left = int(rng.integers(1, size))
            below = grow(tree, left, numbers), grow(tree, size - left, numbers)
            row = (tree, number, int(rng.integers(COLUMNS)), mode, float(rng.choice(BOUNDS)), *below,
                   int(rng.integers(2)))  # fmt: skip
        for values, value in zip(nodes.values(), row, strict=True):
            values[at] = value
        return number

    for tree, size in enumerate(leaves):
        grow(tree, size, count())
    fields = {f"nodes_{name}": values for name, values in nodes.items()}
    given = {"n_targets": 1, "aggregate_function": "SUM", "base_values": [0.25], **fields, **settings}
    graph = helper.make_graph(
        [
            helper.make_node(
                "TreeEnsembleRegressor", ["features"], ["logit"], domain="ai.onnx.ml",
                target_treeids=[t[0] for t in targets], target_nodeids=[t[1] for t in targets],
                target_ids=[0] * len(targets), target_weights=[t[2] for t in targets], **given,
            ),
            helper.make_node("Sigmoid", ["logit"], ["p"]),
            helper.make_node("Reshape", ["p", "flat"], ["fraud_probability"]),
        ],
        "trees",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", COLUMNS])],
        [helper.make_tensor_value_info("fraud_probability", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor("flat", TensorProto.INT64, [1], [-1])],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    data: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    return data


def awkward_rows(n: int) -> NDArray[np.float32]:
    """Values on, just beside and far from every bound, NaN and infinities among them."""
    beside = [np.nextafter(BOUNDS, np.float32(side)) for side in (-np.inf, np.inf)]
    values = np.concatenate([BOUNDS, *beside, np.float32([np.nan, np.inf, -np.inf, -0.0])])
    return np.random.default_rng(0).choice(values, (n, COLUMNS))


@pytest.mark.parametrize("leaves", [[1, 2], [32], [3, 1, 31, 32], list(range(1, 33)) * 4])
@pytest.mark.parametrize("rows", [1, 255, 256, 257, 5_000])
def test_it_answers_as_onnx_runtime_does_to_the_bit(leaves: list[int], rows: int) -> None:
    data, vectors = forest(len(leaves), leaves), awkward_rows(rows)
    fast = batch_model(data)
    assert isinstance(fast, FastTrees)
    assert fast.probabilities(vectors).tobytes() == OnnxModel(data).probabilities(vectors).tobytes()


def test_the_uncompiled_loops_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    data, vectors = forest(7, [5, 9]), awkward_rows(300)
    fast = batch_model(data)
    compiled = fast.probabilities(vectors)
    monkeypatch.setattr(trees, "add_leaves", trees.add_leaves.py_func)  # type: ignore[attr-defined]
    assert fast.probabilities(vectors).tobytes() == compiled.tobytes()


@pytest.mark.parametrize(("missing_left", "at_nan"), [(True, -0.75), (False, 2.25)])
def test_one_split_by_hand(missing_left: bool, at_nan: float) -> None:
    """x <= 0.1 is -1, any other 2, NaN as the split says; 0.25 is added to all."""
    leaves = np.zeros((1, MAX_LEAVES), np.float32)
    leaves[0, :2] = -1, 2
    one = Forest(
        np.float32(0.25), np.array([0, 1]), np.array([0]), np.float32([0.1]), np.array([missing_left]),
        np.array([~1], np.int32), leaves,
    )  # fmt: skip
    above = np.nextafter(np.float32(0.1), np.float32(1))
    answers = one.logits(np.float32([[0.1], [above], [-np.inf], [np.nan]]))
    assert answers.ravel().tolist() == [-0.75, 2.25, -0.75, at_nan]


def test_scikit_learns_trees_are_met_within_two_millionths() -> None:
    rng = np.random.default_rng(0)
    inputs = Inputs.of(THREE, Plan(THREE).vector.names)
    vectors = rng.gamma(2, 50, (20_000, len(inputs.names))).astype(np.float32)
    sample = Sample(vectors, vectors[:, 0] > vectors[:, 3] + rng.normal(0, 30, len(vectors)), inputs)
    fitted = boosting.fit(sample, sample, TRAINING, lambda *_args, **_facts: None)
    fast = batch_model(fitted.to_onnx())
    assert isinstance(fast, FastTrees)
    assert np.max(np.abs(fast.probabilities(vectors) - fitted.predict(vectors))) <= 2e-6


@pytest.mark.parametrize(
    "data",
    [
        forest(1, [33]),
        forest(1, [4], mode="BRANCH_LT"),
        forest(1, [4, 4], aggregate_function="AVERAGE"),
        forest(1, [4], post_transform="LOGISTIC"),
        forest(1, [1, 1]),
    ],
    ids=["33 leaves", "another comparison", "another sum", "a transform", "no split"],
)
def test_any_other_graph_is_left_to_onnx_runtime(data: bytes) -> None:
    assert isinstance(batch_model(data), OnnxModel)


def test_a_walk_that_differs_in_one_bit_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def off_by_one_bit(self: Forest, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.nextafter(logits(self, vectors), np.float32(np.inf))

    logits = Forest.logits
    monkeypatch.setattr(Forest, "logits", off_by_one_bit)
    assert isinstance(batch_model(forest(3, [8, 8])), OnnxModel)
