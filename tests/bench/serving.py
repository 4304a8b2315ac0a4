"""Serving with all functions on, compared with FastAPI returning a constant and with other servers of the same model.

    .venv/ml/bin/python tests/bench/serving.py [--rounds 5] [--seconds 3] [--without-peers] [--baseline FOLDER]

The contender `ours` has the three window features of tests/declarations/three.yaml, `wide` the shipped declaration with
histories of users and devices and a published daily table. `--baseline` names a checkout of another commit, whose
server runs in the same rounds (at 69e5dfd: three features, wired by hand).
Needs `wrk`. One worker is pinned to one core; the client and the store run on the others. Contenders alternate in
every round while the others are stopped, and ratios are computed per round. Peers are installed into build/peers on
first use. Prints a table and writes build/bench/serving.json. CPU per request is the CPU time of the process divided
by the requests of a round.
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
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import onnxruntime

sys.path.insert(0, str(Path(__file__).parent))

import serving_model
import serving_peers
from serving_process import Server, cpu_s, family_cpu_s, process, rss_mb

from fraud.embedded.servers import valkey

ROOT: Final = Path(__file__).parents[2]
PYTHON: Final = str(ROOT / ".venv/serving/bin/python")
CONNECTIONS: Final = (16, 64)
FIRST_S: Final = int(time.time()) - 200 * 86_400
STEP_S: Final = 8.64
"""Simulated seconds between two payments of serving.lua and serving_open_loop.py."""
PAYMENTS: Final = Path(__file__).with_name("serving.lua")
WIDE: Final = "wide"
PLAIN: Final = Path(__file__).parent / "serving_peers/plain.lua"
Figures = dict[str, float]


def wrk(port: int, connections: int, seconds: int, script: Path, *arguments: str) -> "subprocess.Popen[str]":
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), f"http://127.0.0.1:{port}", "--"]
    return subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True)


def finished(client: "subprocess.Popen[str]", name: str) -> dict[str, Any]:
    output, _ = client.communicate()
    figures: dict[str, Any] = json.loads(output.splitlines()[-1])
    if any(figures["bad"].values()) or not figures["requests"]:
        raise SystemExit(
            f"{name}: of {figures['requests']} requests failed {figures['bad']}; no figure of this run counts"
        )
    return figures


def load(server: Server, connections: int, seconds: int, script: Path, *arguments: str) -> Figures:
    before = family_cpu_s(server.pid)
    with server.awake():
        figures = finished(wrk(server.port, connections, seconds, script, *arguments), script.name)
    return {
        "requests_per_s": figures["requests"] / figures["seconds"],
        "p50_ms": figures["p50_ms"], "p99_ms": figures["p99_ms"],
        "cpu_us_per_request": (family_cpu_s(server.pid) - before) / figures["requests"] * 1e6,
    }  # fmt: skip


def load_two(servers: tuple[Server, Server], each: int, seconds: int, name: str, key: str, first_s: int) -> Figures:
    """Two workers at the same time, with `each` connections each."""
    before = sum(cpu_s(server.pid) for server in servers)
    with servers[0].awake(), servers[1].awake():
        clients = [wrk(s.port, each, seconds, PAYMENTS, f"{name}{n}", key, str(first_s)) for n, s in enumerate(servers)]
        figures = [finished(client, "two workers") for client in clients]
    requests = sum(s["requests"] for s in figures)
    return {
        "requests_per_s": sum(s["requests"] / s["seconds"] for s in figures),
        "p99_ms": max(s["p99_ms"] for s in figures),
        "cpu_us_per_request": (sum(cpu_s(server.pid) for server in servers) - before) / requests * 1e6,
    }  # fmt: skip


def open_loop(server: Server, rate: float, seconds: int, key: str, name: str, first_s: int) -> dict[str, Any]:
    script = str(Path(__file__).with_name("serving_open_loop.py"))
    command = [PYTHON, script, str(server.port), str(rate), str(seconds), key, name, str(first_s)]
    with server.awake():
        found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def inside_p99_ms(log: Path, run_: str) -> float:
    """Latency from the body to the bytes of the answer, from the prediction log: without client and sockets."""
    lines = (json.loads(line) for segment in log.glob("*.jsonl") for line in segment.open())
    spent = [line["latency_us"] for line in lines if (line["transaction_id"] or "").startswith(run_)]
    return sorted(spent)[int(0.99 * len(spent))] / 1e3


def batch_ratio(port: int, key: str, model: Path) -> tuple[float, float]:
    """Rows/s of POST /predict/batch with 1,000 rows, and of ONNX Runtime alone on one thread; interleaved."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options)
    table = np.random.default_rng(1).gamma(2, 50, (1_000, session.get_inputs()[0].shape[1])).astype(np.float32)
    row = {"merchant_category": "travel", "hour_of_day": 3, "day_of_week": 2, "distance_from_home": 4.5}
    body = json.dumps({"transactions": [row | {"amount": 5.0 + n} for n in range(1_000)]}).encode()
    http, bare = [], []
    with closing(HTTPConnection("127.0.0.1", port)) as client:  # httpx alone takes more than a millisecond
        for _ in range(100):
            began = time.perf_counter()
            client.request("POST", "/predict/batch", body, {"x-api-key": key})
            answer = client.getresponse()
            answer.read()
            middle = time.perf_counter()
            if answer.status != 200:
                raise SystemExit(f"a batch was answered with {answer.status}")
            session.run(None, {"features": table})
            http.append(middle - began)
            bare.append(time.perf_counter() - middle)
    return 1_000 / statistics.median(http), 1_000 / statistics.median(bare)


