"""A model of the size that training registers (300 trees of 15 leaves), as the verified local copy of serving.

Also what else a server of the bench needs: published daily tables, and the model as another commit writes it.
"""

import json
import os
import subprocess
import sys
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime
from sklearn.ensemble import HistGradientBoostingClassifier

from fraud.core.daily import Snapshot
from fraud.core.plan import Plan
from fraud.declaration_file import load
from fraud.streams.redis_client import open_client
from fraud.training.ladder.boosting import FittedBoosting

ROOT: Final = Path(__file__).parents[2]
THREE: Final = ROOT / "tests/declarations/three.yaml"
SHIPPED: Final = ROOT / "feature_repo/features.yaml"
TREES, LEAVES, ROWS = 300, 15, 60_000
MERCHANTS: Final = 2_000
LEARNT: Final = tuple(sorted({"other", *(f"country-{n:02d}" for n in range(50))}))
"""The values of every learnt category."""


def plan_of(path: Path) -> Plan:
    """The compiled declaration, with a learnt list of 51 values for each column that has one."""
    declaration = load(path)
    return Plan(declaration.resolved(dict.fromkeys(declaration.to_learn, LEARNT)))


def fitted(plan: Plan | None = None) -> tuple[HistGradientBoostingClassifier, np.ndarray]:
    """The model and its training vectors, float32[ROWS, columns]; equal at every call. Default: the three features."""
    plan = plan or plan_of(THREE)
    rng, names = np.random.default_rng(0), plan.vector.names
    vectors = rng.gamma(2, 50, (ROWS, len(names))).astype(np.float32)
    for of in plan.vector.inputs:
        if of.categories:
            start = names.index(f"{of.name}_{of.categories[0]}")
            vectors[:, start : start + len(of.categories)] = 0
            vectors[np.arange(ROWS), start + rng.integers(0, len(of.categories), ROWS)] = 1
    amount, velocity, average = (
        vectors[:, names.index(name)] for name in ("amount", "transaction_velocity_1h", "avg_amount_7d")
    )
    logit = amount / 50 - average / 40 + velocity / 60 - 4
    model = HistGradientBoostingClassifier(
        max_iter=TREES, max_leaf_nodes=LEAVES, learning_rate=0.05, early_stopping=False
    ).fit(vectors, rng.random(ROWS) < 1 / (1 + np.exp(-logit)))
    return model, vectors


def write(cache: Path, path: Path = THREE) -> Path:
    """Train it on a declaration's vectors and write it as training does. Returns the path of model.onnx."""
    plan = plan_of(path)
    model, vectors = fitted(plan)
    data = FittedBoosting(model, ()).to_onnx()
    golden = vectors[:8]
    answers = onnxruntime.InferenceSession(data).run(["fraud_probability"], {"features": golden})[0]
    digest = sha256(data).hexdigest()
    facts = json.dumps(
        {
            "model_sha256": digest, "model_bytes": len(data), "feature_hash": plan.hash, "threshold": 0.5,
            "level": "boosting", "declaration": json.loads(plan.declaration.canonical()),
            "reference": [0 if of.categories else 1.0 for of in plan.vector.inputs],
            "golden": {"vectors": golden.tolist(), "probabilities": answers.astype(float).tolist()},
        }
    ).encode()  # fmt: skip
    folder = cache / digest
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(data)
    (folder / "serving.json").write_bytes(facts)
    tags = {"model_sha256": digest, "serving_sha256": sha256(facts).hexdigest(), "feature_hash": plan.hash}
    recorded = {"version": "1", "run_id": "bench", "source": "local", "tags": tags}
    (cache / "served.json").write_text(json.dumps(recorded))
    return folder / "model.onnx"


def publish_daily(store_url: str, first_s: int) -> None:
    """Publish a snapshot of the shipped declaration's daily tables with a row for each merchant, from `first_s` on."""
    with closing(open_client(store_url)) as client:
        for table in plan_of(SHIPPED).tables:
            default = [0.0 if value is None else value for value in table.empty]
            snapshot = Snapshot(table.day_of(first_s * 1_000_000), "bench-000000000000", default)
            row = table.pack([0.5 + i for i in range(len(table.names))])
            pipeline = client.pipeline(transaction=False)
            for n in range(MERCHANTS):
                pipeline.set(table.row_key(snapshot.id, f"m{n:04d}"), row)
            pipeline.execute()
            client.hset(table.pointer_key, str(snapshot.day), snapshot.to_json())


def sources(checkout: Path) -> str:
    """PYTHONPATH of the packages in a checkout."""
    return f"{checkout / 'src'}:{checkout / 'services/serving/src'}"


def write_baseline(checkout: Path, cache: Path) -> None:
    """The bench's model as another commit writes it."""
    code = f"import pathlib, serving_model; serving_model.write(pathlib.Path({str(cache)!r}))"
    env = os.environ | {"PYTHONPATH": f"{checkout / 'tests/bench'}:{sources(checkout)}"}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)
