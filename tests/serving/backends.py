"""A real MLflow server and small models on disk, in the ML environment. Ends when standard input is closed.

A line `kill` on standard input kills the server with its children, `start` starts it again over the same data.

.venv/ml/bin/python tests/serving/backends.py FOLDER
"""

import json
import os
import secrets
import signal
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fraud.core.features import VECTOR_NAMES, definition_hash
from fraud.embedded.servers import mlflow_server, valkey

THRESHOLD = 0.5
# The logit of model i is BIASES[i] + sum of these over the vector. tests/serving/expected.py computes it by hand.
WEIGHTS = {
    "amount": 0.0001, "distance_missing": 0.25, "transaction_velocity_1h": 0.125, "avg_amount_7d": -0.0002,
    "unique_merchants_30d": 0.5, "category_other": 0.75,
}  # fmt: skip
BIASES = (-1.0, -0.5, 0.0, 0.5, 1.0)


def build(folder: Path, bias: float) -> None:
    """Write `model.onnx` and `serving.json` as a training run does."""
    weights = np.zeros((len(VECTOR_NAMES), 1), dtype=np.float32)
    for name, weight in WEIGHTS.items():
        weights[VECTOR_NAMES.index(name)] = weight
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["features", "weights"], ["weighted"]),
            helper.make_node("Add", ["weighted", "bias"], ["logit"]),
            helper.make_node("Sigmoid", ["logit"], ["column"]),
            helper.make_node("Reshape", ["column", "flat"], ["fraud_probability"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, len(VECTOR_NAMES)])],
        [helper.make_tensor_value_info("fraud_probability", TensorProto.FLOAT, [None])],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(np.array([bias], dtype=np.float32), "bias"),
            numpy_helper.from_array(np.array([-1], dtype=np.int64), "flat"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    data = model.SerializeToString(deterministic=True)
    vectors = np.random.default_rng(3).uniform(0, 100, (8, len(VECTOR_NAMES))).astype(np.float32)
    logits = vectors.astype(np.float64) @ weights.astype(np.float64) + bias
    facts = {
        "model_sha256": sha256(data).hexdigest(), "model_bytes": len(data), "feature_hash": definition_hash(),
        "threshold": THRESHOLD, "level": "tiny",
        "golden": {"vectors": vectors.tolist(), "probabilities": (1 / (1 + np.exp(-logits[:, 0]))).tolist()},
    }  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(data)
    (folder / "serving.json").write_text(json.dumps(facts))


def main() -> None:
    folder = Path(sys.argv[1])
    for number, bias in enumerate(BIASES):
        build(folder / "models" / str(number), bias)
    home, password = folder / "mlflow", secrets.token_urlsafe(16)
    server = mlflow_server.start(home, password)
    port = int(server.url.rpartition(":")[2])
    try:
        print(json.dumps({"mlflow": server.url, "password": password, "valkey": str(valkey.binary())}), flush=True)
        for line in sys.stdin:
            if line.strip() == "kill":
                os.killpg(server.pid, signal.SIGKILL)
            else:
                server = mlflow_server.start(home, password, port=port)
            print("done", flush=True)
    finally:
        mlflow_server.stop(server)


if __name__ == "__main__":
    main()
