"""Write ONNX graphs whose bytes depend on the model alone: they contain no time, producer or path.

docs/adr/0004-onnx-only.md explains why no converter is used.

A graph must give the same bits on every processor, in WebAssembly, and for one row as for many. Trees are sums of
float32 in one order everywhere. Everything else that rounds is computed in float64 and rounded to float32 at the end:
sums and functions that differ in their last bits are then equal (docs/adr/0050-same-bits-in-the-browser.md).
"""

from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

INPUT: Final = "features"
OUTPUT: Final = "fraud_probability"
OPSET: Final = 17
ML_OPSET: Final = 3
ML: Final = "ai.onnx.ml"
_IR_VERSION: Final = 8


class Graph:
    """Nodes in the order in which they were added. `node` returns the name of a value."""

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def constant(self, values: NDArray[Any]) -> str:
        """An array as a value of the graph, in its own dtype."""
        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def node(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:  # noqa: ANN401 - ONNX attributes
        """Add an operator with one output; returns the name of the output."""
        output = f"value_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, list(inputs), [output], output, domain=domain, **attributes))
        return output

    def sigmoid(self, logit: str) -> str:
        """Add the sigmoid of a float32 or float64 value, computed in float64; returns the name of the output."""
        return self.node("Sigmoid", self.node("Cast", logit, to=TensorProto.DOUBLE))

    def to_bytes(self, probability: str) -> bytes:
        """Serialize the model. Its output is the given value (any float type, n elements) as float32[n]."""
        flat = self.node("Reshape", probability, self.constant(np.array([-1], dtype=np.int64)))
        self._nodes.append(helper.make_node("Cast", [flat], [OUTPUT], OUTPUT, to=TensorProto.FLOAT))
        graph = helper.make_graph(
            self._nodes, "fraud_detector",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["n", self._columns])],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["n"])],
            self._constants,
        )  # fmt: skip
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(ML, ML_OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
        onnx.checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString(deterministic=True))
