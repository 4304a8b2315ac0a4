"""The event stream into the online store: at least once in, exactly once counted."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from tests.integration import broker
from tests.served_answers import THREE, TWO_ENTITIES

from fraud.core.contract import id_hash
from fraud.core.plan import Plan
from fraud.errors import UnavailableError
from fraud.features import ingest_events
from fraud.features.online_store import OnlineHistory
from fraud.job import Context
from fraud.streams import kafka_topic, rejected_topic
from fraud.streams.kafka_topic import KafkaTopic
from fraud.streams.redis_stream import RedisStream
from fraud.streams.source import Delivery
from fraud.streams.topic_reader import reading

MINUTE_US = 60_000_000
FIRST_US = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z
USER = Plan(THREE).windows[0].layout
CARD, TERMINAL = (windows.layout for windows in Plan(TWO_ENTITIES).windows)


def event(number: int, **changes: object) -> dict[str, Any]:
    return {
        "transaction_id": f"t{number}", "user_id": "u", "merchant_id": "m", "merchant_category": "grocery",
        "event_timestamp": f"2026-01-01T00:{number:02}:00Z", "amount": number + 1.5, **changes,
    }  # fmt: skip


def send(client: redis.Redis, number: int, **changes: object) -> None:
    client.xadd("transactions", {"event": json.dumps(event(number, **changes))})


def ingest(context: Context) -> ingest_events.Result:
    return ingest_events.run(ingest_events.Config(idle_seconds=0.05, batch=2), context)


def test_events_enter_the_history_in_order_and_once(context: Context, client: redis.Redis) -> None:
    store = OnlineHistory(client)
    store.append(USER, "u", "t1", FIRST_US + MINUTE_US, (25_000, id_hash("m")))  # was a request before
    for number in (0, 1, 2, 2):
        send(client, number)
    assert ingest(context) == ingest_events.Result(events=4, appended=2, repeated=2, rejected=0)
    assert ingest(context).events == 0
    kept = store.read(USER, "u")[2]
    assert kept["event_us"].tolist() == [FIRST_US + MINUTE_US, FIRST_US, FIRST_US + 2 * MINUTE_US]
    assert kept["amount"].tolist() == [25_000, 15_000, 35_000]


def test_what_a_killed_reader_had_taken_is_taken_again_and_not_doubled(context: Context, client: redis.Redis) -> None:
    for number in range(5):
        send(client, number)
    killed = RedisStream(client, "transactions", "online-history", "one")
    first = killed.read(3, 0.05)
    OnlineHistory(client).append(USER, "u", "t0", FIRST_US, (15_000, id_hash("m")))  # appended, not settled
    assert len(first) == 3
    assert ingest(context) == ingest_events.Result(events=5, appended=4, repeated=1, rejected=0)
    assert len(OnlineHistory(client).read(USER, "u")[2]) == 5
    pending = client.xpending("transactions", "online-history")
    assert isinstance(pending, dict)
    assert pending["pending"] == 0


def of_kafka(context: Context, brokers: str) -> Context:
    settings = context.settings.model_copy(update={"kafka_brokers": brokers})
    return Context(settings, context.params, context.declaration, context.log)


def test_a_kafka_topic_is_a_source_like_the_stream(context: Context, client: redis.Redis, mock_broker: str) -> None:
    kafka = of_kafka(context, mock_broker)
    # Long enough for the first message of the second partition to follow the last one of the first.
    config = ingest_events.Config(source="kafka", idle_seconds=3.0, batch=2)
    broker.send(mock_broker, "transactions", [event(0), event(1), b"not JSON", event(1), event(2, amount=-1)])
    broker.send(mock_broker, "transactions.rejected", [])
    broker.send(mock_broker, "transactions", [event(3)], partition=1)
    assert ingest_events.run(config, kafka) == ingest_events.Result(events=6, appended=3, repeated=1, rejected=2)
    broker.send(mock_broker, "transactions", [event(4)])
    assert ingest_events.run(config, kafka) == ingest_events.Result(events=1, appended=1, repeated=0, rejected=0)
    assert sorted(OnlineHistory(client).read(USER, "u")[2]["amount"].tolist()) == [15_000, 25_000, 45_000, 55_000]

    found = list(rejections(kafka, "transactions.rejected"))
    assert [(r.place.partition, r.place.offset, r.reason.code, r.value) for r in found] == [
        (0, 2, "invalid", b"not JSON"), (0, 4, "invalid", json.dumps(event(2, amount=-1)).encode()),
    ]  # fmt: skip
    assert "amount" in found[1].reason.detail


def read(source: KafkaTopic, count: int) -> list[Delivery]:
    found: list[Delivery] = []
    while len(found) < count:
        new = source.read(count - len(found), 30.0)
        assert new
        found += new
    return found


def test_messages_that_were_read_and_not_settled_come_again(context: Context, mock_broker: str) -> None:
    settings = of_kafka(context, mock_broker).settings
    broker.send(mock_broker, "transactions", [event(n) for n in range(4)])
    with kafka_topic.connect(settings, "transactions", "g", "one") as source:
        first = read(source, 4)
        source.settle([first[0], first[2]])  # the message between was not settled
    with kafka_topic.connect(settings, "transactions", "g", "two") as source:
        again = read(source, 3)
        source.settle(again)
        assert source.read(1, 0.5) == []
    assert [delivery.payload for delivery in again] == [json.dumps(event(n)).encode() for n in (1, 2, 3)]


def rejections(context: Context, topic: str) -> Iterator[rejected_topic.Rejected]:
    with reading(context.settings, topic) as reader:
        for partition in range(4):
            for chunk in reader.chunks(partition, 0, None, 100):
                yield from filter(None, (rejected_topic.parse(record, "") for record in chunk.records))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"amount": -1}, "amount"),
        ({"amount": 0.00001}, "at least 0.0001 USD"),
        ({"user_id": ""}, "user_id"),
        ({"transaction_id": "x" * 129}, "transaction_id"),
        ({"event_timestamp": "2026-01-01T00:00:00"}, "event_timestamp"),
        ({"event_timestamp": "2999-01-01T00:00:00Z"}, "at most a day ahead"),
        ({"event_timestamp": "1999-12-31T23:59:59Z"}, "from 2000 on"),
        ({"merchant_id": None}, "merchant_id"),
        ({"distance_from_home": -1}, "distance_from_home: must be from 0 to 12500 miles"),
        ({"distance_from_home": "far"}, "distance_from_home: expected number in miles or null"),
        ({"distance_from_home": True}, "distance_from_home: expected number"),
        ({"merchant_category": 7}, "merchant_category: expected category"),
        ({"merchant_category": "x" * 129}, "merchant_category: is longer than 128 characters"),
    ],
)
def test_an_unusable_event_is_set_aside_with_its_reason(
    context: Context, client: redis.Redis, changes: dict[str, object], reason: str
) -> None:
    send(client, 0, **changes)
    send(client, 1)
    assert ingest(context) == ingest_events.Result(events=2, appended=1, repeated=0, rejected=1)
    rejected = client.xrange("{transactions}:rejected")
    assert isinstance(rejected, list)
    assert reason in rejected[0][1][b"reason"].decode()


def test_bytes_that_are_no_json_do_not_stop_the_stream(context: Context, client: redis.Redis) -> None:
    client.xadd("transactions", {"event": b"\xff{"})
    client.xadd("transactions", {"something": "else"})
    send(client, 0)
    assert ingest(context) == ingest_events.Result(events=3, appended=1, repeated=0, rejected=2)


def test_a_stream_that_is_down_says_so(context: Context) -> None:
    unreachable = context.settings.model_copy(
        update={"redis_url": type(context.settings.redis_url)("redis://127.0.0.1:1")}
    )
    with pytest.raises(UnavailableError, match="does not answer"):
        ingest_events.run(ingest_events.Config(), Context(unreachable, context.params, THREE, context.log))


def test_an_event_goes_to_the_history_of_each_entity_of_every_declaration(
    context: Context, client: redis.Redis
) -> None:
    declared = Context(context.settings, context.params, TWO_ENTITIES, context.log, lambda: [THREE])
    config = ingest_events.Config(idle_seconds=0.05, live=True)
    send(client, 0, channel="carrier pigeon", distance=12.345, in_person=True, terminal_id="t 9", country="it")
    send(client, 1, channel="web", terminal_id=None)
    send(client, 2, terminal_id=" NULL ", in_person=None)
    # The category is wrong for the version that is live, not for the project: it is null there.
    send(client, 3, merchant_category=[])
    for events, appended in ((4, 4), (0, 0)):
        result = ingest_events.run(config, declared)
        assert (result.events, result.appended, result.rejected) == (events, appended, 0)
    store, m = OnlineHistory(client), MINUTE_US
    missing = -(2**63)
    assert store.read(CARD, "u")[2].tolist() == [
        (FIRST_US, id_hash("other"), 1234, 1), (FIRST_US + m, id_hash("web"), missing, 2),
        (FIRST_US + 2 * m, id_hash("other"), missing, 2), (FIRST_US + 3 * m, id_hash("other"), missing, 2),
    ]  # fmt: skip
    assert store.read(TERMINAL, "t 9")[2].tolist() == [(FIRST_US, 15_000, id_hash("u"))]
    assert len(client.keys(f"h:{TERMINAL.id}:*")) == 1
    assert len(store.read(USER, "u")[2]) == 4
