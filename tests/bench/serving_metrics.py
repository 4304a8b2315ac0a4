"""Cost of metrics: two servers that differ only in the metrics, alternating round by round.

    .venv/ml/bin/python tests/bench/serving_metrics.py [--rounds 20] [--seconds 1]

Needs `wrk`. Both run on one core, the client on the other, with 16 connections. The order changes every round, and
ratios are computed within a round, so that other work affects both. Prints medians with their 95% interval (bootstrap
over rounds) and writes build/bench/serving_metrics.json.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import serving
import serving_model

from fraud.embedded.servers import valkey

CONNECTIONS: Final = 16
FIGURES: Final = ("p50_ms", "p99_ms", "cpu_us_per_request")


def measure(folder: Path, rounds: int, seconds: int) -> dict[str, list[serving.Figures]]:
    """The figures of each round by contender, without the first round, which is a warm-up."""
    model, keys = serving_model.write(folder / "cache"), folder / "keys"
    made = [serving.PYTHON, "-m", "fraud_serving.api_keys", "new", "bench", str(keys)]
    key = subprocess.run(made, check=True, capture_output=True, text=True).stdout.strip()
    found: dict[str, list[serving.Figures]] = {"with": [], "without": []}
    with valkey.running(folder / "valkey") as store, ExitStack() as stack:
        bench = serving.Bench(folder, model, store.url, keys)
        without = str(Path(__file__).with_name("serving_unmetered.py"))
        servers = {"with": bench.ours(stack, "with"), "without": bench.ours(stack, "without", program=without)}
        for number in range(rounds + 1):
            for name in sorted(servers, reverse=bool(number % 2)):
                figures = serving.load(
                    servers[name], CONNECTIONS, seconds, serving.PAYMENTS, f"{name}{number}", key, str(serving.FIRST_S)
                )
                if number:
                    found[name].append(figures)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fraud-bench-") as folder:
        found = measure(Path(folder), given.rounds, given.seconds)
    rng, ratios = np.random.default_rng(1), {}
    for what in FIGURES:
        ours, other = (np.array([figures[what] for figures in found[name]]) for name in ("with", "without"))
        drawn = rng.integers(0, len(ours), (2_000, len(ours)))
        low, high = np.quantile(np.median((ours / other)[drawn], axis=1), [0.025, 0.975])
        ratios[what] = [float(np.median(ours / other)), float(low), float(high)]
        print(f"{what:<20}with {np.median(ours):8.2f}  without {np.median(other):8.2f}  "
              f"ratio {ratios[what][0]:.3f} ({low:.3f} to {high:.3f})")  # fmt: skip
    path = serving.ROOT / "build/bench/serving_metrics.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    machine = {"platform": platform.platform(), "rounds": given.rounds, "seconds": given.seconds}
    path.write_text(json.dumps({"machine": machine, "contenders": found, "ratios": ratios}, indent=1))


if __name__ == "__main__":
    main()
