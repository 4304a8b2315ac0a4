"""One model version: verification of its bytes, its compiled declaration, the ONNX Runtime session, the self-test."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as onnx_state

from fraud.core.declaration import DeclarationError, parse
from fraud.core.declaration_types import CategoryColumn
from fraud.core.plan import Plan
from fraud_serving.model.shapley import Groups

GOLDEN_TOLERANCE: Final = 1e-5
"""Allowed difference of a golden probability between two machines."""
_OUTPUT: Final = ["fraud_probability"]
_WARM_UP_RUNS: Final = 20
MICRO_BATCH_ROWS: Final = 64
# ONNX Runtime raises these for bytes that it cannot load.
_ONNX_ERRORS: Final[tuple[type[Exception], ...]] = (
    *(getattr(onnx_state, name) for name in (
        "EPFail", "EngineError", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoModel", "NoSuchFile",
        "NotFound", "NotImplemented", "RuntimeException",
    )), RuntimeError, ValueError,
)  # fmt: skip


class ArtefactRefusedError(Exception):
    """A version cannot be served. `kind` is a label of `serving_artefacts_refused_total`."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Registered:
    """A registered version. `source` is the URI of its files; the tags hold their sha256."""

    version: str
    run_id: str
    source: str
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Artefact:
    """The bytes of a version's files, not yet verified."""

    model: bytes
    serving: bytes


class Model:
    """A version that passed verification and self-test. Create it with `load`."""

    def __init__(
        self,
        registered: Registered,
        session: onnxruntime.InferenceSession,
        serving: Mapping[str, Any],
        plan: Plan,
        groups: Groups,
    ) -> None:
        self.version, self.run_id, self.tags = registered.version, registered.run_id, dict(registered.tags)
        self.model_sha256: str = registered.tags["model_sha256"]
        self.plan, self.groups = plan, groups
        self.threshold = float(serving["threshold"])
        self.level = str(serving["level"])
        self.micro_batch_rows = MICRO_BATCH_ROWS
        """Most rows of one call for several requests: every row gets the same bits as in a call of its own."""
        # The method below `InferenceSession.run`, whose checks of the input's names cost 2 us per call: they hold here.
        self._run = session._sess.run  # noqa: SLF001

    def score(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Fraud probabilities, float32[n], of float32[n, len(plan.vector.names)]."""
        probabilities: NDArray[np.float32] = self._run(_OUTPUT, {"features": vectors}, None)[0]
        return probabilities


def verify(registered: Registered, artefact: Artefact) -> None:
    """Compare each file's sha256 with the tags, before anything is parsed. Raises ArtefactRefusedError."""
    for name, data in (("model", artefact.model), ("serving", artefact.serving)):
        expected, got = registered.tags.get(f"{name}_sha256", ""), sha256(data).hexdigest()
        if got != expected:
            raise ArtefactRefusedError(
                "sha256", f"{name}: expected sha256 {expected or '(no tag)'}, got {got} of {len(data)} bytes"
            )


def load(registered: Registered, artefact: Artefact) -> Model:
    """Verify, parse, warm up and self-test. Raises ArtefactRefusedError."""
    verify(registered, artefact)
    try:
        serving = json.loads(artefact.serving)
        golden = np.asarray(serving["golden"]["vectors"], dtype=np.float32)
        expected = np.asarray(serving["golden"]["probabilities"], dtype=np.float64)
        stated = (float(serving["threshold"]), serving["level"], serving["model_bytes"])
        plan = _plan(registered, serving)
        groups = Groups(plan.vector, serving["reference"])
    except (ValueError, KeyError, TypeError) as error:
        raise ArtefactRefusedError("format", f"serving.json does not have the expected fields: {error!r}") from error
    if stated[2] != len(artefact.model):
        raise ArtefactRefusedError(
            "format", f"model.onnx: expected {stated[2]} bytes as in serving.json, got {len(artefact.model)}"
        )
    width = len(plan.vector.names)
    if golden.ndim != 2 or golden.shape[1] != width or len(golden) != len(expected) or not len(golden):
        raise ArtefactRefusedError(
            "format",
            f"golden rows: expected {width} columns, got vectors of shape {golden.shape} and probabilities of shape "
            f"{expected.shape}",
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(artefact.model, options, providers=["CPUExecutionProvider"])
        model = Model(registered, session, serving, plan, groups)
        _self_test(model, golden, expected)
    except _ONNX_ERRORS as error:
        raise ArtefactRefusedError("format", f"ONNX Runtime cannot load model.onnx: {error}") from error
    return model


def _plan(registered: Registered, serving: Mapping[str, Any]) -> Plan:
    """The compiled declaration of a version. Raises ArtefactRefusedError, KeyError."""
    try:
        declaration = parse(serving["declaration"], learnt=True)
    except DeclarationError as error:
        raise ArtefactRefusedError("features", f"the declaration in serving.json is not valid: {error}") from error
    for name in declaration.to_learn:
        column = declaration.columns[name]
        if isinstance(column, CategoryColumn) and column.values is None:
            raise ArtefactRefusedError("features", f"the declaration in serving.json: expected the values of {name}")
    tag = registered.tags.get("feature_hash", "")
    if declaration.hash != tag:
        raise ArtefactRefusedError(
            "features", f"expected a declaration with hash {tag or '(no tag feature_hash)'}, got {declaration.hash}"
        )
    return Plan(declaration)


def _self_test(model: Model, golden: NDArray[np.float32], expected: NDArray[np.float64]) -> None:
    for _ in range(_WARM_UP_RUNS):
        model.score(golden[:1])
    got = model.score(golden)
    if got.shape != expected.shape or got.dtype != np.float32:
        raise ArtefactRefusedError(
            "golden", f"golden rows: expected float32{expected.shape}, got {got.dtype}{got.shape}"
        )
    one_by_one = np.concatenate([model.score(golden[i : i + 1]) for i in range(len(golden))])
    for scores in (got, one_by_one):
        difference = float(np.max(np.abs(scores - expected)))
        if not difference <= GOLDEN_TOLERANCE:  # true for NaN
            raise ArtefactRefusedError(
                "golden", f"golden rows: expected a difference of at most {GOLDEN_TOLERANCE}, got {difference}"
            )
    if got.tobytes() != one_by_one.tobytes():
        # On this machine a row's last bits depend on the other rows of the call, and these are not recorded.
        model.micro_batch_rows = 1
