"""The access log: one JSON line per request on standard error, written by a thread.

It contains no ids, amounts or addresses; these are in the prediction log only, which has a retention of its own.
"""

import sys
import threading
import time
from collections import deque
from typing import Final

import msgspec
from msgspec import Struct

FLUSH_S: Final = 0.2
_MAX_QUEUED: Final = 50_000


class Line(Struct, gc=False):
    """One request."""

    served_us: int
    client: str
    endpoint: str
    status: int
    duration_us: int
    bytes: int
    event: str = "request"


class AccessLog:
    """`which` requests are written: "none", "refused" (status not 200, except requests that were shed) or "all"."""

    def __init__(self, which: str) -> None:
        self._all, self._none = which == "all", which == "none"
        self._lines: deque[Line] = deque(
            maxlen=_MAX_QUEUED
        )  # while standard error blocks, the oldest lines are dropped
        self._encode = msgspec.json.Encoder().encode_lines
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write_all, name="access-log", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Write the queued lines and end the thread."""
        self._stop.set()
        self._thread.join()

    def add(self, client: str, endpoint: str, status: int, duration_us: int, size: int) -> None:
        """Queue a line. Called on the event loop; does not wait."""
        if self._all or (status != 200 and not self._none):
            self._lines.append(Line(time.time_ns() // 1000, client, endpoint, status, duration_us, size))

    def add_shed(self, endpoint: str, status: int, size: int) -> None:
        """Queue a line for a request that was shed, with "all" only: a line for each would add to the overload."""
        if self._all:
            self.add("", endpoint, status, 0, size)

    def _write_all(self) -> None:
        last = False
        while not last:
            last = self._stop.wait(FLUSH_S)
            lines = [self._lines.popleft() for _ in range(len(self._lines))]
            if lines:
                sys.stderr.buffer.write(self._encode(lines))
                sys.stderr.buffer.flush()
