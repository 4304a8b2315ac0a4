"""Other servers of the same trees, each in its own environment: how they are installed, started and called.

They receive the finished vector and return a probability, without key, features or log. BentoML uses ONNX Runtime, like
the platform. MLServer uses its scikit-learn runtime and, since it has none for ONNX, a runtime defined here. `mlflow
models serve` and the endpoint of the handbook use a scikit-learn pyfunc. A peer that cannot be installed or started is
reported and left out of the table.
"""

import json
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

import httpx

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[2]
ENVIRONMENTS: Final = ROOT / "build/peers"
ML: Final = ROOT / ".venv/ml/bin"
WIDTH: Final = 27
VECTOR: Final = [120.0, 14.0, 2.0, 3.5, 0.0, 1.0, 80.0, 6.0, 1.5, 0.0, 1.0, *[0.0] * (WIDTH - 11)]


@dataclass(frozen=True)
class Peer:
    """`command(model, port, folder)` starts it; `key` is its name among the ratios."""

    key: str
    path: str
    ready: str
    body: bytes
    command: Callable[[Path, int, Path], list[str]]
    requirements: tuple[str, ...] = ()
    """Empty: it runs in the ML environment."""

    def ask(self, port: int) -> None:
        """One request. Raises httpx.HTTPError unless it is answered with 200."""
        headers = {"content-type": "application/json"}
        answer = httpx.post(
            f"http://127.0.0.1:{port}{self.path}", content=self.body, headers=headers, timeout=30, trust_env=False
        )
        answer.raise_for_status()


def _bentoml(_model: Path, port: int, _folder: Path) -> list[str]:
    program = str(ENVIRONMENTS / "bentoml/bin/bentoml")
    return [program, "serve", "bento_app:Fraud", "--working-dir", str(HERE), "--host", "127.0.0.1", "--port", str(port)]


def _mlserver(home: Path, port: int, model: Mapping[str, object]) -> list[str]:
    (home / "settings.json").write_text(
        json.dumps(
            {
                "debug": False, "host": "127.0.0.1", "http_port": port, "grpc_port": port + 1, "metrics_port": port + 2,
                "parallel_workers": 0, "load_models_at_startup": True, "metrics_endpoint": None,
            }
        )
    )  # fmt: skip
    batching = {"name": "fraud", "max_batch_size": 32, "max_batch_time": 0.002}
    (home / "model-settings.json").write_text(json.dumps({**batching, **model}))
    return [str(ENVIRONMENTS / "mlserver/bin/mlserver"), "start", str(home)]


def _mlserver_sklearn(_model: Path, port: int, folder: Path) -> list[str]:
    home = folder / "mlserver_sklearn"
    home.mkdir()
    saved = {"uri": str(Path(_pyfunc(folder)) / "model.pkl")}
    return _mlserver(home, port, {"implementation": "mlserver_sklearn.SKLearnModel", "parameters": saved})


def _mlserver_ort(_model: Path, port: int, folder: Path) -> list[str]:
    home = folder / "mlserver_ort"
    home.mkdir()
    (home / "mlserver_runtime.py").write_bytes((HERE / "mlserver_runtime.py").read_bytes())
    return _mlserver(home, port, {"implementation": "mlserver_runtime.Fraud"})


def _pyfunc(folder: Path) -> str:
    saved = folder / "pyfunc"
    if not saved.exists():
        subprocess.run([ML / "python", HERE / "save_pyfunc.py", saved], check=True, capture_output=True)
    return str(saved)


def _mlflow(_model: Path, port: int, folder: Path) -> list[str]:
    where = ["--model-uri", _pyfunc(folder), "--host", "127.0.0.1", "--port", str(port)]
    return [str(ML / "mlflow"), "models", "serve", *where, "--env-manager", "local", "--workers", "1"]


def _handbook(_model: Path, port: int, folder: Path) -> list[str]:
    return [str(ML / "python"), str(HERE / "handbook_app.py"), _pyfunc(folder), str(port)]


_FEATURES: Final = json.dumps({"features": VECTOR}).encode()
_TENSOR: Final = {"name": "features", "shape": [1, WIDTH], "datatype": "FP32", "data": VECTOR}
_MLSERVER: Final = (
    "mlserver>=1.6,<2", "mlserver-sklearn>=1.6,<2", f"scikit-learn=={version('scikit-learn')}", "onnxruntime", "numpy",
)  # fmt: skip
_SPLIT: Final = {"columns": [f"f{n}" for n in range(WIDTH)], "data": [VECTOR]}

PEERS: Final = (
    Peer("vs_bentoml_ort", "/predict", "/readyz", _FEATURES, _bentoml, ("bentoml>=1.4,<2", "onnxruntime", "numpy")),
    Peer(
        "vs_mlserver_batching", "/v2/models/fraud/infer", "/v2/models/fraud/ready",
        json.dumps({"inputs": [_TENSOR], "outputs": [{"name": "predict_proba"}]}).encode(), _mlserver_sklearn,
        _MLSERVER,
    ),
    Peer(
        "vs_mlserver_ort", "/v2/models/fraud/infer", "/v2/models/fraud/ready",
        json.dumps({"inputs": [_TENSOR]}).encode(), _mlserver_ort, _MLSERVER,
    ),
    Peer("vs_mlflow_serve", "/invocations", "/ping", json.dumps({"dataframe_split": _SPLIT}).encode(), _mlflow),
    Peer("vs_handbook", "/predict", "/openapi.json", _FEATURES, _handbook),
)  # fmt: skip


def installed(peer: Peer) -> str:
    """Install the requirements of a peer once. Returns the reason of a failure, "" for none."""
    if not peer.requirements:
        return ""
    name = peer.requirements[0].partition(">")[0]
    folder, uv = ENVIRONMENTS / name, str(ROOT / ".venv/tools/bin/uv")
    if (folder / ".ready").exists():
        return ""
    python = str(ML / "python")
    for command in (
        [uv, "venv", "--quiet", "--allow-existing", "--python", python, str(folder)],
        [uv, "pip", "install", "--quiet", "--python", str(folder / "bin/python"), *peer.requirements],
    ):
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            return (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    (folder / ".ready").touch()
    return ""
