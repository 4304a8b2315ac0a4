"""Random payments get the same answers and records, to the byte, as batches of a topic and as requests one by one."""

import asyncio
import json
import logging
import random
import re
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, closing
from datetime import UTC, datetime, timedelta, timezone
from itertools import count, product
from pathlib import Path
from typing import Any

import plans
import pytest
from confluent_kafka import Message
from kafka import DEADLINE_S, Client, MockBroker
from servers import Registry, Valkey

from fraud.core.contract import TRANSACTION_COLUMNS
from fraud.core.plan import Plan
from fraud_serving.log.prediction_log import PredictionLog
from fraud_serving.metrics import Metrics
from fraud_serving.model.model import Model
from fraud_serving.request_batch import all_valid
from fraud_serving.scoring.challenger import Challenger
from fraud_serving.scoring.messages import MessageScorer
from fraud_serving.scoring.scorer import Scorer
from fraud_serving.scoring.state import State
from fraud_serving.store.address import StoreAddress
from fraud_serving.store.store import ServerStore, Store
from fraud_serving.stream.errors import ClientErrors
from fraud_serving.stream.metrics import StreamMetrics
from fraud_serving.stream.progress import Batch, Progress
from fraud_serving.stream.publisher import Publisher
from fraud_serving.stream.settings import StreamSettings
from fraud_serving.stream.worker import Worker

TOPICS = {"decisions": 1, "transactions.rejected": 1}  # one partition, so that the order of decisions is known
FIRST = datetime(2026, 3, 1, tzinfo=UTC)
FIRST_DAY = (FIRST - datetime(1970, 1, 1, tzinfo=UTC)).days
PAYMENTS, REPEATS, DAYS, LARGEST = 1_400, 100, 40, 500
# What differs by design: how the id of an answer is made, and when it was given.
OWN = re.compile(rb'"(?:prediction_id":"[^"]*"|(?:served|latency)_us":\d+),')
Body = dict[str, Any]


def payment(rng: random.Random, number: int, columns: set[str]) -> Body:
    """One payment of 30 users. Each declared column is null or missing in some."""
    at = FIRST + timedelta(days=DAYS * number / PAYMENTS, microseconds=rng.randrange(10**9))
    if rng.random() < 0.1:  # at most 33 days late: histories are kept for 37, and a request that is later has no retry
        at -= timedelta(hours=rng.choice((0.2, 5, 100, 800)) * rng.random())
    body = {
        "transaction_id": f"payment-{number}", "user_id": f"user-{rng.randrange(30):03d}",
        "merchant_id": f"merchant-{rng.randrange(30):02d}", "amount": round(rng.uniform(0.5, 400), rng.choice((2, 5))),
        "event_timestamp": at.astimezone(timezone(timedelta(hours=rng.choice((0, 0, 5.5))))).isoformat(),
        "merchant_category": rng.choice(("travel", "home", "grocery", "strange")),
        "distance_from_home": round(rng.expovariate(0.05), 2),
        # One device has more payments than the store keeps: a message that comes again sees fewer of them.
        "device_id": f"device-{rng.randrange(20) if rng.random() < 0.3 else 0:02d}",
        "country": rng.choice(("fr", "us", "us", "xx")), "card_present": rng.random() < 0.5,
    }  # fmt: skip
    for name in sorted(columns & set(body)):
        chance = rng.random()
        if chance < 0.1:
            del body[name]
        elif chance < 0.15:
            body[name] = None
    # Not everywhere, because a batch with one of these is not checked by columns.
    if number // 200 % 2 and rng.random() < 0.05:
        for name in ("transaction_id", "user_id", "merchant_id"):
            body[name] = f" {body[name]}\u00a0"
        body["hour_of_day"] = at.hour
    return {name: body[name] for name in body if name in {*TRANSACTION_COLUMNS, "hour_of_day", *columns}}


def payments(rng: random.Random, columns: set[str]) -> list[Body]:
    """Nearly in order of time, some of them sent again: at once, soon after or at the end."""
    sent = [payment(rng, n, columns) for n in sorted(range(PAYMENTS), key=lambda n: n + rng.randrange(20))]
    for _ in range(REPEATS):
        i = rng.randrange(len(sent))
        sent.insert(min(len(sent), i + rng.choice((1, 1 + rng.randrange(40), PAYMENTS))), sent[i])
    return sent


def parts(rng: random.Random, sent: Sequence[Body]) -> Iterator[Sequence[Body]]:
    """Batches of 1 to LARGEST payments, more small than large ones."""
    at, sizes = 0, [LARGEST, 1]
    while at < len(sent):
        size = sizes.pop() if sizes else round(LARGEST ** rng.random())
        yield sent[at : at + size]
        at += size


