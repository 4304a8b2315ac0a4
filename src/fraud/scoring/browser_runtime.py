"""Run a model in ONNX Runtime Web, the runtime of browsers, and compare its probabilities with the native ones.

The runtime is WebAssembly and runs in Node as it does in a browser. `edge/` has the program that runs it.
"""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fraud.scoring.onnx_session import OnnxModel

PROGRAM: Final = Path("edge/dist/tools/run-model.mjs")
_LIMIT_S: Final = 60
_FLOAT32: Final = np.dtype("<f4")


class NotAvailableError(Exception):
    """The runtime cannot be used on this machine. The message says what is missing."""


class FailedError(Exception):
    """The runtime does not score the model."""


@dataclass(frozen=True, slots=True)
class BrowserParity:
    """What a comparison of both runtimes found."""

    rows: int
    differing: int
    """Rows whose probability has other bits."""
    largest: float
    """The largest difference."""


def node() -> str | None:
    """Path of the program `node`; None if it is not installed."""
    return shutil.which("node")


def browser_probabilities(project: Path, model: bytes, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities float32[n] of vectors float32[n, d] in ONNX Runtime Web, from one call.

    `project` is the checkout with `edge/`. Raises NotAvailableError, or FailedError with the runtime's message.
    """
    found, program = node(), project / PROGRAM
    if found is None:
        raise NotAvailableError("Node is not installed")
    if not program.is_file():
        raise NotAvailableError(f"{PROGRAM} is not built; make setup builds it")
    with TemporaryDirectory(prefix="fraud-browser-") as name:
        folder = Path(name)
        (folder / "model.onnx").write_bytes(model)
        (folder / "vectors").write_bytes(np.ascontiguousarray(vectors, _FLOAT32).tobytes())
        command = [found, str(program.resolve()), "model.onnx", "vectors", str(vectors.shape[1]), "probabilities"]
        try:
            run = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
        except subprocess.TimeoutExpired:
            raise NotAvailableError(f"Node did not finish within {_LIMIT_S} s") from None
        if run.returncode:
            raise FailedError(run.stderr.strip()[-500:] or f"Node ended with code {run.returncode}")
        answers = np.frombuffer((folder / "probabilities").read_bytes(), _FLOAT32)
    if len(answers) != len(vectors):
        raise FailedError(f"{len(answers)} probabilities for {len(vectors)} rows")
    return answers


def browser_parity(project: Path, model: bytes, vectors: NDArray[np.float32]) -> BrowserParity:
    """Compare the bits of both runtimes on vectors float32[n, d]. Raises as `browser_probabilities` does."""
    theirs, ours = browser_probabilities(project, model, vectors), OnnxModel(model).probabilities(vectors)
    differing = int(np.count_nonzero(theirs.view(np.uint32) != ours.view(np.uint32)))
    largest = float(np.max(np.abs(theirs.astype(np.float64) - ours), initial=0.0))
    return BrowserParity(len(vectors), differing, largest)
