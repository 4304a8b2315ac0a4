"""Scoring in the browser's runtime: other bits are found, and what is missing is named."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tests.browser import ROOT, needs_edge

from fraud.scoring.browser_runtime import (
    PROGRAM,
    FailedError,
    NotAvailableError,
    browser_parity,
    browser_probabilities,
)

VECTORS = np.random.default_rng(0).normal(-2, 2, (2_000, 3)).astype(np.float32)


def sigmoid_of_the_first_column(wide: bool) -> bytes:
    """A graph whose sigmoid is computed in float64, or in float32."""
    nodes = [
        helper.make_node("Gather", ["features", "zero"], ["x"], axis=1),
        helper.make_node("Cast", ["x"], ["y"], to=TensorProto.DOUBLE if wide else TensorProto.FLOAT),
        helper.make_node("Sigmoid", ["y"], ["p"]),
        helper.make_node("Cast", ["p"], ["fraud_probability"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes, "sigmoid", [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("fraud_probability", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor("zero", TensorProto.INT64, [], [0])],
    )  # fmt: skip
    made: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return made.SerializeToString()


@needs_edge
def test_probabilities_are_those_of_the_rows_in_their_order() -> None:
    expected = (1 / (1 + np.exp(-VECTORS[:, 0].astype(np.float64)))).astype(np.float32)
    found = browser_probabilities(ROOT, sigmoid_of_the_first_column(wide=True), VECTORS)
    assert np.max(np.abs(found - expected)) <= 6e-8  # at most one rounding of a float32 below 1


@needs_edge
def test_a_sigmoid_in_float32_has_other_bits_and_is_found() -> None:
    found = browser_parity(ROOT, sigmoid_of_the_first_column(wide=False), VECTORS)
    assert found.rows == len(VECTORS)
    assert 0 < found.differing < found.rows
    assert 0 < found.largest < 1e-6


@needs_edge
def test_a_model_that_the_runtime_cannot_load_is_a_failure_with_its_message() -> None:
    with pytest.raises(FailedError, match="cannot load"):
        browser_probabilities(ROOT, b"no model", VECTORS)


def test_without_node_the_message_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotAvailableError, match="Node is not installed"):
        browser_probabilities(ROOT, b"", VECTORS)


def test_without_the_built_program_the_message_says_how_to_build_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    node = tmp_path / "node"
    node.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotAvailableError, match=f"{PROGRAM} is not built; make setup builds it"):
        browser_probabilities(tmp_path, b"", VECTORS)
