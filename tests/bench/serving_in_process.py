"""CPU time of the decision path alone, in this process: no sockets, no store, the replies are given.

    .venv/serving/bin/python tests/bench/serving_in_process.py FOLDER [--events 6] [--profile]

Prints JSON. FOLDER is a verified local copy as `serving_model.write` makes it. On a busy machine CPU time
changes by up to a fifth, time per request by far more. `serving_cpu.py` runs it for the bench's models.
"""

import argparse
import asyncio
import cProfile
import gc
import json
import pstats
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import uvloop

from fraud.core.daily import Snapshot
from fraud_serving.log.prediction_log import PredictionLog
from fraud_serving.metrics import Metrics
from fraud_serving.model.model import Artefact, Model, Registered, load
from fraud_serving.scoring.scorer import Scorer
from fraud_serving.scoring.state import State
from fraud_serving.store.address import StoreAddress
from fraud_serving.store.commands import PublishedSnapshot
from fraud_serving.store.connection import Pending
from fraud_serving.store.store import ServerStore

REQUESTS: Final = 4_000
AT_ONCE: Final = 16
ROUNDS: Final = 12
ROWS: Final = 1_000
_FIRST_US: Final = 1_777_000_000_000_000
"""2026-04-24, a week before the first request."""


def model_in(folder: Path) -> Model:
    served = json.loads((folder / "served.json").read_text())
    files = folder / served["tags"]["model_sha256"]
    artefact = Artefact((files / "model.onnx").read_bytes(), (files / "serving.json").read_bytes())
    return load(Registered(**served), artefact)


def body(number: int, columns: set[str]) -> bytes:
    given = {
        "transaction_id": f"bench-{number}", "user_id": f"u{number * 7919 % 5000:05d}",
        "merchant_id": f"m{number * 104729 % 2000:04d}", "amount": 5 + number * 37 % 400,
        "event_timestamp": f"2026-05-{number % 28 + 1:02d}T{number % 24:02d}:12:45.{number:06d}Z",
    }  # fmt: skip
    declared = {
        "merchant_category": "travel", "distance_from_home": number % 50, "device_id": f"d{number * 7919 % 4000:05d}",
        "country": f"country-{number * 31 % 60:02d}", "card_present": number % 3 == 0,
    }  # fmt: skip
    return json.dumps(given | {name: value for name, value in declared.items() if name in columns}).encode()


class _Connection:
    """Answers every command of a transaction with the same replies, in the next event-loop iteration."""

    def __init__(self, replies: list[Any]) -> None:
        self.pending: tuple[()] = ()
        self._replies = replies

    def request(self, _data: bytes, _commands: int = 1) -> "asyncio.Future[list[Any]]":
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Any]] = loop.create_future()
        loop.call_soon(future.set_result, self._replies)
        return future

    def send_later(self, _data: bytes, _pending: Pending) -> None:
        """Keep nothing."""


def scorer_of(model: Model, events: int) -> tuple[Scorer, PredictionLog]:
    """A scorer whose store has a history of `events` events for every entity, and a row in every daily table."""
    rng, metrics, state = random.Random(1), Metrics(), State(model)  # noqa: S311 - no secret
    drawn: dict[str, Callable[[], int]] = {
        "q": lambda: 10_000 * rng.randrange(100), "B": lambda: 1, "Q": lambda: rng.getrandbits(64),
    }  # fmt: skip
    replies: list[Any] = []
    for windows in model.plan.windows:
        layout = windows.layout
        records = (
            layout.packer.pack(_FIRST_US + 10_800_000_000 * i, *(drawn[column.format]() for column in layout.columns))
            for i in range(events)
        )
        replies.append([events, _FIRST_US + 10_800_000_000 * (events - 1), 0, b"".join(records)])
    replies += [table.pack([1.0] * len(table.names)) for table in model.plan.tables]
    store = ServerStore(StoreAddress.of("redis://unused"), 1.0, 60, metrics)
    store._link.connection = _Connection(replies)  # type: ignore[assignment]
    log = PredictionLog(Path(tempfile.gettempdir()), 10**6, 10**9, metrics, lambda _: None)  # never started
    scorer = Scorer(store, log, metrics)
    scorer.state = state
    for table in model.plan.tables:
        snapshot = Snapshot(20_000, "2024-10-04-000000000000", [0.0] * len(table.names))
        scorer.snapshots._published[table.id] = (PublishedSnapshot(table, snapshot),)
    return scorer, log


async def requests_cpu_us(scorer: Scorer, log: PredictionLog, bodies: list[bytes]) -> float:
    """CPU microseconds per request, 16 at a time, with the encoding of its record."""
    encode, state, loop = msgspec.json.Encoder().encode_lines, scorer.state, asyncio.get_running_loop()
    spent = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for at in range(0, len(bodies), AT_ONCE):
            some = bodies[at : at + AT_ONCE]
            decided = [scorer.decide(state, state.requests.parse(one), time.perf_counter_ns()) for one in some]
            await asyncio.gather(*map(loop.create_task, decided))
            encode([record for record, _ in log._queue])
            log._queue.clear()
        spent.append(time.process_time() - began)
    return min(spent) / len(bodies) * 1e6


async def batch_over_ort(scorer: Scorer, log: PredictionLog, model: Model) -> dict[str, float]:
    """CPU of a batch of 1,000 short requests, of ONNX Runtime on as many rows, and the ratio of the two."""
    rows = [
        {
            "amount": 5.0 + n,
            "merchant_category": "travel",
            "hour_of_day": 3,
            "day_of_week": 2,
            "distance_from_home": 4.5,
        }
        for n in range(ROWS)
    ]
    data, state = json.dumps({"transactions": rows}).encode(), scorer.state
    table = np.random.default_rng(1).gamma(2, 50, (ROWS, len(model.plan.vector.names))).astype(np.float32)
    batch, bare = [], []
    for _ in range(60):
        began = time.process_time()
        await scorer.decide_batch(state, state.requests.parse_batch(data), time.perf_counter_ns())
        middle = time.process_time()
        model.score(table)
        batch.append(middle - began)
        bare.append(time.process_time() - middle)
        log._queue.clear()
    ours, ort = statistics.median(batch) * 1e3, statistics.median(bare) * 1e3
    return {"batch_ms": ours, "ort_ms": ort, "batch1000_vs_ort": ort / ours}


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--events", type=int, default=6, help="events in each history")
    parser.add_argument("--profile", action="store_true", help="print where the time of the requests goes")
    given = parser.parse_args()
    model = model_in(given.folder)
    scorer, log = scorer_of(model, given.events)
    bodies = [body(number, set(model.plan.columns)) for number in range(REQUESTS)]
    gc.freeze()
    gc.set_threshold(20_000)
    found = {"cpu_us_per_request": await requests_cpu_us(scorer, log, bodies)}
    print(json.dumps(found | await batch_over_ort(scorer, log, model)))
    if given.profile:
        with cProfile.Profile() as profile:
            await requests_cpu_us(scorer, log, bodies)
        pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(30)


if __name__ == "__main__":
    uvloop.run(main())
