"""The stream process with all functions on, beside POST /predict, a plain loop of confluent-kafka and quixstreams.

    .venv/ml/bin/python tests/bench/stream.py [--rounds 5] [--messages 40000] [--without-peers] [--memory 0]

One process is measured at a time, pinned to one core; the broker, the store and the client run on the others, and all
other contenders are stopped meanwhile. Rounds are interleaved and ratios are computed per round. In a round each
consumer finds a backlog of `--messages` payments; POST /predict gets the same payments from 64 connections of `wrk`.
Peers get the same model, one round trip to the store and one row of inference per message, and no more
(stream_peers/common.py). `--memory` sends so many payments to one process and records its resident memory during every
tenth. quixstreams is installed into build/peers on first use. Writes build/bench/stream.json.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent))

import serving
import serving_model
from stream_load import PARTITIONS, Load, figures, payments

from fraud.embedded.servers import kafka, valkey

ROOT: Final = Path(__file__).parents[2]
PEERS: Final = Path(__file__).parent / "stream_peers"
QUIX: Final = ROOT / "build/peers/quixstreams"
UV: Final = ROOT / ".venv/tools/bin/uv"
CONNECTIONS: Final = 64
FIRST: Final = 1_000
"""Payments that a consumer decides while it starts."""
HEARTBEAT_S: Final = 1.0
SAMPLE_S: Final = 0.2
Figures = dict[str, float]
Keep = Callable[[str, Mapping[str, float], int], None]


@contextmanager
def unprobed(command: list[str], env: Mapping[str, str], log: Path) -> Iterator[serving.Server]:
    """As `serving.process`, for a program without a port."""
    pinned = ["taskset", "-c", str((os.cpu_count() or 1) - 1), *command]
    with (
        log.open("ab") as out,
        subprocess.Popen(pinned, env=dict(env), stdout=out, stderr=out, start_new_session=True) as server,
    ):
        try:
            yield serving.Server(server.pid, 0, 0.0)
        finally:
            os.killpg(server.pid, signal.SIGKILL)


@dataclass(frozen=True)
class Contender:
    """A consumer process, its load, and whether its payments have every column of the shipped declaration."""

    server: serving.Server
    load: Load
    wide: bool = False


def topics_of(name: str) -> dict[str, int]:
    """Topic -> partitions of a contender."""
    return {f"{name}.transactions": PARTITIONS, f"{name}.decisions": PARTITIONS, f"{name}.rejected": 1}


class Bench:
    """What the processes of a run share."""

    def __init__(self, folder: Path, brokers: str, store_url: str, *, creates_topics: bool = True) -> None:
        self.folder, self.brokers, self.store_url, self._creates_topics = folder, brokers, store_url, creates_topics
        self.model = serving_model.write(folder / "cache")
        serving_model.write(folder / "wide-cache", serving_model.SHIPPED)
        self.serving = serving.Bench(folder, self.model, store_url, folder / "keys")

    def _load(self, name: str) -> Load:
        if self._creates_topics:
            kafka.create_topics(self.brokers, topics_of(name))
        return Load(self.brokers, f"{name}.transactions", f"{name}.decisions")

    def stream(
        self, stack: ExitStack, name: str, cache: str = "cache", *, wide: bool = False, **settings: str
    ) -> Contender:
        load, port = self._load(name), valkey.free_port()
        env = {
            "PATH": os.environ["PATH"], "PYTHONPATH": serving_model.sources(ROOT), "STREAM_BROKERS": self.brokers,
            "STREAM_GROUP": name, "STREAM_TRANSACTIONS_TOPIC": f"{name}.transactions",
            "STREAM_DECISIONS_TOPIC": f"{name}.decisions", "STREAM_REJECTED_TOPIC": f"{name}.rejected",
            "STREAM_SESSION_SECONDS": "60", "STREAM_FETCH_WAIT_MS": "5", "SERVING_INTERNAL_PORT": str(port),
            "SERVING_REDIS_URL": self.store_url, "SERVING_POLL_SECONDS": "3600",
            "SERVING_MLFLOW_URL": f"http://127.0.0.1:{valkey.free_port()}",
            "SERVING_MODEL_CACHE": str(self.folder / cache), "SERVING_PREDICTION_LOG": str(self.folder / f"{name}-log"),
            **settings,
        }  # fmt: skip
        command = [serving.PYTHON, "-m", "fraud_serving.stream"]
        return Contender(self._started(stack, name, command, env, port, load), load, wide)

    def peer(self, stack: ExitStack, name: str, python: Path, program: str) -> Contender:
        load = self._load(name)
        command = [
            str(python), str(PEERS / program), self.brokers, f"{name}.transactions", f"{name}.decisions",
            str(self.model), self.store_url,
        ]  # fmt: skip
        return Contender(self._started(stack, name, command, {"PATH": os.environ["PATH"]}, 0, load), load)

    def _started(
        self, stack: ExitStack, name: str, command: list[str], env: Mapping[str, str], port: int, load: Load
    ) -> serving.Server:
        """A process that joins its group and decides its first payments; `join` waits for them."""
        server = stack.enter_context(
            serving.process(command, env, port, self.folder / f"{name}.log", "/ready") if port
            else unprobed(command, env, self.folder / f"{name}.log")
        )  # fmt: skip
        os.killpg(server.pid, signal.SIGCONT)
        load.send(list(payments(f"{name}-first", serving.FIRST_S, FIRST)))
        return server


def join(consumers: Collection[Contender]) -> None:
    """Wait until each consumer has decided its first payments, then stop all.

    They join their groups at the same time, and none is stopped before: a member that is stopped while it joins leaves
    the group without decisions until its session has ended.
    """
    for consumer in consumers:
        consumer.load.read(FIRST)
    for consumer in consumers:
        os.killpg(consumer.server.pid, signal.SIGSTOP)


def heartbeat(consumers: Collection[Contender]) -> None:
    """Resume all for a moment: a consumer that is stopped for longer than its session is removed from its group."""
    with ExitStack() as stack:
        for consumer in consumers:
            stack.enter_context(consumer.server.awake())
        time.sleep(HEARTBEAT_S)


def backlog(contender: Contender, name: str, count: int, first_s: float = serving.FIRST_S) -> Figures:
    """Decide `count` messages that are there, measured from the first tenth on."""
    contender.load.send(list(payments(name, first_s, count, wide=contender.wide)))
    with contender.server.awake():
        first = contender.load.read(count // 10)
        before, began_s = serving.cpu_s(contender.server.pid), time.monotonic()
        contender.load.read(count - first)
        seconds = time.monotonic() - began_s
        spent_s = serving.cpu_s(contender.server.pid) - before
    return figures(seconds, spent_s, count - first)


def rest(server: serving.Server, name: str, key: str, seconds: int, *, wide: bool) -> Figures:
    arguments = (name, key, str(serving.FIRST_S), *([serving.WIDE] if wide else []))
    found = serving.load(server, CONNECTIONS, seconds, serving.PAYMENTS, *arguments)
    return {
        "transactions_per_s": found["requests_per_s"], "cpu_us_per_transaction": found["cpu_us_per_request"],
        "p99_ms": found["p99_ms"],
    }  # fmt: skip


def quix_environment() -> str:
    """Install quixstreams; returns why it cannot be."""
    if (QUIX / "bin/python").exists():
        return ""
    packages = ["quixstreams>=3.28", "onnxruntime", "numpy", "redis[hiredis]"]
    for command in (
        [UV, "venv", "-q", "--python", sys.executable, QUIX], [UV, "pip", "install", "-q", "--python", QUIX, *packages],
    ):  # fmt: skip
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        if done.returncode:
            return done.stderr[-300:]
    return ""


@contextmanager
def sampled_mb(pid: int) -> Iterator[list[float]]:
    """Resident memory of a process, MB, several times a second during the block."""
    seen, ended = [serving.rss_mb(pid)], threading.Event()

    def sample() -> None:
        while not ended.wait(SAMPLE_S):
            seen.append(serving.rss_mb(pid))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def memory(bench: Bench, count: int) -> list[tuple[int, float, float]]:
    """(messages so far, least and most resident MB) of a process during its first payments and during every tenth.

    The process returns free memory every some seconds, so the least is what it needs. Event times go on from tenth to
    tenth: otherwise histories, and with them the replies of the store, would grow.
    """
    with ExitStack() as stack:
        contender = bench.stream(stack, "memory")
        join([contender])
        seen = [(0, *[serving.rss_mb(contender.server.pid)] * 2)]
        for tenth in range(1, 11):
            first_s = serving.FIRST_S + (tenth - 1) * (count // 10) * serving.STEP_S
            with sampled_mb(contender.server.pid) as found:
                backlog(contender, f"memory{tenth}", count // 10, first_s)
            seen.append((tenth * (count // 10), min(found), max(found)))
            print(f"{seen[-1][0]:>9,} messages {seen[-1][1]:7.1f} to {seen[-1][2]:7.1f} MB", flush=True)
    return seen


def peers_of(bench: Bench, stack: ExitStack) -> dict[str, Contender]:
    """The peers that can be installed, started."""
    found = {"plain_loop": bench.peer(stack, "plain_loop", Path(serving.PYTHON), "plain.py")}
    why_not = quix_environment()
    if why_not:
        print(f"quixstreams: skipped, {why_not}")
    else:
        found["quixstreams"] = bench.peer(stack, "quixstreams", QUIX / "bin/python", "quix.py")
    return found


def measure(bench: Bench, stack: ExitStack, given: argparse.Namespace, key: str, keep: Keep) -> None:
    """The interleaved rounds."""
    streams = {
        "stream": bench.stream(stack, "stream"),
        "stream_wide": bench.stream(stack, "stream_wide", "wide-cache", wide=True),
    }
    over_rest = {
        "rest": (bench.serving.ours(stack, "rest"), False),
        "rest_wide": (bench.serving.ours(stack, "rest_wide", cache="wide-cache"), True),
    }
    peers = {} if given.without_peers else peers_of(bench, stack)
    in_transactions = bench.stream(stack, "stream_transactions", STREAM_TRANSACTIONS="1")
    consumers = [*streams.values(), in_transactions, *peers.values()]
    join(consumers)
    for number in range(given.rounds + 1):
        for name, contender in streams.items():
            heartbeat(consumers)
            keep(name, backlog(contender, f"{name}{number}", given.messages), number)
        heartbeat(consumers)
        keep("stream_transactions", backlog(in_transactions, f"transactions{number}", given.messages), number)
        for name, (server, wide) in over_rest.items():
            heartbeat(consumers)
            keep(name, rest(server, f"{name}{number}", key, given.seconds, wide=wide), number)
        for name, contender in peers.items():
            heartbeat(consumers)
            keep(name, backlog(contender, f"{name}{number}", given.messages // 5), number)


def run(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    made = [serving.PYTHON, "-m", "fraud_serving.api_keys", "new", "bench", str(folder / "keys")]
    key = subprocess.run(made, check=True, capture_output=True, text=True).stdout.strip()
    measured: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    def keep(name: str, found: Mapping[str, float], number: int) -> None:
        if number:  # the first round is a warm-up
            for what, value in found.items():
                measured[name][what].append(value)

    seen: list[tuple[int, float, float]] = []
    with valkey.running(folder / "valkey") as store, kafka.running(folder / "kafka") as broker, ExitStack() as stack:
        bench = Bench(folder, broker.bootstrap, store.url)
        serving_model.publish_daily(store.url, serving.FIRST_S)
        if given.memory:
            seen = memory(bench, given.memory)
        if given.rounds:
            measure(bench, stack, given, key, keep)
    contenders: dict[str, Any] = {
        name: {what: statistics.median(values) for what, values in of.items()} for name, of in measured.items()
    }
    if seen:
        contenders["memory"] = {"seen": seen, "growth_mb": seen[-1][1] - seen[2][1]}
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {given.rounds} rounds of {given.messages} messages",
        "contenders": contenders, "ratios": ratios(measured),
    }  # fmt: skip


def ratios(measured: Mapping[str, Mapping[str, list[float]]]) -> Figures:
    """Medians of the ratios of the rounds."""
    found = {}
    pairs = [
        ("stream", "rest"), ("stream_wide", "rest_wide"), ("stream", "plain_loop"), ("stream", "quixstreams"),
        ("stream_transactions", "stream"),
    ]  # fmt: skip
    for ours, theirs in pairs:
        if ours in measured and theirs in measured:
            for what, label in (("transactions_per_s", "speed"), ("cpu_us_per_transaction", "cpu")):
                values = zip(measured[ours][what], measured[theirs][what], strict=True)
                found[f"{ours}_{label}_over_{theirs}"] = statistics.median(a / b for a, b in values)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--messages", type=int, default=40_000, help="messages of a round; peers get a fifth")
    parser.add_argument("--seconds", type=int, default=3, help="of POST /predict in a round")
    parser.add_argument("--without-peers", action="store_true")
    parser.add_argument("--memory", type=int, default=0, help="messages of the memory test; 0: none")
    given = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("the bench needs wrk: install the system's package of that name")
    os.sched_setaffinity(0, set(range(max(1, (os.cpu_count() or 1) - 1))))
    with tempfile.TemporaryDirectory(prefix="fraud-bench-") as folder:
        result = run(Path(folder), given)
    for name, of in sorted(result["contenders"].items()):
        print(f"{name:<22}{serving.show(of)}")
    for name, ratio in result["ratios"].items():
        print(f"{name:<40}{ratio:8.2f}")
    path = ROOT / "build/bench/stream.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
