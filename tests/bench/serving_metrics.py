"""Cost of metrics: one server whose counting per answer is switched off and on, alternating.

    .venv/ml/bin/python tests/bench/serving_metrics.py [--rounds 120] [--seconds 1] [--limit 1.05]

Needs `wrk`. The server runs on one core, the client on the other, with 16 connections. A round is one run with and one
without counting (`serving_toggled.py`); their order changes every round. Each run starts at the event time where the
one before ended. Ratios are computed within a round, so that other work affects both.

After 20 rounds and every 10 more, the bench ends if the intervals of p50 and CPU are on one side of the limit. These
are 99% intervals, because they are looked at several times. Prints the median ratio of p50, p99 and CPU with its 95%
interval (bootstrap over rounds), and writes build/bench/serving_metrics.json. The exit code is 1 when a cost is above
the limit or the rounds did not suffice.
"""

import argparse
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import httpx
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import serving
import serving_model
from serving_process import Server
from serving_ratio import interval

from fraud.embedded.servers import valkey

CONNECTIONS: Final = 16
FIGURES: Final = ("p50_ms", "p99_ms", "cpu_us_per_request")
LIMITED: Final = ("p50_ms", "cpu_us_per_request")
MIN_ROUNDS: Final = 20
CHECK_EVERY: Final = 10


def decided(found: Mapping[str, Sequence[serving.Figures]], limit: float) -> bool:
    """Whether the 99% interval of every limited figure is on one side of the limit."""
    ends = [interval(found["with"], found["without"], what, 0.99)[1:] for what in LIMITED]
    return all(low > limit or high <= limit for low, high in ends)


class Switch:
    """The counting of a stopped server. It is on at first."""

    def __init__(self, server: Server) -> None:
        self._server, self._is_on = server, True

    def set(self, *, on: bool) -> None:
        """Switch it; the server does so when it runs again."""
        if on is not self._is_on:
            os.kill(self._server.pid, signal.SIGUSR1)
            self._is_on = on

    def counted(self) -> float:
        """The number of answers that were counted."""
        with self._server.awake():
            text = httpx.get(f"http://127.0.0.1:{self._server.port}/metrics", trust_env=False).text
        return sum(float(value) for value in re.findall(r"^model_predictions_total{.*} (\S+)$", text, re.MULTILINE))


def measure(folder: Path, rounds: int, seconds: int, limit: float) -> dict[str, list[serving.Figures]]:
    """The figures of each round by state, without the first round, which is a warm-up.

    Raises SystemExit if answers are counted while counting is off, or not while it is on.
    """
    model, keys = serving_model.write(folder / "cache"), folder / "keys"
    made = [serving.PYTHON, "-m", "fraud_serving.api_keys", "new", "bench", str(keys)]
    key = subprocess.run(made, check=True, capture_output=True, text=True).stdout.strip()
    found: dict[str, list[serving.Figures]] = {"with": [], "without": []}
    first_s = serving.FIRST_S
    with ExitStack() as stack:
        store = stack.enter_context(valkey.running(folder / "valkey"))
        bench = serving.Bench(folder, model, store.url, keys)
        server = bench.ours(stack, "server", program=str(Path(__file__).with_name("serving_toggled.py")))
        switch = Switch(server)
        for number in range(rounds + 1):
            for state in sorted(found, reverse=bool(number % 2)):
                before = switch.counted()
                switch.set(on=state == "with")
                run = f"{state}{number}"
                figures = serving.load(server, CONNECTIONS, seconds, serving.PAYMENTS, run, key, str(first_s))
                first_s += int(figures["requests_per_s"] * seconds * serving.STEP_S * 1.2)
                if (switch.counted() > before) is not (state == "with"):
                    raise SystemExit(
                        f"{run}: answers were counted {'not' if state == 'with' else 'although it is off'}"
                    )
                if number:
                    found[state].append(figures)
            if number >= MIN_ROUNDS and number % CHECK_EVERY == 0 and decided(found, limit):
                break
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=120, help="at most")
    parser.add_argument("--seconds", type=int, default=1)
    parser.add_argument("--limit", type=float, default=1.05)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fraud-bench-") as folder:
        found = measure(Path(folder), given.rounds, given.seconds, given.limit)
    rounds = len(found["with"])
    ratios = {what: interval(found["with"], found["without"], what) for what in FIGURES}
    for what, (ratio, low, high) in ratios.items():
        ours, other = (float(np.median([figures[what] for figures in found[name]])) for name in ("with", "without"))
        print(f"{what:<20}with {ours:8.2f}  without {other:8.2f}  ratio {ratio:.3f} ({low:.3f} to {high:.3f})")
    above = [what for what in LIMITED if interval(found["with"], found["without"], what, 0.99)[1] > given.limit]
    clear = decided(found, given.limit)
    verdict = "within the limit" if clear else "not decided"
    if above:
        verdict = f"above the limit: {', '.join(above)}"
    print(f"{rounds} rounds of {given.seconds} s, limit {given.limit}: {verdict}")
    path = serving.ROOT / "build/bench/serving_metrics.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    machine = {"platform": platform.platform(), "rounds": rounds, "seconds": given.seconds, "verdict": verdict}
    path.write_text(json.dumps({"machine": machine, "contenders": found, "ratios": ratios}, indent=1))
    sys.exit(0 if clear and not above else 1)


if __name__ == "__main__":
    main()
