"""Open-loop load: Poisson arrivals at a rate, whatever the server does; latency counts from the intended moment.

    .venv/serving/bin/python tests/bench/serving_open_loop.py PORT RATE SECONDS KEY RUN FIRST_S

Runs in the serving environment, for its event loop. Prints one JSON object: statuses, and p50/p99 of what was decided
and of what was refused, in ms. There are CONNECTIONS connections; a
request that finds none free waits, and that counts.
"""

import asyncio
import json
import random
import sys
import time
from collections import Counter, deque
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final

import uvloop

CONNECTIONS: Final = 1_000
PATIENCE_S: Final = 10.0
BEHIND_S: Final = 0.005
"""So late with sending, the sender lets answers in before it goes on."""


class Line(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, run: "Run") -> None:
        self._run, self._due, self._data = run, 0.0, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def send(self, due: float, request: bytes) -> None:
        self._due, self._data = due, b""
        self.transport.write(request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, found, body = self._data.partition(b"\r\n\r\n")
        if found and len(body) >= int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]):
            self._run.done(self, int(head[9:12]), time.perf_counter() - self._due)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._run.lost += 1


class Run:
    """What is under way."""

    def __init__(self, port: int, number: int) -> None:
        self.port, self.idle, self.lost = port, deque[Line](), 0
        self.waiting: deque[tuple[float, bytes]] = deque()
        self.latencies: dict[int, list[float]] = {}
        self.left, self.all_done = number, asyncio.Event()

    async def connect(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(number):
            _, line = await loop.create_connection(lambda: Line(self), "127.0.0.1", self.port)
            self.idle.append(line)

    def arrive(self, due: float, request: bytes) -> None:
        if self.idle:
            self.idle.pop().send(due, request)
        else:
            self.waiting.append((due, request))

    def done(self, line: Line, status: int, seconds: float) -> None:
        self.latencies.setdefault(status, []).append(seconds)
        self.left -= 1
        if not self.left:
            self.all_done.set()
        if self.waiting:
            line.send(*self.waiting.popleft())
        else:
            self.idle.append(line)


def request(run: str, key: str, number: int, first: datetime) -> bytes:
    at = (first + timedelta(seconds=number * 8.64)).isoformat()
    body = json.dumps(
        {
            "transaction_id": f"{run}-{number}", "user_id": f"u{number * 7919 % 5000:05d}",
            "merchant_id": f"m{number * 104729 % 2000:04d}", "event_timestamp": at, "amount": 5.0 + number * 37 % 400,
            "merchant_category": "travel", "distance_from_home": float(number % 50),
        }
    ).encode()  # fmt: skip
    head = f"POST /predict HTTP/1.1\r\nhost: bench\r\nx-api-key: {key}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1e3


async def main(port: int, rate: float, seconds: float, key: str, name: str, first_s: int) -> dict[str, object]:
    rng, first = random.Random(1), datetime.fromtimestamp(first_s, UTC)  # noqa: S311 - arrival times, no secret
    number = int(rate * seconds)
    run = Run(port, number)
    requests = [request(name, key, n, first) for n in range(number)]
    await run.connect(CONNECTIONS)
    due = time.perf_counter() + 0.1
    for body in requests:
        due += rng.expovariate(rate)
        wait = due - time.perf_counter()
        if wait > 0 or wait < -BEHIND_S:
            await asyncio.sleep(max(wait, 0))
        run.arrive(due, body)
    with suppress(TimeoutError):
        await asyncio.wait_for(run.all_done.wait(), PATIENCE_S)
    statuses = Counter({str(status): len(values) for status, values in run.latencies.items()})
    found: dict[str, object] = {"rate": rate, "sent": number, "statuses": dict(sorted(statuses.items()))}
    for label, status in (("decided", 200), ("refused", 429)):
        if values := run.latencies.get(status):
            found |= {f"{label}_p50_ms": percentile(values, 0.5), f"{label}_p99_ms": percentile(values, 0.99)}
    return found | {"unanswered": run.left, "lost": run.lost}


if __name__ == "__main__":
    port_, rate_, seconds_, key_, name_, first_ = sys.argv[1:]
    print(json.dumps(uvloop.run(main(int(port_), float(rate_), float(seconds_), key_, name_, int(first_)))))