def publish_daily(store: Valkey, plan: Plan) -> list[str]:
    """Two snapshots of each daily table, with rows of two thirds of the merchants. Returns their ids."""
    found = []
    for table, day in product(plan.tables, (FIRST_DAY, FIRST_DAY + DAYS // 2)):
        rows = {f"merchant-{n:02d}": [day % 7 + n / 8 + i for i in range(len(table.names))] for n in range(20)}
        found.append(plans.publish(store, table, day, rows, [0.125 * i for i in range(len(table.names))]))
    return found


@asynccontextmanager
async def decision_path(model: Model, url: str, folder: Path) -> AsyncIterator[tuple[Scorer, Store, PredictionLog]]:
    """A scorer that serves `model`. Afterwards all records are in `folder`."""
    metrics = Metrics()
    store = ServerStore(StoreAddress.of(url), 1.0, 3600, metrics)
    log = PredictionLog(folder, 100_000, 10**9, metrics, Challenger(metrics).score)
    scorer = Scorer(store, log, metrics)
    await store.start()
    log.start()
    scorer.state = State(model)
    await scorer.snapshots.read(scorer.state.reads.tables)
    yield scorer, store, log
    await store.close()
    await asyncio.to_thread(log.close)


async def as_batches(model: Model, url: str, folder: Path, brokers: str, given: Sequence[Sequence[Body]]) -> int:
    """Decide the batches as the stream process does. Returns how many of them were checked by columns."""
    metrics, columnar, offsets = StreamMetrics(), 0, count()
    async with decision_path(model, url, folder) as (scorer, store, log):
        errors, progress = ClientErrors(metrics, pytest.fail), Progress(log, 10_000, metrics)
        publisher = Publisher(StreamSettings(brokers=brokers), progress, metrics, errors)
        publisher.start()
        scoring = MessageScorer(scorer, store, log)
        worker = Worker(scorer, scoring, publisher, progress, errors, 16_384, traces=False)
        for bodies in given:
            assert await asyncio.to_thread(progress.wait_for_room, DEADLINE_S)
            messages = [message(body, next(offsets)) for body in bodies]
            requests = [scorer.state.requests.parse(of.value() or b"") for of in messages]
            columnar += all_valid(scorer.state.requests, requests, time.time_ns() // 1000) is not None
            progress.add(batch := Batch(messages, {0: 1}))
            worker.take(batch)
        assert await asyncio.to_thread(progress.wait_until_decided, DEADLINE_S)
        await publisher.close()
    return columnar


def message(body: Body, offset: int) -> Message:
    key, value, now_ms = body["user_id"].strip().encode(), json.dumps(body).encode(), time.time_ns() // 10**6
    return Message(topic="transactions", key=key, value=value, partition=0, offset=offset, timestamp=(1, now_ms))


async def one_by_one(model: Model, url: str, folder: Path, sent: Sequence[Body]) -> list[bytes]:
    async with decision_path(model, url, folder) as (scorer, _, _):
        state = scorer.state
        return [await scorer.decide(state, state.requests.parse(json.dumps(body).encode()), 0) for body in sent]


def records(folder: Path) -> dict[str, set[bytes]]:
    """Transaction -> its different records. A message that comes again is logged again."""
    found = defaultdict[str, set[bytes]](set)
    for path in folder.glob("*.jsonl"):
        for line in path.read_bytes().splitlines():
            found[json.loads(line)["transaction_id"]].add(OWN.sub(b"", line))
    return found


def falsified(data: bytes) -> bytes:
    """A copy in which the last digit of the probability is another one."""
    return re.sub(rb'("fraud_probability":[\d.e-]*)(\d)', lambda found: found[1] + bytes([found[2][0] ^ 1]), data)


@pytest.mark.parametrize("number", [pytest.param(0, id="three features"), pytest.param(7, id="shipped declaration")])
def test_batches_and_requests_one_by_one_give_equal_answers_and_records(
    number: int, registry: Registry, backends: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, rng, snapshots = plans.model(registry, number), random.Random(number), []  # noqa: S311
    sent = payments(rng, set(model.plan.declaration.columns))
    given = list(parts(rng, sent))
    with ExitStack() as ended:
        stores = [Valkey(backends["valkey"], tmp_path / f"store{i}") for i in range(2)]
        for store in stores:
            ended.callback(store.stop)
            store.start()
            snapshots = publish_daily(store, model.plan)
        broker = MockBroker(TOPICS)
        ended.callback(broker.stop)
        client = ended.enter_context(closing(Client(broker.bootstrap, TOPICS)))
        columnar = asyncio.run(as_batches(model, stores[0].url, tmp_path / "batches", broker.bootstrap, given))
        answers = [OWN.sub(b"", of.value or b"") for of in client.wait(len(sent))]
        expected = [OWN.sub(b"", of) for of in asyncio.run(one_by_one(model, stores[1].url, tmp_path / "alone", sent))]
    assert answers == expected
    assert answers != [*expected[:700], falsified(expected[700]), *expected[701:]]

    logged, of_requests, key = records(tmp_path / "batches"), records(tmp_path / "alone"), "payment-700"
    assert len(of_requests) == PAYMENTS
    assert logged == of_requests
    assert logged != of_requests | {key: {falsified(of) for of in of_requests[key]}}

    # What the payments are random for has happened: both checks of a batch, retries, all snapshots, and no fallback.
    assert 0 < columnar < len(given)
    assert sum(b'"repeated":true' in of for of in answers) == REPEATS
    assert not any(b'"degraded":true' in of for of in answers)
    assert all(any(id_.encode() in of for lines in logged.values() for of in lines) for id_ in snapshots)
    assert not [of for of in caplog.records if of.levelno >= logging.ERROR]
