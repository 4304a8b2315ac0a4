"""Cost of traces: serving without their lines, traces off, carried to the log, and exported as spans; round by round.

    .venv/ml/bin/python tests/bench/serving_traces.py [--starts 10] [--rounds 6] [--seconds 1]

The baseline is a copy of this checkout without the lines about traces (`serving_untraced.py`). Needs `wrk`. All run on
one core, the client on the other, with 16 connections, each with an online store of its own; each run starts at the
event time where its run before ended. Every request has a traceparent. For the spans it is sampled: each request has
four spans, which this process receives. They are measured in rounds of their own, after the others, because a server
still exports spans after its run.

Two processes of the same code differ by some percent of CPU, because of their memory layout. So the servers are started
several times. A figure is the median over the rounds of a start; ratios are computed within a start. Prints the median
ratio of p50 and CPU with its 95% interval (bootstrap over starts), and writes build/bench/serving_traces.json.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import serving
import serving_model
import serving_untraced
from serving_ratio import interval

from fraud.embedded.servers import valkey

CONNECTIONS: Final = 16
FIGURES: Final = ("p50_ms", "cpu_us_per_request")
PARENT: Final = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0"
GROUPS: Final = (("off", "without", "carried"), ("off", "spans"))
COMPARED: Final = (("off", "without", 0), ("carried", "off", 0), ("spans", "off", 1))
"""Two contenders, and the group in which they were measured."""
DRAIN_S: Final = 3.0
"""After a run with spans, until the exporter has sent what it had queued."""


@contextmanager
def collector() -> Iterator[str]:
    """The URL of a server that takes every POST."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def measure(folder: Path, names: Sequence[str], rounds: int, seconds: int) -> dict[str, serving.Figures]:
    """The figures of one start by contender: medians over rounds, without the first round, which is a warm-up."""
    model, keys = serving_model.write(folder / "cache"), folder / "keys"
    made = [serving.PYTHON, "-m", "fraud_serving.api_keys", "new", "bench", str(keys)]
    key = subprocess.run(made, check=True, capture_output=True, text=True).stdout.strip()
    with ExitStack() as stack:
        url = stack.enter_context(collector())
        on = {"SERVING_TRACES": "1"}
        settings = {"carried": on, "spans": on | {"SERVING_OTLP_ENDPOINT": url}}
        servers = {}
        for name in names:
            store = stack.enter_context(valkey.running(folder / f"valkey-{name}"))
            bench = serving.Bench(folder, model, store.url, keys)
            checkout = serving_untraced.write(folder / "untraced") if name == "without" else serving.ROOT
            servers[name] = bench.ours(stack, name, checkout=checkout, more=settings.get(name))
        found: dict[str, list[serving.Figures]] = {name: [] for name in servers}
        first_s = dict.fromkeys(servers, serving.FIRST_S)
        for number in range(rounds + 1):
            for name in sorted(servers, reverse=bool(number % 2)):
                run, first, header = f"{name}{number}", str(first_s[name]), f"{PARENT}{int(name == 'spans')}"
                figures = serving.load(
                    servers[name], CONNECTIONS, seconds, serving.PAYMENTS, run, key, first, "narrow", header
                )
                first_s[name] += int(figures["requests_per_s"] * seconds * serving.STEP_S * 1.2)
                if number:
                    found[name].append(figures)
                if name == "spans":
                    time.sleep(DRAIN_S)
    return {name: _median(figures) for name, figures in found.items()}


def _median(rounds: Sequence[serving.Figures]) -> serving.Figures:
    return {what: float(np.median([figures[what] for figures in rounds])) for what in FIGURES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=6, help="of each start")
    parser.add_argument("--seconds", type=int, default=1)
    given = parser.parse_args()
    groups: list[dict[str, list[serving.Figures]]] = [{name: [] for name in names} for names in GROUPS]
    for number in range(given.starts):
        for found in groups:
            names = sorted(found, reverse=bool(number % 2))
            with tempfile.TemporaryDirectory(prefix="fraud-bench-") as folder:
                for name, figures in measure(Path(folder), names, given.rounds, given.seconds).items():
                    found[name].append(figures)
    ratios = {}
    for one, other, group in COMPARED:
        found = groups[group]
        for what in FIGURES:
            ratio, low, high = ratios[f"{one}/{other} {what}"] = interval(found[one], found[other], what)
            ours, against = (float(np.median([figures[what] for figures in found[name]])) for name in (one, other))
            print(
                f"{what:<20}{one:>8}{ours:9.2f}  {other:>8}{against:9.2f}  ratio {ratio:.3f} ({low:.3f} to {high:.3f})"
            )
    path = serving.ROOT / "build/bench/serving_traces.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    machine = {"platform": platform.platform(), "starts": given.starts, "rounds": given.rounds}
    path.write_text(json.dumps({"machine": machine, "contenders": groups, "ratios": ratios}, indent=1))


if __name__ == "__main__":
    main()
