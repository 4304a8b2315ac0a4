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

from fraud.core.plan import Plan
from fraud.declaration_file import load
from fraud.embedded.servers import kafka, mlflow_server, valkey

ROOT = Path(__file__).parents[2]
THRESHOLD = 0.5
# The logit of a model is its bias + the sum of these over the vector. tests/serving/expected.py computes it by hand.
WEIGHTS = {
    "amount": 0.0001, "distance_missing": 0.25, "transaction_velocity_1h": 0.125, "avg_amount_7d": -0.0002,
    "unique_merchants_30d": 0.5, "category_other": 0.75,
}  # fmt: skip
OF_ENTITIES = {
    "device_users_1d": 0.3, "merchant_fraud_rate_7d": 2.0, "merchant_count_1d": 0.01, "card_present": -0.2,
    "country_fr": 0.4, "same_country_as_last": -0.1,
}  # fmt: skip
"""Additional weights of the models of tests/declarations/entities.yaml."""
LEARNT = {"country": ("fr", "other", "us")}
REFERENCE = {"amount": 50.0, "hour_of_day": 12, "day_of_week": 2, "distance_from_home": 4.0}
"""Base values of the reference payment; all others are 0, the first category or, for means, null."""
THREE, ENTITIES = "tests/declarations/three.yaml", "tests/declarations/entities.yaml"
MODELS = (
    *((THREE, bias) for bias in (-1.0, -0.5, 0.0, 0.5, 1.0)), (ENTITIES, -1.0), (ENTITIES, 0.0),
    ("feature_repo/features.yaml", -1.0),
)  # fmt: skip


def build(folder: Path, declared: str, bias: float) -> None:
    """Write `model.onnx` and `serving.json` as a training run does."""
    declaration = load(ROOT / declared)
    plan = Plan(declaration.resolved({name: LEARNT[name] for name in declaration.to_learn}))
    names = plan.vector.names
    weights = np.zeros((len(names), 1), dtype=np.float64)
    for name, weight in {**WEIGHTS, **(OF_ENTITIES if declared == ENTITIES else {})}.items():
        weights[names.index(name)] = weight
    graph = helper.make_graph(
        [
            # In float64, as the graphs of the ladder, so that a browser computes the same bits.
            helper.make_node("Cast", ["features"], ["wide"], to=TensorProto.DOUBLE),
            helper.make_node("MatMul", ["wide", "weights"], ["weighted"]),
            helper.make_node("Add", ["weighted", "bias"], ["logit"]),
            helper.make_node("Sigmoid", ["logit"], ["column"]),
            helper.make_node("Cast", ["column"], ["narrow"], to=TensorProto.FLOAT),
            helper.make_node("Reshape", ["narrow", "flat"], ["fraud_probability"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, len(names)])],
        [helper.make_tensor_value_info("fraud_probability", TensorProto.FLOAT, [None])],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(np.array([bias], dtype=np.float64), "bias"),
            numpy_helper.from_array(np.array([-1], dtype=np.int64), "flat"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    data = model.SerializeToString(deterministic=True)
    vectors = np.random.default_rng(3).uniform(0, 100, (8, len(names))).astype(np.float32)
    logits = vectors.astype(np.float64) @ weights + bias
    facts = {
        "model_sha256": sha256(data).hexdigest(), "model_bytes": len(data), "feature_hash": plan.hash,
        "declaration": json.loads(plan.declaration.canonical()),
        "reference": [
            0 if of.categories else REFERENCE.get(of.name, None if of.name.startswith("avg") else 0.0)
            for of in plan.vector.inputs
        ],
        "threshold": THRESHOLD, "level": "tiny",
        "golden": {"vectors": vectors.tolist(), "probabilities": (1 / (1 + np.exp(-logits[:, 0]))).tolist()},
    }  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(data)
    (folder / "serving.json").write_text(json.dumps(facts))


def main() -> None:
    folder = Path(sys.argv[1])
    for number, (declared, bias) in enumerate(MODELS):
        build(folder / "models" / str(number), declared, bias)
    home, password = folder / "mlflow", secrets.token_urlsafe(16)
    server = mlflow_server.start(home, password)
    port = int(server.url.rpartition(":")[2])
    try:
        addresses = {
            "mlflow": server.url, "password": password, "valkey": str(valkey.binary()), "kafka": kafka.command(0),
        }  # fmt: skip
        print(json.dumps(addresses), flush=True)
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