@dataclass(frozen=True)
class Bench:
    """What the servers of a run share."""

    folder: Path
    model: Path
    store_url: str
    keys: Path

    def ours(
        self,
        stack: ExitStack,
        name: str,
        core: int | None = None,
        program: str = "",
        cache: str = "cache",
        checkout: Path = ROOT,
        more: Mapping[str, str] | None = None,
    ) -> Server:
        """Start serving with all functions on; `program` replaces the entry point of the package."""
        port = valkey.free_port()
        env = {
            "PATH": os.environ["PATH"], "SERVING_PORT": str(port), "SERVING_REDIS_URL": self.store_url,
            "PYTHONPATH": serving_model.sources(checkout),
            "SERVING_MLFLOW_URL": f"http://127.0.0.1:{valkey.free_port()}", "SERVING_POLL_SECONDS": "3600",
            "SERVING_MODEL_CACHE": str(self.folder / cache), "SERVING_PREDICTION_LOG": str(self.folder / name),
            "SERVING_API_KEYS": str(self.keys), **(more or {}),
        }  # fmt: skip
        command = [PYTHON, program] if program else [PYTHON, "-m", "fraud_serving"]
        return stack.enter_context(process(command, env, port, self.folder / f"{name}.log", core=core))

    def peers(self, stack: ExitStack) -> dict[str, tuple[serving_peers.Peer, Server]]:
        """The peers that can be installed, started."""
        path = f"{serving_peers.ML}:{os.environ['PATH']}"
        env = dict(os.environ) | {"PATH": path, "MODEL": str(self.model), "BENTOML_DO_NOT_TRACK": "true"}
        started = {}
        for peer in serving_peers.PEERS:
            why_not, port = serving_peers.installed(peer), valkey.free_port()
            try:
                if not why_not:
                    command, log = peer.command(self.model, port, self.folder), self.folder / f"{peer.key}.log"
                    server = stack.enter_context(process(command, env, port, log, peer.ready))
                    with server.awake():
                        peer.ask(port)
                    started[peer.key] = (peer, server)
            except (SystemExit, httpx.HTTPError) as error:
                why_not = str(error)
            if why_not:
                print(f"{peer.key}: skipped, {why_not}")
        return started


