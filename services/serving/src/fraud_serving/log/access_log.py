"""One JSON line per request on standard error, written by a thread: client, endpoint, status, duration.

No ids, no amounts, no addresses: who paid what stands in the prediction log alone, under its own retention.
"""

import sys
import threading
import time
from collections import deque
from typing import Final

import msgspec
from msgspec import Struct

FLUSH_S: Final = 0.2
_BOUND: Final = 50_000


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
    """Which requests are written is `which`: "none", "refused" (those not answered with 200, nor sent away by
    overload) or "all"."""

    def __init__(self, which: str) -> None:
        self._all, self._none = which == "all", which == "none"
        self._lines: deque[Line] = deque(maxlen=_BOUND)  # a blocked standard error costs the oldest lines
        self._encode = msgspec.json.Encoder().encode_lines
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write_all, name="access-log", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Write what is left, and end."""
        self._stop.set()
        self._thread.join()

    def add(self, client: str, endpoint: str, status: int, duration_us: int, size: int) -> None:
        """Called on the event loop only; never waits."""
        if self._all or (status != 200 and not self._none):
            self._lines.append(Line(time.time_ns() // 1000, client, endpoint, status, duration_us, size))

    def add_shed(self, endpoint: str, status: int, size: int) -> None:
        """A request that overload sent away: a line each would feed the overload, so only "all" writes them."""
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
