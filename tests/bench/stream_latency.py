"""Time from the moment at which a payment is due to the read of its decision, over the topic, at constant rates.

    .venv/ml/bin/python tests/bench/stream_latency.py [--rounds 3] [--messages 20000]

The consumer has all functions on and a core of its own; broker, store and client share the other one. Half load is half
of what they sustain together (`end_to_end`). There are two brokers, and each round starts them again: that of the
embedded stack, and librdkafka's mock cluster, which needs a fraction of its processor time per request and answers a
fetch without messages only at the end of its wait. Writes build/bench/stream_latency.json.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

import serving
import serving_model
from stream import Bench, Contender, heartbeat, join, topics_of
from stream_load import payments

from fraud.embedded.servers import kafka, valkey

ROOT: Final = Path(__file__).parents[2]
UNBOUNDED: Final = 1e9
HALF: Final = "half load"
RATES: Final = (1_000, 2_000, 4_000, 7_000, 10_000)
RATE_S: Final = 5.0
TARGET_MS: Final = 30.0
FETCH_WAIT_MS: Final = 2
CONSUMERS: Final = {"three features": ("cache", False), "shipped declaration": ("wide-cache", True)}
Figures = dict[str, float]


class Broker(NamedTuple):
    """A broker that runs."""

    bootstrap: str
    pid: int
    creates_topics: bool
    """Whether a client can create topics; else those of CONSUMERS are there."""


def topic_name(consumer: str) -> str:
    return consumer.replace(" ", "_")


@contextmanager
def embedded(folder: Path) -> Iterator[Broker]:
    with kafka.running(folder) as server:
        yield Broker(server.bootstrap, server.pid, creates_topics=True)


@contextmanager
def mock(_folder: Path) -> Iterator[Broker]:
    topics = {topic: count for name in CONSUMERS for topic, count in topics_of(topic_name(name)).items()}
    command = [sys.executable, str(ROOT / "tests/serving/mock_broker.py"), *(f"{t}:{n}" for t, n in topics.items())]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield Broker(process.stdout.readline().strip(), process.pid, creates_topics=False)
        finally:
            process.kill()


BROKERS: Final = {"embedded": embedded, "mock cluster": mock}


def end_to_end(consumer: Contender, name: str, count: int) -> float:
    """Transactions/s of the whole setup: `count` payments are produced, decided and read at the same time."""
    batch = list(payments(name, serving.FIRST_S, count, wide=consumer.wide))
    with consumer.server.awake():
        return consumer.load.paced(batch, UNBOUNDED).rate


def at_rate(consumer: Contender, name: str, rate: float, pids: dict[str, int]) -> Figures:
    """Latency at a constant rate for RATE_S, and the share of its core that each process used."""
    batch = list(payments(name, serving.FIRST_S, int(rate * RATE_S), wide=consumer.wide))
    consumer.load.send(list(payments(f"{name}first", serving.FIRST_S, 1_000, wide=consumer.wide)))
    with consumer.server.awake():
        consumer.load.read(1_000)
        before = {of: serving.cpu_s(pid) for of, pid in pids.items()}
        found = consumer.load.paced(batch, rate)
        seconds = len(batch) / found.rate
        shares = {of: (serving.cpu_s(pid) - before[of]) / seconds for of, pid in pids.items()}
    return {"p50_ms": found.p50_ms, "p99_ms": found.p99_ms, "transactions_per_s": found.rate, **shares}


def measure(bench: Bench, broker: Broker, store_pid: int, count: int) -> Iterator[tuple[str, str, Figures]]:
    """(consumer, what, figures) of one round."""
    with ExitStack() as stack:
        consumers = {
            name: bench.stream(stack, topic_name(name), cache, wide=wide, STREAM_FETCH_WAIT_MS=str(FETCH_WAIT_MS))
            for name, (cache, wide) in CONSUMERS.items()
        }
        join(consumers.values())
        for name, consumer in consumers.items():
            pids = {"broker": broker.pid, "store": store_pid, "client": os.getpid(), "consumer": consumer.server.pid}
            for rate in RATES:
                heartbeat(consumers.values())
                yield name, f"{rate:,}/s", at_rate(consumer, f"rate{rate}", rate, pids)
            heartbeat(consumers.values())
            whole = end_to_end(consumer, "whole", count)
            yield name, "end to end", {"transactions_per_s": whole}
            yield name, HALF, at_rate(consumer, "half", whole / 2, pids)


def run(folder: Path, brokers: Sequence[str], rounds: int, count: int) -> dict[str, Any]:
    seen: dict[str, dict[str, dict[str, list[float]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list[float]))
    )
    for number in range(rounds):
        for kind in brokers:
            of = folder / f"{number}-{kind.replace(' ', '-')}"
            of.mkdir()
            with valkey.running(of / "valkey") as store, BROKERS[kind](of / "kafka") as broker:
                bench = Bench(of, broker.bootstrap, store.url, creates_topics=broker.creates_topics)
                serving_model.publish_daily(store.url, serving.FIRST_S)
                for name, what, figures in measure(bench, broker, store.pid, count):
                    print(f"{number + 1}/{rounds} {kind}, {name}, {what}: {serving.show(figures)}", flush=True)
                    for figure, value in figures.items():
                        seen[f"{kind}, {name}"][what][figure].append(value)
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {rounds} rounds, {RATE_S:.0f} s at each rate",
        "medians": {
            of: {what: {f: statistics.median(v) for f, v in figures.items()} for what, figures in whats.items()}
            for of, whats in seen.items()
        },
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--messages", type=int, default=20_000, help="of the measurement of end to end")
    parser.add_argument("--broker", choices=BROKERS, action="append", help="default: both")
    given = parser.parse_args()
    os.sched_setaffinity(0, set(range(max(1, (os.cpu_count() or 1) - 1))))
    with tempfile.TemporaryDirectory(prefix="fraud-bench-") as folder:
        result = run(Path(folder), given.broker or list(BROKERS), given.rounds, given.messages)
    for of, whats in result["medians"].items():
        print(f"\n{of}\n{'':<12}{'per s':>9}{'p50 ms':>9}{'p99 ms':>9}  broker  store client consumer")
        for what, figures in whats.items():
            cells = "".join(f"{figures.get(f, float('nan')):9,.1f}" for f in ("p50_ms", "p99_ms"))
            shares = "".join(
                f"{figures.get(f, float('nan')):7.2f}" for f in ("broker", "store", "client", "consumer")
            )  # fmt: skip
            met = "" if figures.get("p99_ms", TARGET_MS) <= TARGET_MS else f"  above {TARGET_MS:.0f} ms"
            print(f"{what:<12}{figures['transactions_per_s']:9,.0f}{cells}{shares}{met}")
    path = ROOT / "build/bench/stream_latency.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
