"""Evaluate boosted trees for many rows at once, with the same bits as ONNX Runtime and faster.

The algorithm is QuickScorer (Lucchese et al., SIGIR 2015) with a layout for vector units. Leaves of a tree are numbered
from left to right, one bit each. A false split removes the leaves of its left subtree; the order of splits does not
matter. The lowest remaining bit is the leaf. No branch depends on a row, so the compiler vectorizes the loops over
rows. Only the TreeEnsembleRegressor is evaluated here; ONNX Runtime evaluates the rest of the graph.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from fraud.features.engines.compiled import compiled
from fraud.scoring.onnx_session import OnnxModel

MAX_LEAVES: Final = 32
ROWS_AT_ONCE: Final = 256
"""Rows that are evaluated together: their features (130 columns x 256 x 4 bytes) fit into the cache of a core."""
_SETTINGS: Final = {"n_targets": 1, "aggregate_function": b"SUM", "post_transform": b"NONE"}
_MODES: Final = {b"BRANCH_LEQ", b"LEAF"}
_PROBES: Final = 4_096


@compiled
def add_leaves(
    vectors: NDArray[np.float32], starts: NDArray[np.int64], column: NDArray[np.int64],
    bound: NDArray[np.float32], missing_left: NDArray[np.bool_], kept: NDArray[np.int32],
    leaves: NDArray[np.float32], rows_at_once: int, out: NDArray[np.float32],
) -> None:  # fmt: skip
    """Add the leaves of vectors[i] to out[i], tree by tree in float32, in the same order as ONNX Runtime.

    Splits of tree t are starts[t]:starts[t + 1]. A value of at most `bound` goes left, and NaN if `missing_left`. For
    all other values only the leaves in `kept` remain. leaves[t] are the values of the tree from left to right.
    """
    n, width = vectors.shape
    block = np.zeros((width, rows_at_once), dtype=np.float32)
    alive = np.empty(rows_at_once, dtype=np.int32)
    lowest = np.empty(rows_at_once, dtype=np.float32)
    exponents = lowest.view(np.uint32)
    for first in range(0, n, rows_at_once):
        rows = min(rows_at_once, n - first)
        for i in range(rows):
            for c in range(width):
                block[c, i] = vectors[first + i, c]
        for tree in range(len(starts) - 1):
            alive[:] = -1
            for split in range(starts[tree], starts[tree + 1]):
                values, limit, mask = block[column[split]], bound[split], kept[split]
                if missing_left[split]:
                    for i in range(rows_at_once):
                        alive[i] &= mask if values[i] > limit else np.int32(-1)
                else:
                    for i in range(rows_at_once):
                        alive[i] &= np.int32(-1) if values[i] <= limit else mask
            for i in range(rows_at_once):
                lowest[i] = np.float32(alive[i] & -alive[i])
            values = leaves[tree]
            for i in range(rows):  # the exponent of a power of two is the number of its bit
                out[first + i] += values[((exponents[i] >> np.uint32(23)) - np.uint32(127)) & np.uint32(31)]


@dataclass(frozen=True, slots=True)
class Forest:
    """A TreeEnsembleRegressor in the layout of `add_leaves`."""

    base: np.float32
    starts: NDArray[np.int64]
    column: NDArray[np.int64]
    bound: NDArray[np.float32]
    missing_left: NDArray[np.bool_]
    kept: NDArray[np.int32]
    leaves: NDArray[np.float32]

    def logits(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Output of the operator, float32[n, 1], for vectors float32[n, d]."""
        out = np.zeros(len(vectors), np.float32)
        add_leaves(vectors, self.starts, self.column, self.bound, self.missing_left, self.kept, self.leaves,
                   ROWS_AT_ONCE, out)  # fmt: skip
        return (out + self.base)[:, None]


