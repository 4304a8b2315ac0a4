"""CPU of a serving process for reading a user's history and appending to it, sixteen requests at a time.

    .venv/serving/bin/python tests/bench/features_store.py REDIS_URL DECLARATION [--requests 40000]

DECLARATION is the canonical JSON of a declaration with windows of a user. The store client and the event loop are those
of serving. Users have sixty events, and every request is a new event. CPU is that of this process, minus that of the
same loop with completed futures. Prints one line of JSON.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Callable
from typing import Any, Final

import uvloop

from fraud.core.contract import id_hash
from fraud.core.declaration import parse
from fraud.core.plan import window_sets
from fraud.core.windows import WindowSet
from fraud_serving.metrics import Metrics
from fraud_serving.store.address import StoreAddress
from fraud_serving.store.commands import HistoryAppend, event_arguments
from fraud_serving.store.connection import Reply
from fraud_serving.store.store import ServerStore

CONNECTIONS: Final = 16
USERS: Final = 400
NOON: Final = 1_767_268_800_000_000


async def cpu_us(requests: int, begin: Callable[[int], Any]) -> tuple[float, float]:
    """(CPU us, wall us) per request."""

    async def client(first: int) -> None:
        for i in range(first, requests, CONNECTIONS):
            await begin(i)

    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.gather(*(client(first) for first in range(CONNECTIONS)))
    return 1e6 * (time.process_time() - cpu) / requests, 1e6 * (time.perf_counter() - wall) / requests


async def measured(url: str, windows: WindowSet, requests: int) -> dict[str, float]:
    store = ServerStore(StoreAddress.of(url), deadline_s=5.0, answer_ttl_s=60, metrics=Metrics())
    await store.start()
    history = HistoryAppend(windows.layout)
    own = [1] * len(windows.layout.columns)

    async def appended(i: int, name: str, at: int) -> Reply:
        event = event_arguments(id_hash(f"{name} {i}").to_bytes(8, "little"), at)
        future = store.send([history.command(f"u{i % USERS}", windows.layout.packer.pack(at, *own), event)], 1)
        assert future is not None
        return (await future)[0]

    for i in range(60 * USERS):
        await appended(i, "warm", NOON + i)
    loop = asyncio.get_running_loop()

    async def nothing(_: int) -> None:
        done = loop.create_future()
        loop.call_soon(done.set_result, None)
        await done

    async def append(i: int) -> None:
        windows.layout.prior_history(await appended(i, "read", NOON + 10**9 + i))

    async def evaluated(i: int) -> None:
        at = NOON + 10**10 + i
        known = windows.layout.prior_history(await appended(i, "evaluated", at))
        windows.evaluate(known.events, known.newest_us, at, own)

    empty, _ = await cpu_us(requests, nothing)
    round_trip, wall = await cpu_us(requests, append)
    with_windows, _ = await cpu_us(requests, evaluated)
    await store.close()
    return {
        "cpu_us": round_trip - empty,
        "cpu_of_loop_us": empty,
        "wall_us": wall,
        "cpu_with_windows_us": with_windows - empty,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("declaration")
    parser.add_argument("--requests", type=int, default=40_000)
    requested = parser.parse_args()
    declaration = parse(json.loads(requested.declaration), learnt=True)
    windows = next(found for found in window_sets(declaration) if found.layout.entity == "user")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(measured(requested.url, windows, requested.requests))))


if __name__ == "__main__":
    main()