def run(folder: Path, rounds: int, seconds: int, *, with_peers: bool, baseline: Path | None) -> dict[str, Any]:
    model, keys = serving_model.write(folder / "cache"), folder / "keys"
    wide_model = serving_model.write(folder / "wide-cache", serving_model.SHIPPED)
    if baseline is not None:
        serving_model.write_baseline(baseline, folder / "baseline-cache")
    made = [PYTHON, "-m", "fraud_serving.api_keys", "new", "bench", str(keys)]
    key = subprocess.run(made, check=True, capture_output=True, text=True).stdout.strip()
    figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    opened: dict[str, list[dict[str, Any]]] = defaultdict(list)

    def keep(name: str, found: Figures, number: int) -> None:
        for what, value in found.items():
            if number:  # the first round is a warm-up
                figures[name][what].append(value)

    # Each run on the histories of a contender starts where the one before ended, so that payments are in order.
    first_s: dict[str, int] = defaultdict(lambda: FIRST_S)

    def payments(histories: str, server: Server, connections: int, run: str, *more: str) -> Figures:
        found = load(server, connections, seconds, PAYMENTS, run, key, str(first_s[histories]), *more)
        first_s[histories] += simulated_s(found["requests_per_s"])
        return found

    def simulated_s(rate: float) -> int:
        """Simulated seconds of a run at this rate, with a margin for the end of the run."""
        return int(rate * seconds * STEP_S * 1.2)

    def arrivals(histories: str, server: Server, rate: float, run: str) -> dict[str, Any]:
        found = open_loop(server, rate, seconds, key, run, first_s[histories])
        first_s[histories] += simulated_s(rate)
        return found

    with valkey.running(folder / "valkey") as store, ExitStack() as stack:
        bench = Bench(folder, model, store.url, keys)
        ours, second = bench.ours(stack, "ours"), bench.ours(stack, "second", core=0)
        serving_model.publish_daily(store.url, FIRST_S)
        contenders = {"ours": ours, "wide": bench.ours(stack, "wide", cache="wide-cache")}
        if baseline is not None:
            old = bench.ours(stack, "baseline", cache="baseline-cache", checkout=baseline)
            contenders["baseline"] = old
        port = valkey.free_port()
        command = [PYTHON, str(Path(__file__).with_name("serving_constant.py")), str(port)]
        constant = stack.enter_context(process(command, os.environ, port, folder / "constant.log", "/openapi.json"))
        peers = bench.peers(stack) if with_peers else {}
        for number in range(rounds + 1):
            for c in CONNECTIONS:
                for name, server in (contenders | {"constant": constant}).items():
                    columns = [WIDE] if name == "wide" else []
                    keep(f"{name}_c{c}", payments(name, server, c, f"{name}{number}c{c}", *columns), number)
            two = load_two((ours, second), 16, seconds, f"two{number}", key, first_s["ours"])
            first_s["ours"] += simulated_s(two["requests_per_s"])
            keep("two_workers_c16_each", two, number)
            keep("second_c16", payments("ours", second, 16, f"s{number}"), number)
            for name, (peer, server) in peers.items():
                body = folder / f"{name}.body"
                body.write_bytes(peer.body)
                keep(name, load(server, 16, seconds, PLAIN, peer.path, str(body)), number)
        most, wide_most, constant_most = (
            statistics.median(figures[f"{name}_c64"]["requests_per_s"]) for name in ("ours", "wide", "constant")
        )
        for number in range(rounds):
            for share in (0.5, 1.5):
                opened[f"open_loop_{share:.0%}"].append(arrivals("ours", ours, share * most, f"o{share}{number}"))
                opened[f"wide_open_loop_{share:.0%}"].append(
                    arrivals("wide", contenders["wide"], share * wide_most, f"w{share}{number}")
                )
            opened["open_loop_50%_constant"].append(arrivals("constant", constant, 0.5 * constant_most, "o"))
        with ours.awake():
            batch, bare = batch_ratio(ours.port, key, model)
        with contenders["wide"].awake():
            wide_batch, wide_bare = batch_ratio(contenders["wide"].port, key, wide_model)
        memory = {f"{name}_rss_mb": rss_mb(server.pid) for name, (_, server) in peers.items()}
        started = {f"{name}_ready_s": server.ready_s for name, (_, server) in peers.items()}
        ratios = {
            "batch1000_vs_ort": batch / bare, "wide_batch1000_vs_ort": wide_batch / wide_bare,
            "ready_s": ours.ready_s, "worker_rss_mb": rss_mb(ours.pid),
            "wide_worker_rss_mb": rss_mb(contenders["wide"].pid),
        }  # fmt: skip
    medians: dict[str, dict[str, Any]] = {
        name: {what: statistics.median(values) for what, values in of.items()} for name, of in figures.items()
    }
    medians |= {name: middle(runs) for name, runs in opened.items()}
    for share in (0.5, 1.5):
        medians[f"open_loop_{share:.0%}"]["inside_p99_ms"] = inside_p99_ms(folder / "ours", f"o{share}")
        medians[f"wide_open_loop_{share:.0%}"]["inside_p99_ms"] = inside_p99_ms(folder / "wide", f"w{share}")
    medians |= {
        "batch1000": {"rows_per_s": batch, "bare_ort_rows_per_s": bare},
        "wide_batch1000": {"rows_per_s": wide_batch, "bare_ort_rows_per_s": wide_bare},
    }
    for name in peers:
        medians[name] |= {"rss_mb": memory[f"{name}_rss_mb"], "ready_s": started[f"{name}_ready_s"]}
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {rounds} rounds of {seconds} s",
        "contenders": medians, "ratios": ratios | compared(figures, list(peers)),
    }  # fmt: skip