class FastTrees:
    """A model whose trees are evaluated by `add_leaves`, the rest of its graph by ONNX Runtime."""

    def __init__(self, trees: Forest, rest: bytes) -> None:
        self._trees, self._rest = trees, OnnxModel(rest)

    def probabilities(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32[n]; vectors is float32[n, d]."""
        return self._rest.probabilities(self._trees.logits(vectors))


def probes(data: bytes) -> NDArray[np.float32]:
    """Rows with values beside the splits of a model's first node, float32[n, d]; no rows if it is no forest."""
    columns = OnnxModel(data).columns
    first = onnx.load_from_string(data).graph.node[0]
    trees = _forest(first) if first.op_type == "TreeEnsembleRegressor" else None
    return np.empty((0, columns), np.float32) if trees is None else _beside_splits(trees, columns)


def batch_model(data: bytes) -> FastTrees | OnnxModel:
    """FastTrees if the first node of the graph is a forest and probes beside its splits give the same bits
    as in ONNX Runtime; otherwise ONNX Runtime.
    """
    reference = OnnxModel(data)
    graph = onnx.load_from_string(data)
    first = graph.graph.node[0]
    trees = _forest(first) if first.op_type == "TreeEnsembleRegressor" else None
    if trees is None:
        return reference
    del graph.graph.node[0], graph.graph.input[:]
    graph.graph.input.append(helper.make_tensor_value_info(first.output[0], TensorProto.FLOAT, ["n", 1]))
    fast = FastTrees(trees, graph.SerializeToString())
    probes = _beside_splits(trees, reference.columns)
    equal = fast.probabilities(probes).tobytes() == reference.probabilities(probes).tobytes()
    return fast if equal else reference


def _beside_splits(trees: Forest, columns: int) -> NDArray[np.float32]:
    """Probe rows with values just below, at and just above bounds of each column, and NaN: float32[n, columns]."""
    rng = np.random.default_rng(0)
    probes = np.zeros((_PROBES, columns), np.float32)
    for column in np.unique(trees.column):
        bounds = trees.bound[trees.column == column]
        near = [np.nextafter(bounds, np.float32(-np.inf)), bounds, np.nextafter(bounds, np.float32(np.inf))]
        probes[:, column] = rng.choice(np.concatenate([*near, [np.float32(np.nan)]]), _PROBES)
    return probes


def _forest(operator: onnx.NodeProto) -> Forest | None:
    """The operator's trees; None unless it is a sum of trees with `<=` splits and at most MAX_LEAVES leaves."""
    given: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in operator.attribute}
    if any(given.get(name, value) != value for name, value in _SETTINGS.items()):
        return None
    tracks = given.get("nodes_missing_value_tracks_true") or [0] * len(given["nodes_modes"])
    fields = [given[f"nodes_{name}"] for name in ("modes", "featureids", "values", "truenodeids", "falsenodeids")]
    keys = list(zip(given["nodes_treeids"], given["nodes_nodeids"], strict=True))
    nodes = dict(zip(keys, zip(*fields, tracks, strict=True), strict=True))
    found = list(zip(given["target_treeids"], given["target_nodeids"], strict=True))
    value = dict(zip(found, given["target_weights"], strict=True))
    sizes = Counter(tree for tree, number in keys if nodes[tree, number][0] == b"LEAF")
    if not {mode for mode, *_ in nodes.values()} <= _MODES or max(sizes.values()) > MAX_LEAVES:
        return None
    starts, splits, leaves = [0], list[tuple[Any, ...]](), np.zeros((len(sizes), MAX_LEAVES), np.float32)

    def below(node: tuple[int, int], values: list[float]) -> int:
        """The leaves below a node as bits. Numbers the leaves from left to right."""
        mode, column, bound, left, right, missing_left = nodes[node]
        if mode == b"LEAF":
            values.append(value[node])
            return 1 << len(values) - 1
        left_leaves = below((node[0], left), values)
        right_leaves = below((node[0], right), values)
        splits.append((column, bound, missing_left, ~left_leaves))
        return left_leaves | right_leaves

    roots = {tree: (tree, number) for tree, number in reversed(keys)}  # the first node of a tree is its root
    for at, tree in enumerate(dict.fromkeys(given["nodes_treeids"])):
        values: list[float] = []
        below(roots[tree], values)
        leaves[at, : len(values)] = values
        starts.append(len(splits))
    if not splits:
        return None
    column, bound, missing_left, kept = (np.array(values) for values in zip(*splits, strict=True))
    base = np.float32(given.get("base_values", [0.0])[0])
    return Forest(
        base, np.array(starts), column, bound.astype(np.float32), missing_left.astype(np.bool_), kept.astype(np.int32),
        leaves,
    )  # fmt: skip
