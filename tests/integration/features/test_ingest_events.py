"""The event stream into the online store: at least once in, exactly once counted."""

import json

import pytest
import redis

from fraud.errors import UnavailableError
from fraud.features import ingest_events
from fraud.features.event_stream import RedisStream
from fraud.features.online_store import OnlineHistory
from fraud.job import Context

MINUTE_US = 60_000_000
FIRST_US = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z


def send(client: redis.Redis, number: int, **changes: object) -> None:
    event = {
        "transaction_id": f"t{number}", "user_id": "u", "merchant_id": "m", "merchant_category": "grocery",
        "event_timestamp": f"2026-01-01T00:{number:02}:00Z", "amount": number + 1.5, **changes,
    }  # fmt: skip
    client.xadd("transactions", {"event": json.dumps(event)})


def ingest(context: Context) -> ingest_events.Result:
    return ingest_events.run(ingest_events.Config(idle_seconds=0.05, batch=2), context)


def test_events_enter_the_history_in_order_and_once(context: Context, client: redis.Redis) -> None:
    store = OnlineHistory(client)
    store.append("u", "t1", FIRST_US + MINUTE_US, 25_000, "m")  # was a request before
    for number in (0, 1, 2, 2):
        send(client, number)
    assert ingest(context) == ingest_events.Result(events=4, appended=2, repeated=2, rejected=0)
    assert ingest(context).events == 0
    kept = store.read("u")[2]
    assert kept["event_us"].tolist() == [FIRST_US + MINUTE_US, FIRST_US, FIRST_US + 2 * MINUTE_US]
    assert kept["units"].tolist() == [25_000, 15_000, 35_000]


def test_what_a_killed_reader_had_taken_is_taken_again_and_not_doubled(context: Context, client: redis.Redis) -> None:
    for number in range(5):
        send(client, number)
    killed = RedisStream(client, "transactions", "online-history", "one")
    first = killed.read(3, 0.05)
    OnlineHistory(client).append("u", "t0", FIRST_US, 15_000, "m")  # appended, not settled
    assert len(first) == 3
    assert ingest(context) == ingest_events.Result(events=5, appended=4, repeated=1, rejected=0)
    assert len(OnlineHistory(client).read("u")[2]) == 5
    pending = client.xpending("transactions", "online-history")
    assert isinstance(pending, dict)
    assert pending["pending"] == 0


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
    ],
)
def test_an_unusable_event_is_set_aside_with_its_reason(
    context: Context, client: redis.Redis, changes: dict[str, object], reason: str
) -> None:
    send(client, 0, **changes)
    send(client, 1)
    assert ingest(context) == ingest_events.Result(events=2, appended=1, repeated=0, rejected=1)
    rejected = client.xrange("transactions:rejected")
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
        ingest_events.run(ingest_events.Config(), Context(unreachable, context.params, context.log))
