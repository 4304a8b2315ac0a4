"""A model of the size that training registers (300 trees of 15 leaves), as the verified local copy of serving."""

import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnxruntime
from sklearn.ensemble import HistGradientBoostingClassifier

from fraud.core.features import CATEGORY_OFFSET, VECTOR_NAMES, definition_hash
from fraud.training.ladder.boosting import FittedBoosting

TREES, LEAVES, ROWS = 300, 15, 60_000


def fitted() -> tuple[HistGradientBoostingClassifier, np.ndarray]:
    """The model and its training vectors, float32[ROWS, 27]; equal at every call."""
    rng = np.random.default_rng(0)
    width = len(VECTOR_NAMES)
    vectors = rng.gamma(2, 50, (ROWS, width)).astype(np.float32)
    vectors[:, CATEGORY_OFFSET:] = 0
    vectors[np.arange(ROWS), CATEGORY_OFFSET + rng.integers(0, width - CATEGORY_OFFSET, ROWS)] = 1
    logit = vectors[:, 0] / 50 - vectors[:, 6] / 40 + vectors[:, 5] / 60 - 4
    model = HistGradientBoostingClassifier(
        max_iter=TREES, max_leaf_nodes=LEAVES, learning_rate=0.05, early_stopping=False
    ).fit(vectors, rng.random(ROWS) < 1 / (1 + np.exp(-logit)))
    return model, vectors


def write(cache: Path) -> Path:
    """Train it and write it as training does. Returns the path of model.onnx."""
    model, vectors = fitted()
    data = FittedBoosting(model, ()).to_onnx()
    golden = vectors[:8]
    answers = onnxruntime.InferenceSession(data).run(["fraud_probability"], {"features": golden})[0]
    digest = sha256(data).hexdigest()
    facts = json.dumps(
        {
            "model_sha256": digest, "model_bytes": len(data), "feature_hash": definition_hash(), "threshold": 0.5,
            "level": "boosting",
            "golden": {"vectors": golden.tolist(), "probabilities": answers.astype(float).tolist()},
        }
    ).encode()  # fmt: skip
    folder = cache / digest
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(data)
    (folder / "serving.json").write_bytes(facts)
    tags = {"model_sha256": digest, "serving_sha256": sha256(facts).hexdigest()}
    recorded = {"version": "1", "run_id": "bench", "source": "local", "tags": tags}
    (cache / "served.json").write_text(json.dumps(recorded))
    return folder / "model.onnx"
