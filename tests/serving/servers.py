"""Real processes for the serving tests: serving, Valkey, and a client of MLflow's registry."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import httpx

from fraud.embedded.sockets import free_port

DEADLINE_S = 60.0
NAME = "fraud-detector"
_T = TypeVar("_T")


def until(look: Callable[[], _T | None], what: str, seconds: float = DEADLINE_S) -> _T:
    """Poll until `look` returns a true value, and return it."""
    deadline = time.monotonic() + seconds
    while True:
        if found := look():
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen within {seconds} s")
        time.sleep(0.02)


def log_records(folder: Path) -> list[dict[str, Any]]:
    """The records of a prediction log. A write may be half done: the files are read again until all lines are whole."""

    def whole() -> list[bytes] | None:
        texts = [path.read_bytes() for path in sorted(folder.glob("*.jsonl"))]
        return [b"", *texts] if all(text.endswith(b"\n") for text in texts if text) else None

    return [json.loads(line) for text in until(whole, "whole lines") for line in text.splitlines()]


class Valkey:
    """A store process on a fixed port, so that it can be killed and started again."""

    def __init__(self, binary: str, folder: Path, *, durable: bool = False) -> None:
        self._binary, self._folder, self.port = binary, folder, free_port()
        self._durable = durable
        self.url = f"redis://:secret@127.0.0.1:{self.port}/0"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._folder.mkdir(exist_ok=True)
        options = {
            "port": self.port, "bind": "127.0.0.1", "requirepass": "secret", "save": "", "dir": self._folder,
            "appendonly": "yes" if self._durable else "no",
        }  # fmt: skip
        command = [self._binary, *(str(part) for name, value in options.items() for part in (f"--{name}", value))]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        until(self._answers, "Valkey listening")

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def command(self, *words: str) -> bytes:
        """Send one command and return the first bytes of its reply."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(b"AUTH secret\r\n" + " ".join(words).encode() + b"\r\n")
            reply = b""
            while reply.count(b"\r\n") < 2:
                reply += connection.recv(65536)
        return reply.split(b"\r\n", 1)[1]

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def feature_hash(serving: bytes) -> str:
    """What the content of serving.json states; "" if it cannot be read."""
    try:
        return str(json.loads(serving)["feature_hash"])
    except ValueError:
        return ""


class Registry:
    """MLflow's REST interface, as a training and a promotion job use it."""

    def __init__(self, url: str, password: str, models: Path) -> None:
        self.url, self.password, self._models = url, password, models
        self._client = httpx.Client(base_url=f"{url}/api/2.0", auth=("admin", password), timeout=30, trust_env=False)
        self._post("registered-models/create", {"name": NAME})

    def close(self) -> None:
        self._client.close()

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = self._client.post(f"/mlflow/{path}", json=body)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def files(self, number: int) -> tuple[bytes, bytes]:
        folder = self._models / str(number)
        return (folder / "model.onnx").read_bytes(), (folder / "serving.json").read_bytes()

    def register(self, model: bytes, serving: bytes, **tags: str) -> str:
        """Register a version with these bytes, tagged with their hashes and `tags`. Returns its number."""
        run = self._post("runs/create", {"experiment_id": "0", "start_time": 0})["run"]["info"]
        where = run["artifact_uri"].removeprefix("mlflow-artifacts:/")
        for name, data in (("model.onnx", model), ("serving.json", serving)):
            path = f"/mlflow-artifacts/artifacts/{where}/model/{name}"
            self._client.put(path, content=data).raise_for_status()
        tags = {
            "model_sha256": sha256(model).hexdigest(), "serving_sha256": sha256(serving).hexdigest(),
            "feature_hash": feature_hash(serving),
        } | tags  # fmt: skip
        body = {
            "name": NAME, "source": f"{run['artifact_uri']}/model", "run_id": run["run_id"],
            "tags": [{"key": key, "value": value} for key, value in tags.items()],
        }  # fmt: skip
        return str(self._post("model-versions/create", body)["model_version"]["version"])

    def sha256(self, number: int) -> str:
        return sha256(self.files(number)[0]).hexdigest()

    def promote(self, version: str, alias: str = "production") -> None:
        self._post("registered-models/alias", {"name": NAME, "alias": alias, "version": version})

    def nothing_in_production(self) -> None:
        query = {"name": NAME, "alias": "production"}
        self._client.request("DELETE", "/mlflow/registered-models/alias", json=query)


class Serving:
    """A `python -m fraud_serving` process and a client of it."""

    def __init__(self, folder: Path, redis_url: str, registry: Registry | None, **settings: str) -> None:
        self.folder, self.port = folder, free_port()
        self.log_folder, self.cache = folder / "log", folder / "cache"
        self.program: tuple[str, ...] = ()
        """Program to run instead of the package."""
        self.python = sys.executable
        self.environment = {
            **{name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ},
            "SERVING_PORT": str(self.port), "SERVING_REDIS_URL": redis_url, "SERVING_OPEN": "1",
            "SERVING_MLFLOW_URL": registry.url if registry else f"http://127.0.0.1:{free_port()}",
            "SERVING_MODEL_CACHE": str(self.cache), "SERVING_PREDICTION_LOG": str(self.log_folder),
            "SERVING_POLL_SECONDS": "0.1", "SERVING_STORE_DEADLINE_MS": "1000",
            "MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": registry.password if registry else "",
        } | settings  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30, trust_env=False)

    def start(self, path: str = "/ready") -> "Serving":
        """Start and wait until `path` answers 200."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "serving.log").open("ab") as log:
            command = [self.python, *(self.program or ("-m", "fraud_serving"))]
            self.process = subprocess.Popen(command, env=self.environment, stderr=log, cwd=self.folder)
        until(lambda: self._status(path) == 200, f"{path} (see {self.folder / 'serving.log'})")
        return self

    def _status(self, path: str) -> int:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "serving.log").read_text()
        try:
            return self.client.get(path).status_code
        except httpx.TransportError:
            return 0

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(DEADLINE_S)
            self.process = None

    def close(self) -> None:
        self.stop()
        self.client.close()

    def predict(self, **transaction: object) -> dict[str, Any]:
        answer = self.client.post("/predict", json=transaction)
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    def version(self) -> str:
        return str(self.client.get("/ready").json()["model_version"])

    def metric(self, name: str) -> float:
        """The value of one sample, as `serving_degraded_total{reason="store"}`."""
        for line in self.client.get("/metrics").text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.rpartition(" ")[2])
        raise AssertionError(f"no sample {name}")

    def records(self) -> list[dict[str, Any]]:
        """The records of the prediction log on disk."""
        return log_records(self.log_folder)
