"""Kill each container of the running stack in turn, under load, and print the effects.

    python3 tests/deploy/chaos.py [--rate 30] [--only SERVICE ...]    as root: the kernel kills, not Docker

A container's first process gets SIGKILL, and Docker's restart policy restarts it. Requests are sent to POST /predict
at a constant rate through the proxy; the latency of a request counts from its scheduled time. For each container, the
output has seconds until it is healthy again, requests, those without a 200, degraded answers, p99 and the maximum.
Exit code 1 when a container did not restart, or requests failed while another container than the proxy was down.
"""

import argparse
import http.client
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

PROJECT: Final = "fraud"
ENV: Final = Path(__file__).resolve().parents[2] / ".env"
QUIET_S: Final = 5.0
DEADLINE_S: Final = 240.0
# Services whose crash may fail requests: there is one proxy, and its requests in progress are lost.
SINGLE: Final = "proxy"


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout


def inspect(identifier: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(docker("inspect", identifier))[0]
    return found


class Accepted(NamedTuple):
    """A payment that was answered with 200, `at` seconds of the monotonic clock."""

    at: float
    user_id: str
    prediction_id: str
    in_history: bool


@dataclass
class Load:
    """An open loop of requests; `window` takes out what was sent since the last call, `accepted` keeps all answers."""

    port: int
    key: str
    rate: float
    accepted: list[Accepted] = field(default_factory=list)
    sent: list[tuple[float, int, bool]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    stopped: threading.Event = field(default_factory=threading.Event)

    def one(self, number: int, due: float) -> None:
        user_id = f"chaos-{os.getpid()}-{random.randrange(50)}"  # noqa: S311
        body = json.dumps({
            "transaction_id": f"{user_id}-{number}", "user_id": user_id,
            "merchant_id": "m-1", "merchant_category": "grocery", "amount": 12.5, "distance_from_home": 1.0,
            "event_timestamp": datetime.now(UTC).isoformat(),
        })  # fmt: skip
        status, degraded = 0, False
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
            connection.request("POST", "/predict", body, {"X-API-Key": self.key, "Content-Type": "application/json"})
            response = connection.getresponse()
            status, text = response.status, response.read()
            connection.close()
            if status == 200:
                answer = json.loads(text)
                degraded = bool(answer["degraded"])
                kept = Accepted(time.monotonic(), user_id, answer["prediction_id"], answer["history"] == "store")
                self.accepted.append(kept)
        except (OSError, http.client.HTTPException):
            status = 0
        with self.lock:
            self.sent.append((time.monotonic() - due, status, degraded))

    def run(self) -> None:
        with ThreadPoolExecutor(32) as pool:
            began, number = time.monotonic(), 0
            while not self.stopped.wait(max(0.0, began + number / self.rate - time.monotonic())):
                pool.submit(self.one, number, began + number / self.rate)
                number += 1

    def window(self) -> dict[str, Any]:
        with self.lock:
            taken, self.sent = self.sent, []
        late = sorted(seconds * 1e3 for seconds, _, _ in taken)
        return {
            "requests": len(taken),
            "not_200": sum(status != 200 for _, status, _ in taken),
            "degraded": sum(degraded for _, _, degraded in taken),
            "p99_ms": round(statistics.quantiles(late, n=100)[98], 1) if len(late) > 1 else 0.0,
            "max_ms": round(late[-1], 1) if late else 0.0,
        }


def checkout(rate: float) -> Load:
    """A load with the first client's key at the published port of the proxy."""
    env = dict(line.split("=", 1) for line in ENV.read_text().splitlines() if "=" in line and not line.startswith("#"))
    return Load(int(env.get("SERVING_PORT", "8000")), f"checkout.{env['SERVING_CHECKOUT_KEY']}", rate)


def containers() -> dict[str, str]:
    """Service -> id of its running container."""
    ids = docker("ps", "--quiet", "--filter", f"label=com.docker.compose.project={PROJECT}").split()
    return {inspect(i)["Config"]["Labels"]["com.docker.compose.service"]: i for i in ids}


def kill(identifier: str) -> tuple[str, float]:
    """Send SIGKILL to the first process and wait until a new one is healthy. Returns the outcome and its seconds."""
    before = inspect(identifier)["State"]
    os.kill(before["Pid"], signal.SIGKILL)
    began = time.monotonic()
    while time.monotonic() - began < DEADLINE_S:
        state = inspect(identifier)["State"]
        if state["StartedAt"] != before["StartedAt"] and state["Running"] and state["Health"]["Status"] == "healthy":
            return "back", time.monotonic() - began
        time.sleep(0.25)
    return f"not healthy after {DEADLINE_S:.0f} s", DEADLINE_S


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=30.0)
    parser.add_argument("--only", nargs="*", default=[])
    given = parser.parse_args()
    load = checkout(given.rate)
    names = containers()
    thread = threading.Thread(target=load.run)
    thread.start()
    bad = []
    try:
        print(f"{'killed':<22}{'after s':>9}{'requests':>10}{'not 200':>9}{'degraded':>10}{'p99 ms':>9}{'max ms':>9}")
        for name in ("nothing", *sorted(given.only or names)):
            outcome, seconds = ("back", 0.0) if name == "nothing" else kill(names[name])
            time.sleep(QUIET_S)
            seen = load.window()
            print(
                f"{name:<22}{seconds:>9.1f}{seen['requests']:>10}{seen['not_200']:>9}{seen['degraded']:>10}"
                f"{seen['p99_ms']:>9}{seen['max_ms']:>9}  {'' if outcome == 'back' else outcome}",
                flush=True,
            )
            if outcome != "back" or (seen["not_200"] and name != SINGLE):
                bad.append(name)
    finally:
        load.stopped.set()
        thread.join()
    sys.exit(f"not as promised: {', '.join(bad)}" if bad else 0)


if __name__ == "__main__":
    main()
