"""CPU per request of serving with the online store on a cluster of three shards, compared with one server.

    .venv/ml/bin/python tests/bench/store_cluster.py [--rounds 5] [--seconds 3] [--baseline FOLDER]

One worker per store and declaration: `three` has the user's history, `wide` the shipped declaration with histories of
users and devices and a daily table of merchants, so that most of its requests concern more than one shard. `--baseline`
names a checkout of another commit, whose server runs with three features on the one server. Each shard has a replica.
Needs `wrk`. Contenders alternate in every round while the others are stopped, and ratios are computed per round. CPU is
that of the serving process and, apart, of the store's primaries. Prints a table and writes
build/bench/store_cluster.json.
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
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))

import serving
import serving_model
from serving import FIRST_S, PAYMENTS, PYTHON, ROOT, STEP_S, Bench, Figures
from serving_process import Server, cpu_s
from tests import valkey_cluster

from fraud.embedded.servers import valkey

CONNECTIONS: Final = (1, 16, 64)
LARGEST_CPU_RATIO: Final = 1.15
"""Of the cluster over one server."""
_PAIRS: Final = ("three", "wide")


def measured(
    server: Server, stores: Sequence[int], connections: int, seconds: int, run: str, key: str, first_s: int, *more: str
) -> Figures:
    """The figures of one round. `stores`: process ids of the store."""
    before = sum(map(cpu_s, stores))
    found = serving.load(server, connections, seconds, PAYMENTS, run, key, str(first_s), *more)
    requests = found["requests_per_s"] * seconds
    return found | {"store_cpu_us_per_request": (sum(map(cpu_s, stores)) - before) / requests * 1e6}


def run(folder: Path, rounds: int, seconds: int, connected: Sequence[int], baseline: Path | None) -> dict[str, Any]:
    model, keys = serving_model.write(folder / "three"), folder / "keys"
    serving_model.write(folder / "wide", serving_model.SHIPPED)
    made = [PYTHON, "-m", "fraud_serving.api_keys", "new", "bench", str(keys)]
    env = os.environ | {"PYTHONPATH": serving_model.sources(ROOT)}
    key = subprocess.run(made, check=True, capture_output=True, text=True, env=env).stdout.strip()
    figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    first_s: dict[str, int] = defaultdict(lambda: FIRST_S)
    with (
        valkey.running(folder / "valkey") as store,
        valkey_cluster.running(valkey.binary(), folder / "cluster", append_only=False) as cluster,
        ExitStack() as stack,
    ):
        pids = {"single": [store.pid], "cluster": [node.pid for node in cluster.primaries()]}
        contenders: dict[str, tuple[Server, list[int], tuple[str, ...]]] = {}
        for name, url in (("single", store.url), ("cluster", cluster.url)):
            serving_model.publish_daily(url, FIRST_S)
            bench = Bench(folder, model, url, keys)
            for declared in _PAIRS:
                server = bench.ours(stack, f"{name}-{declared}", cache=declared)
                contenders[f"{name}_{declared}"] = server, pids[name], ("wide",) if declared == "wide" else ()
        if baseline is not None:
            serving_model.write_baseline(baseline, folder / "baseline")
            server = Bench(folder, model, store.url, keys).ours(stack, "base", cache="baseline", checkout=baseline)
            contenders["baseline_three"] = server, pids["single"], ()
        for number in range(rounds + 1):
            for connections in connected:
                for name, (server, stores, more) in contenders.items():
                    run_ = f"{name}{number}c{connections}"
                    found = measured(server, stores, connections, seconds, run_, key, first_s[name], *more)
                    first_s[name] += int(found["requests_per_s"] * seconds * STEP_S * 1.2)
                    for what, value in found.items() if number else ():  # the first round is a warm-up
                        figures[f"{name}_c{connections}"][what].append(value)
    medians = {name: {what: statistics.median(values) for what, values in of.items()} for name, of in figures.items()}
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {rounds} rounds of {seconds} s",
        "contenders": medians, "ratios": ratios(figures, connected),
    }  # fmt: skip


def ratios(figures: dict[str, dict[str, list[float]]], connected: Sequence[int]) -> Figures:
    """Medians of the ratios of the rounds."""

    def ratio(one: str, other: str, what: str) -> float:
        return statistics.median(a / b for a, b in zip(figures[one][what], figures[other][what], strict=True))

    found = {}
    for connections in connected:
        at = f"c{connections}"
        for declared in _PAIRS:
            pair = f"cluster_{declared}_{at}", f"single_{declared}_{at}"
            for label, what in (
                ("cpu", "cpu_us_per_request"),
                ("store_cpu", "store_cpu_us_per_request"),
                ("p50", "p50_ms"),
            ):
                found[f"cluster_{label}_over_single_{declared}_{at}"] = ratio(*pair, what)
        if f"baseline_three_{at}" in figures:
            found[f"single_cpu_over_baseline_{at}"] = ratio(
                f"single_three_{at}", f"baseline_three_{at}", "cpu_us_per_request"
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--connections", type=int, nargs="+", default=CONNECTIONS)
    parser.add_argument("--baseline", type=Path, help="a checkout of another commit to compare with")
    given = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("the bench needs wrk: install the system's package of that name")
    # Clients and stores inherit this; servers are pinned one by one. Left to itself the kernel mixes them.
    os.sched_setaffinity(0, set(range(max(1, (os.cpu_count() or 1) - 1))))
    with tempfile.TemporaryDirectory(prefix="fraud-bench-") as folder:
        result = run(Path(folder), given.rounds, given.seconds, given.connections, given.baseline)
    for name, of in sorted(result["contenders"].items()):
        print(f"{name:<22}{serving.show(of)}")
    for name, ratio in result["ratios"].items():
        print(f"{name:<44}{ratio:8.3f}")
    path = ROOT / "build/bench/store_cluster.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    worst = max(v for name, v in result["ratios"].items() if name.startswith("cluster_cpu_over_single"))
    print(f"most CPU per request on the cluster: {worst:.3f} of one server's; bound {LARGEST_CPU_RATIO}")


if __name__ == "__main__":
    main()
