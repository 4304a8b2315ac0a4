"""One version of the model, ready to score: verified bytes, an ONNX Runtime session, proof by golden rows."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as onnx_state

from fraud.core.features import VECTOR_NAMES, definition_hash
from fraud_serving.model import explain

GOLDEN_TOLERANCE: Final = 1e-5
"""What a golden probability may differ between two machines' arithmetic."""
_OUTPUT: Final = ["fraud_probability"]
_WARM_UP_RUNS: Final = 20
ROWS_AT_ONCE: Final = 64
# What ONNX Runtime raises for bytes it cannot use.
_ONNX_ERRORS: Final[tuple[type[Exception], ...]] = (
    *(getattr(onnx_state, name) for name in (
        "EPFail", "EngineError", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoModel", "NoSuchFile",
        "NotFound", "NotImplemented", "RuntimeException",
    )), RuntimeError, ValueError,
)  # fmt: skip


class ArtefactRefusedError(Exception):
    """A version must not be served. `kind` is a metric label: sha256, features, format, golden, source, level."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Registered:
    """What the registry says about a version. The tags are the authority on its bytes."""

    version: str
    run_id: str
    source: str
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Artefact:
    """A version's files as bytes, not yet trusted."""

    model: bytes
    serving: bytes


class Model:
    """A version that may be served. Make it with `load`."""

    def __init__(self, registered: Registered, session: onnxruntime.InferenceSession, facts: Mapping[str, Any]) -> None:
        self.version, self.run_id, self.tags = registered.version, registered.run_id, dict(registered.tags)
        self.model_sha256: str = registered.tags["model_sha256"]
        self.feature_hash = str(facts["feature_hash"])
        self.threshold = float(facts["threshold"])
        self.level = str(facts["level"])
        self.ordinary = explain.ordinary(np.asarray(facts["golden"]["vectors"], dtype=np.float32))
        self.rows_at_once = ROWS_AT_ONCE
        """So many rows of different requests may be scored by one call without a bit of any answer changing."""
        self._run = session.run

    def score(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32[n, len(VECTOR_NAMES)] -> fraud probabilities, float32[n]."""
        answer: NDArray[np.float32] = self._run(_OUTPUT, {"features": vectors})[0]
        return answer


def verify(registered: Registered, artefact: Artefact) -> None:
    """Compare sizes and sha256 with the tags, before anything is parsed. Raises ArtefactRefusedError."""
    for name, data in (("model", artefact.model), ("serving", artefact.serving)):
        wanted, got = registered.tags.get(f"{name}_sha256", ""), sha256(data).hexdigest()
        if got != wanted:
            raise ArtefactRefusedError(
                "sha256", f"{name} has {len(data)} bytes of sha256 {got}, the tag says {wanted or 'nothing'}"
            )


def load(registered: Registered, artefact: Artefact) -> Model:
    """Verify, parse, warm up and self-test. Raises ArtefactRefusedError."""
    verify(registered, artefact)
    try:
        facts = json.loads(artefact.serving)
        golden = np.asarray(facts["golden"]["vectors"], dtype=np.float32)
        expected = np.asarray(facts["golden"]["probabilities"], dtype=np.float64)
        stated = (facts["feature_hash"], float(facts["threshold"]), facts["level"], facts["model_bytes"])
    except (ValueError, KeyError, TypeError) as error:
        raise ArtefactRefusedError("format", f"serving.json is not as agreed: {error!r}") from error
    if stated[0] != definition_hash():
        raise ArtefactRefusedError("features", f"made for features {stated[0]}, these are {definition_hash()}")
    if stated[3] != len(artefact.model):
        raise ArtefactRefusedError(
            "format", f"serving.json says {stated[3]} bytes, model.onnx has {len(artefact.model)}"
        )
    if golden.ndim != 2 or golden.shape[1] != len(VECTOR_NAMES) or len(golden) != len(expected) or not len(golden):
        raise ArtefactRefusedError("format", f"golden rows have the shape {golden.shape}, {expected.shape}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(artefact.model, options, providers=["CPUExecutionProvider"])
        model = Model(registered, session, facts)
        _self_test(model, golden, expected)
    except _ONNX_ERRORS as error:
        raise ArtefactRefusedError("format", f"ONNX Runtime does not take model.onnx: {error}") from error
    return model


def _self_test(model: Model, golden: NDArray[np.float32], expected: NDArray[np.float64]) -> None:
    for _ in range(_WARM_UP_RUNS):
        model.score(golden[:1])
    got = model.score(golden)
    if got.shape != expected.shape or got.dtype != np.float32:
        raise ArtefactRefusedError("golden", f"answers {got.dtype}{got.shape}, wanted float32{expected.shape}")
    one_by_one = np.concatenate([model.score(golden[i : i + 1]) for i in range(len(golden))])
    for answers in (got, one_by_one):
        worst = float(np.max(np.abs(answers - expected)))
        if not worst <= GOLDEN_TOLERANCE:  # NaN is not
            raise ArtefactRefusedError("golden", f"golden rows differ by up to {worst}, at most {GOLDEN_TOLERANCE}")
    if got.tobytes() != one_by_one.tobytes():
        # Here a row's last bits depend on its company. An answer must not: who asked beside it is recorded nowhere.
        model.rows_at_once = 1