def middle(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of the runs of one open loop for each figure, and the sums of their statuses."""
    statuses: Counter[str] = Counter()
    for run_ in runs:
        statuses.update(run_["statuses"])
    names = {name for run_ in runs for name in run_ if name != "statuses"}
    found = {name: statistics.median(run_[name] for run_ in runs if name in run_) for name in sorted(names)}
    return found | {"statuses": dict(statuses)}


def compared(figures: Mapping[str, Mapping[str, list[float]]], peers: list[str]) -> Figures:
    """Medians of the ratios of the rounds: noise of other work affects both sides of a ratio."""

    def ratio(ours: str, theirs: str, what: str) -> float:
        return statistics.median(a / b for a, b in zip(figures[ours][what], figures[theirs][what], strict=True))

    found = {}
    for c in CONNECTIONS:
        for label, what in (("", "requests_per_s"), ("p99_", "p99_ms"), ("cpu_", "cpu_us_per_request")):
            found[f"{label}vs_fastapi_constant_c{c}"] = ratio(f"ours_c{c}", f"constant_c{c}", what)
            found[f"wide_{label}vs_fastapi_constant_c{c}"] = ratio(f"wide_c{c}", f"constant_c{c}", what)
        found[f"wide_cpu_over_three_c{c}"] = ratio(f"wide_c{c}", f"ours_c{c}", "cpu_us_per_request")
        if f"baseline_c{c}" in figures:
            for name in ("ours", "wide"):
                found[f"{name}_cpu_over_baseline_c{c}"] = ratio(f"{name}_c{c}", f"baseline_c{c}", "cpu_us_per_request")
    # Two workers at once against the same two one after the other, for one of them shares its core with the client and
    # the store; at as many connections each, for a worker that sees fewer takes fewer requests per turn of its loop.
    cpu = {name: figures[name]["cpu_us_per_request"] for name in ("two_workers_c16_each", "ours_c16", "second_c16")}
    found["two_workers_cpu_per_request"] = statistics.median(
        both / ((one + other) / 2) for both, one, other in zip(*cpu.values(), strict=True)
    )
    found["two_workers_cpu_over_the_first"] = ratio("two_workers_c16_each", "ours_c16", "cpu_us_per_request")
    found["shared_core_cpu_over_own_core"] = ratio("second_c16", "ours_c16", "cpu_us_per_request")
    return found | {name: ratio("ours_c16", name, "requests_per_s") for name in peers}


def show(of: Mapping[str, Any]) -> str:
    return "  ".join(
        f"{name} {value:,.1f}" if isinstance(value, float) else f"{name} {value}" for name, value in of.items()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--without-peers", action="store_true", help="leave the other servers out")
    parser.add_argument("--baseline", type=Path, help="a checkout of another commit to compare with")
    given = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("the bench needs wrk: install the system's package of that name")
    # Clients and the store inherit this; servers are pinned one by one. Left to itself the kernel mixes them.
    os.sched_setaffinity(0, set(range(max(1, (os.cpu_count() or 1) - 1))))
    with tempfile.TemporaryDirectory(prefix="fraud-bench-") as folder:
        result = run(
            Path(folder), given.rounds, given.seconds, with_peers=not given.without_peers, baseline=given.baseline
        )
    for name, of in sorted(result["contenders"].items()):
        print(f"{name:<22}{show(of)}")
    for name, ratio in result["ratios"].items():
        print(f"{name:<32}{ratio:8.2f}")
    path = ROOT / "build/bench/serving.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
