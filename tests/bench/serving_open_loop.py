"""Open-loop load: Poisson arrivals at a fixed rate. Latency counts from the scheduled time of a request.

    .venv/serving/bin/python tests/bench/serving_open_loop.py PORT RATE SECONDS KEY RUN FIRST_S

Prints one JSON object: statuses, p50/p99 of decided and of refused requests, and the delay of the sender, in ms.
There are CONNECTIONS connections; a request without a free connection waits, and its latency includes the wait. It
uses sockets and epoll because the sender shares its core with the store: an event loop added 65 us per request to the
measured latency.
"""

import argparse
import json
import random
import select
import socket
import time
from collections import Counter, deque
from datetime import UTC, datetime, timedelta
from typing import Final

CONNECTIONS: Final = 512
PATIENCE_S: Final = 10.0


class Run:
    """Requests scheduled at `due` (s since the start), in order, with their status and latency."""

    def __init__(self, port: int, requests: list[bytes], due: list[float]) -> None:
        self._requests, self._due = requests, due
        self._poll = select.epoll()
        self._lines: dict[int, socket.socket] = {}
        self._at_work: dict[int, float] = {}
        self._partial: dict[int, bytes] = {}
        for _ in range(CONNECTIONS):
            line = socket.create_connection(("127.0.0.1", port))
            line.setblocking(False)
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._lines[line.fileno()] = line
            self._poll.register(line, select.EPOLLIN)
        self._idle = list(self._lines)
        self._waiting: deque[int] = deque()
        self.latencies: dict[int, list[float]] = {}
        self.late: list[float] = []
        self.lost, self.left = 0, len(requests)

    def go(self) -> None:
        sent, began = 0, time.perf_counter()
        last = self._due[-1] + PATIENCE_S
        while self.left and (now := time.perf_counter() - began) < last:
            while sent < len(self._due) and self._due[sent] <= now:
                self.late.append(now - self._due[sent])
                self._waiting.append(sent)
                sent += 1
            while self._waiting and self._idle:
                self._send(self._idle.pop(), self._waiting.popleft())
            until = self._due[sent] - now if sent < len(self._due) else last - now
            for line, _ in self._poll.poll(0 if self._waiting and self._idle else until):
                self._receive(line, time.perf_counter() - began)

    def _send(self, line: int, number: int) -> None:
        self._at_work[line] = self._due[number]
        self._lines[line].send(self._requests[number])  # a request fits into the buffer of the socket

    def _receive(self, line: int, now: float) -> None:
        data = self._partial.pop(line, b"") + self._lines[line].recv(65_536)
        if not data:
            self._poll.unregister(line)
            self.lost += 1
            if line in self._idle:
                self._idle.remove(line)
            return
        head, found, body = data.partition(b"\r\n\r\n")
        if not found or len(body) < int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]):
            self._partial[line] = data
            return
        self.latencies.setdefault(int(data[9:12]), []).append(now - self._at_work.pop(line))
        self._idle.append(line)
        self.left -= 1


def request(run: str, key: str, number: int, first: datetime) -> bytes:
    at = (first + timedelta(seconds=number * 8.64)).isoformat()
    body = json.dumps(
        {
            "transaction_id": f"{run}-{number}", "user_id": f"u{number * 7919 % 5000:05d}",
            "merchant_id": f"m{number * 104729 % 2000:04d}", "event_timestamp": at, "amount": 5.0 + number * 37 % 400,
            "merchant_category": "travel", "distance_from_home": float(number % 50),
        }
    ).encode()  # fmt: skip
    head = f"POST /predict HTTP/1.1\r\nhost: bench\r\nx-api-key: {key}\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1e3


def main(port: int, rate: float, seconds: float, key: str, name: str, first_s: int) -> dict[str, object]:
    rng, first = random.Random(1), datetime.fromtimestamp(first_s, UTC)  # noqa: S311 - arrival times, no secret
    number, at, due = int(rate * seconds), 0.0, list[float]()
    for _ in range(number):
        at += rng.expovariate(rate)
        due.append(at)
    run = Run(port, [request(name, key, n, first) for n in range(number)], due)
    run.go()
    statuses = Counter({str(status): len(values) for status, values in run.latencies.items()})
    found: dict[str, object] = {"rate": rate, "sent": number, "statuses": dict(sorted(statuses.items()))}
    for label, status in (("decided", 200), ("refused", 429)):
        if values := run.latencies.get(status):
            found |= {f"{label}_p50_ms": percentile(values, 0.5), f"{label}_p99_ms": percentile(values, 0.99)}
    return found | {"late_p99_ms": percentile(run.late, 0.99), "unanswered": run.left, "lost": run.lost}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    kinds = {"port": int, "rate": float, "seconds": float, "key": str, "name": str, "first_s": int}
    for argument, kind in kinds.items():
        parser.add_argument(argument, type=kind)
    print(json.dumps(main(**vars(parser.parse_args()))))
