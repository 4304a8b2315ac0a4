"""Serving, everything on, against FastAPI answering a constant: same machine, same client, interleaved rounds.

    .venv/ml/bin/python tests/bench/serving.py [--rounds 5] [--seconds 4]

Needs `wrk`. One worker pinned to one core, the client and the store on the others. Prints a table and writes
build/bench/serving.json. CPU per request is the process's own time over the requests of a round.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import onnxruntime

sys.path.insert(0, str(Path(__file__).parent))

import serving_model

from fraud.core.features import VECTOR_NAMES
from fraud.embedded import valkey

ROOT: Final = Path(__file__).parents[2]
PYTHON: Final = str(ROOT / ".venv/serving/bin/python")
CONNECTIONS: Final = (16, 64)
FIRST_S: Final = int(time.time()) - 200 * 86_400
Figures = dict[str, float]


@contextmanager
def process(command: list[str], env: Mapping[str, str], port: int, log: Path) -> Iterator[tuple[int, float]]:
    """A server pinned to the last core: (process id, seconds until it answered /health or /docs)."""
    pinned = ["taskset", "-c", str((os.cpu_count() or 1) - 1), *command]
    began = time.perf_counter()
    with log.open("ab") as out, subprocess.Popen(pinned, env=dict(env), stdout=out, stderr=out) as server:
        try:
            while not answers(port):
                time.sleep(0.01)
            yield server.pid, time.perf_counter() - began
        finally:
            server.terminate()


def answers(port: int) -> bool:
    for path in ("/ready", "/openapi.json"):
        try:
            if httpx.get(f"http://127.0.0.1:{port}{path}", trust_env=False).status_code == 200:
                return True
        except httpx.TransportError:
            return False
    return False


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def load(pid: int, port: int, connections: int, seconds: int, name: str, key: str) -> Figures:
    before = cpu_s(pid)
    command = [
        "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(Path(__file__).with_name("serving.lua")),
        f"http://127.0.0.1:{port}", "--", name, key, str(FIRST_S),
    ]  # fmt: skip
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    said: dict[str, Any] = json.loads(output.splitlines()[-1])
    if said["bad"]:
        raise SystemExit(f"{name}: {said['bad']} requests failed; no figure of this run counts")
    return {
        "requests_per_s": said["requests"] / said["seconds"], "p50_ms": said["p50_ms"], "p99_ms": said["p99_ms"],
        "cpu_us_per_request": (cpu_s(pid) - before) / said["requests"] * 1e6,
    }  # fmt: skip


def batch_ratio(port: int, key: str, model: Path) -> tuple[float, float]:
    """Rows/s of POST /predict/batch with 1,000 rows, and of bare ONNX Runtime on as many, one thread; interleaved."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options)
    table = np.random.default_rng(1).gamma(2, 50, (1_000, len(VECTOR_NAMES))).astype(np.float32)
    row = {"merchant_category": "travel", "hour_of_day": 3, "day_of_week": 2, "distance_from_home": 4.5}
    body = json.dumps({"transactions": [row | {"amount": 5.0 + n} for n in range(1_000)]}).encode()
    http, bare = [], []
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"x-api-key": key}, trust_env=False) as client:
        for _ in range(40):
            began = time.perf_counter()
            client.post("/predict/batch", content=body).raise_for_status()
            middle = time.perf_counter()
            session.run(None, {"features": table})
            http.append(middle - began)
            bare.append(time.perf_counter() - middle)
    return 1_000 / statistics.median(http), 1_000 / statistics.median(bare)


def run(folder: Path, rounds: int, seconds: int) -> dict[str, Any]:
    model = serving_model.write(folder / "cache")
    keys = folder / "keys"
    key = subprocess.run(
        [PYTHON, "-m", "fraud_serving.api_keys", "new", "bench", str(keys)], check=True, capture_output=True, text=True
    ).stdout.strip()
    ours_port, constant_port = valkey.free_port(), valkey.free_port()
    figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with valkey.running(folder / "valkey") as store:
        env = {
            "PATH": os.environ["PATH"], "SERVING_PORT": str(ours_port), "SERVING_REDIS_URL": store.url,
            "SERVING_MLFLOW_URL": f"http://127.0.0.1:{valkey.free_port()}", "SERVING_POLL_SECONDS": "3600",
            "SERVING_MODEL_CACHE": str(folder / "cache"), "SERVING_PREDICTION_LOG": str(folder / "log"),
            "SERVING_API_KEYS": str(keys),
        }  # fmt: skip
        constant = [PYTHON, str(Path(__file__).with_name("serving_constant.py")), str(constant_port)]
        with (
            process([PYTHON, "-m", "fraud_serving"], env, ours_port, folder / "ours.log") as (ours_pid, ready_s),
            process(constant, env, constant_port, folder / "constant.log") as (constant_pid, _),
        ):
            for number in range(rounds + 1):
                for c in CONNECTIONS:
                    for name, pid, port in (("ours", ours_pid, ours_port), ("constant", constant_pid, constant_port)):
                        found = load(pid, port, c, seconds, f"r{number}c{c}", key)
                        if number:  # the first round warms up
                            for what, value in found.items():
                                figures[f"{name}_c{c}"][what].append(value)
            batch, bare = batch_ratio(ours_port, key, model)
            rss = rss_mb(ours_pid)
    medians = {name: {what: statistics.median(v) for what, v in of.items()} for name, of in figures.items()}
    medians["batch1000"] = {"rows_per_s": batch, "bare_ort_rows_per_s": bare}
    ratios = {"batch1000_vs_ort": batch / bare, "ready_s": ready_s, "worker_rss_mb": rss}
    for c in CONNECTIONS:
        ours, theirs = figures[f"ours_c{c}"], figures[f"constant_c{c}"]
        # Round by round, so that a neighbour's noise falls on both.
        for key_, what in (("", "requests_per_s"), ("p99_", "p99_ms"), ("cpu_", "cpu_us_per_request")):
            pairs = zip(ours[what], theirs[what], strict=True)
            ratios[f"{key_}vs_fastapi_constant_c{c}"] = statistics.median(a / b for a, b in pairs)
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {rounds} rounds of {seconds} s",
        "contenders": medians, "ratios": ratios,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    given = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("the bench needs wrk: install the system's package of that name")
    with tempfile.TemporaryDirectory(prefix="fraud-bench-") as folder:
        result = run(Path(folder), given.rounds, given.seconds)
    for name, of in sorted(result["contenders"].items()):
        print(f"{name:<16}" + "  ".join(f"{what} {value:,.1f}" for what, value in of.items()))
    for name, ratio in result["ratios"].items():
        print(f"{name:<32}{ratio:8.2f}")
    path = ROOT / "build/bench/serving.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
