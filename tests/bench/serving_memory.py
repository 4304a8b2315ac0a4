"""Memory of serving with all functions on, over a million requests.

    .venv/ml/bin/python tests/bench/serving_memory.py [--requests 1000000]

Needs `wrk`. Prints the resident memory of the process after every tenth, and writes build/bench/serving_memory.json.
The first tenth is warm-up: `growth_mb` is from there to the end.
"""

import argparse
import json
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path

import serving
import serving_model
from serving_process import rss_mb

from fraud.embedded.servers import valkey

SECONDS = 5
CONNECTIONS = 48
"""Requests in progress of the last client and those of the next one together are within SERVING_MAX_IN_FLIGHT."""


def run(folder: Path, requests: int) -> list[tuple[int, float]]:
    """(requests so far, resident MB) after every tenth of the requests."""
    model = serving_model.write(folder / "cache")
    made = [serving.PYTHON, "-m", "fraud_serving.api_keys", "new", "bench", str(folder / "keys")]
    key = subprocess.run(made, check=True, capture_output=True, text=True).stdout.strip()
    seen: list[tuple[int, float]] = []
    with valkey.running(folder / "valkey") as store, ExitStack() as stack:
        server = serving.Bench(folder, model, store.url, folder / "keys").ours(stack, "ours")
        done = 0
        with server.awake():
            while done < requests:
                arguments = (serving.PAYMENTS, f"m{done}", key, str(serving.FIRST_S))
                done += serving.finished(serving.wrk(server.port, CONNECTIONS, SECONDS, *arguments), "memory")[
                    "requests"
                ]
                if not seen or done >= seen[-1][0] + requests // 10:
                    seen.append((done, rss_mb(server.pid)))
                    print(f"{done:>9,} requests  {seen[-1][1]:6.1f} MB", flush=True)
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fraud-bench-") as folder:
        seen = run(Path(folder), given.requests)
    growth = seen[-1][1] - seen[:2][-1][1]  # the first sample includes the warm-up
    print(f"growth_mb {growth:.1f}")
    path = serving.ROOT / "build/bench/serving_memory.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"growth_mb": growth, "requests": seen[-1][0], "seen": seen}, indent=1) + "\n")


if __name__ == "__main__":
    main()
