"""Clients of serving, for tests with faults: `serving_client.py URL PREFIX OUTPUT`. Ends when standard input does.

Several threads pay for the same users. A payment is sent again, with its transaction id, until it is answered. Each
attempt is a line of OUTPUT: what was sent, when, and the answer, or the error.
"""

import argparse
import http.client
import json
import random
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

FIRST: Final = datetime(2026, 3, 4, 0, 0, tzinfo=UTC)
CATEGORIES: Final = ("grocery", "travel", "other")


def payment(prefix: str, thread: int, number: int, users: int) -> dict[str, Any]:
    """The payment `number` of a thread. Payments of several threads have one time, and arrive in any order."""
    rng = random.Random(f"{prefix}-{thread}-{number}")  # noqa: S311 - payments of a test
    return {
        "transaction_id": f"{prefix}-{thread}-{number}", "user_id": f"{prefix}-u{rng.randrange(users)}",
        "merchant_id": f"m{rng.randrange(40)}", "amount": rng.randrange(100, 50_000) / 100,
        "merchant_category": rng.choice(CATEGORIES), "distance_from_home": rng.choice([None, 3.0, 800.0]),
        "event_timestamp": (FIRST + timedelta(seconds=30 * number + rng.choice([0, 0, 7]))).isoformat(),
    }  # fmt: skip


class Client:
    """One connection, opened again after an error."""

    def __init__(self, url: str, timeout_s: float, connect_s: float) -> None:
        found = urlsplit(url)
        self._host, self._port = str(found.hostname), found.port
        self._timeout_s, self._connect_s = timeout_s, connect_s
        self._connection: http.client.HTTPConnection | None = None

    def post(self, body: bytes) -> tuple[int, bytes]:
        """Status and body. Raises OSError or HTTPException, after which the connection is closed."""
        try:
            if self._connection is None:
                # Of a name with several addresses each is tried in turn, for as long.
                self._connection = http.client.HTTPConnection(self._host, self._port, timeout=self._connect_s)
                self._connection.connect()
                self._connection.sock.settimeout(self._timeout_s)
            self._connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
            answer = self._connection.getresponse()
            return answer.status, answer.read()
        except BaseException:
            if self._connection is not None:
                self._connection.close()
            self._connection = None
            raise


class Load:
    """Threads that pay until `done`."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options, self.done = options, threading.Event()
        self._output, self._lock = options.output.open("a"), threading.Lock()

    def pay(self, thread: int) -> None:
        """The payments of one thread. Some are sent again after their answer, as by a client that saw none."""
        rng = random.Random(thread)  # noqa: S311 - a choice of payments
        client = Client(self._options.url, self._options.timeout, self._options.connect)
        number = 0
        while not self.done.is_set():
            self._answered(client, thread, number)
            if number and rng.random() < self._options.repeats:
                self._answered(client, thread, rng.randrange(number))
            number += 1
            self.done.wait(self._options.pause)  # the pace of the load

    def _answered(self, client: Client, thread: int, number: int) -> None:
        """Send a payment until it is answered."""
        sent = payment(self._options.prefix, thread, number, self._options.users)
        body = json.dumps(sent).encode()
        attempt = 0
        while not self._attempt(client, sent, body, attempt):
            attempt += 1
            time.sleep(0.05)  # before the payment is sent again

    def _attempt(self, client: Client, sent: dict[str, Any], body: bytes, attempt: int) -> bool:
        began, answer, error = time.time(), None, ""
        try:
            status, content = client.post(body)
            if status == http.client.OK:
                answer = json.loads(content)
            else:
                error = str(status)
        except (OSError, http.client.HTTPException) as raised:
            error = f"{type(raised).__name__}: {raised}"
        line = {
            "sent": sent,
            "attempt": attempt,
            "began": began,
            "ended": time.time(),
            "answer": answer,
            "error": error,
        }
        with self._lock:
            self._output.write(json.dumps(line) + "\n")
            self._output.flush()
        return answer is not None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("prefix")
    parser.add_argument("output", type=Path)
    parser.add_argument("--threads", type=int, default=6)
    parser.add_argument("--users", type=int, default=40)
    parser.add_argument(
        "--repeats", type=float, default=0.05, help="share of payments that are sent again once answered"
    )
    parser.add_argument("--pause", type=float, default=0.01, help="seconds between two payments of a thread")
    parser.add_argument("--timeout", type=float, default=3.0, help="seconds to wait for an answer")
    parser.add_argument("--connect", type=float, default=1.0, help="seconds to wait for a connection")
    options = parser.parse_args()
    load = Load(options)
    with ThreadPoolExecutor(options.threads) as pool:
        paying = [pool.submit(load.pay, number) for number in range(options.threads)]
        sys.stdin.read()
        load.done.set()
    for each in paying:
        each.result()


if __name__ == "__main__":
    main()
