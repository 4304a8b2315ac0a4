"""CPU of a serving process for reading a user's history and appending to it, sixteen requests at a time.

    .venv/serving/bin/python tests/bench/features_store.py REDIS_URL [--requests 40000]

It uses the store client and the event loop of serving. Users have sixty events, and every request is a new event. CPU
is that of this process, minus that of the same loop with completed futures. Prints one line of JSON.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Callable
from typing import Any, Final

import uvloop

from fraud.core import history, windows
from fraud_serving.metrics import Metrics
from fraud_serving.store.store import Store

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


async def measured(url: str, requests: int) -> dict[str, float]:
    store = Store(url, deadline_s=5.0, answer_ttl_s=60, metrics=Metrics())
    await store.start()
    for i in range(60 * USERS):
        await store.append(f"u{i % USERS}", f"warm {i}", NOON + i, 10_000, f"m{i % 40}")
    loop = asyncio.get_running_loop()

    async def nothing(_: int) -> None:
        done = loop.create_future()
        loop.call_soon(done.set_result, None)
        await done

    async def append(i: int) -> None:
        reply = await store.append(f"u{i % USERS}", f"t{i}", NOON + 10**9 + i, 10_000, f"m{i % 40}")
        history.prior_history(reply)

    async def evaluated(i: int) -> None:
        at = NOON + 10**10 + i
        reply = await store.append(f"u{i % USERS}", f"e{i}", at, 10_000, f"m{i % 40}")
        known = history.prior_history(reply)
        windows.evaluate(known.events, known.newest_us, at)

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
    parser.add_argument("--requests", type=int, default=40_000)
    requested = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(measured(requested.url, requested.requests))))


if __name__ == "__main__":
    main()
