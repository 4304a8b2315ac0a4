"""Open-loop load for a test: Poisson arrivals that do not depend on the answers. Every answer is kept."""

import asyncio
import json
import random
import threading
import time
from typing import Any, NamedTuple

CONNECTIONS = 64


class Answered(NamedTuple):
    """One answer. `due_s` is the scheduled time of sending (perf_counter), `latency_s` counts from then."""

    due_s: float
    latency_s: float
    status: int
    body: dict[str, Any]


class Load:
    """Sends the same payment at `rate` a second from a thread, from `start` until `stop`."""

    def __init__(self, port: int, rate: float, payment: dict[str, object]) -> None:
        body = json.dumps(payment).encode()
        self._request = b"POST /predict HTTP/1.1\r\nhost: test\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        self._port, self._rate = port, rate
        self.got: list[Answered] = []
        self.failed: list[str] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._send_all()))

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop sending, and wait for the requests in progress."""
        self._end.set()
        self._thread.join()

    async def _send_all(self) -> None:
        idle: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        for _ in range(CONNECTIONS):
            idle.put_nowait(await asyncio.open_connection("127.0.0.1", self._port))
        rng, due = random.Random(1), time.perf_counter()  # noqa: S311 - arrival times, no secret
        async with asyncio.TaskGroup() as group:
            while not self._end.is_set():
                due += rng.expovariate(self._rate)
                await asyncio.sleep(max(due - time.perf_counter(), 0))
                group.create_task(self._one(idle, due))
        while not idle.empty():
            idle.get_nowait()[1].close()

    async def _one(self, idle: "asyncio.Queue[Any]", due: float) -> None:
        reader, writer = await idle.get()
        try:
            writer.write(self._request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            body = json.loads(await reader.readexactly(length))
            self.got.append(Answered(due, time.perf_counter() - due, int(head[9:12]), body))
            idle.put_nowait((reader, writer))
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            self.failed.append(repr(error))
            idle.put_nowait(await asyncio.open_connection("127.0.0.1", self._port))


def p99_ms(got: list[Answered]) -> float:
    ordered = sorted(one.latency_s for one in got)
    return ordered[int(0.99 * len(ordered))] * 1e3
