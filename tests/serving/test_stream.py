"""The stream process against a real broker: decisions equal to those of REST, rejected messages, drain, metrics."""

import signal
from collections.abc import Iterator
from typing import Any

import pytest
from expected import probability
from kafka import Broker, Client, Stream, committed
from servers import Registry, Serving, Valkey, until
from stream_checks import payment


@pytest.fixture(scope="module")
def broker(backends: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    broker = Broker(backends["kafka"], tmp_path_factory.mktemp("kafka"))
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture(scope="module")
def client(broker: Broker) -> Iterator[Client]:
    client = Client(broker.bootstrap)
    yield client
    client.close()


@pytest.fixture(scope="module")
def stream(
    broker: Broker, registry: Registry, versions: list[str], shared_store: Valkey,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stream]:  # fmt: skip
    registry.promote(versions[0])
    folder = tmp_path_factory.mktemp("stream")
    stream = Stream(folder, broker.bootstrap, shared_store.url, registry, SERVING_TRACES="1").start()
    yield stream
    stream.close()


def without_id(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name != "prediction_id"}


def test_decisions_are_those_of_sequential_requests_also_inside_a_batch(
    stream: Stream, client: Client, serving: Serving
) -> None:
    before = len(client.of("decisions"))
    for number in range(20):
        client.transaction(payment("alice", number, user_id="alice"))
    decisions = client.wait(before + 20)[before:]
    rest = [serving.predict(**payment("bob", number)) for number in range(20)]
    by_id = {of.json["transaction_id"]: of for of in decisions}
    for number, expected in enumerate(rest):
        found = by_id[f"alice-{number}"]
        assert found.key == "alice"
        assert without_id(found.json) == without_id(expected) | {"transaction_id": f"alice-{number}"}
        assert found.headers == {"model-version": expected["model_version"]}
    assert [of.json["transaction_id"] for of in decisions] == [f"alice-{number}" for number in range(20)]
    # The second payment by hand: one payment before it, of 10 USD, at another merchant.
    second = probability(0, 11.0, velocity=1, average=10.0, merchants=1, distance_known=True)
    assert by_id["alice-1"].json["fraud_probability"] == pytest.approx(second, abs=1e-6)


def test_a_second_delivery_gets_the_first_answer(stream: Stream, client: Client, serving: Serving) -> None:
    before = len(client.of("decisions"))
    client.transaction(payment("carol", 1))
    client.transaction(payment("carol", 1))
    first, second = client.wait(before + 2)[before:]
    assert first.json["repeated"] is False
    assert second.json == {**first.json, "repeated": True}
    client.transaction(payment("carol", 1))
    assert client.wait(before + 3)[before + 2].json == second.json
    assert without_id(serving.predict(**payment("carol", 1))) == without_id(second.json)


def test_the_trace_is_passed_on_and_recorded(stream: Stream, client: Client) -> None:
    before = len(client.of("decisions"))
    trace = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    client.transaction(payment("dave", 1), [("other", b"x"), ("traceparent", trace)])
    client.transaction(payment("dave", 2))
    client.transaction(payment("dave", 3), [("traceparent", b"not-a-trace")])
    decision = client.wait(before + 3)[before]
    assert decision.headers["traceparent"] == trace.decode()
    assert "other" not in decision.headers

    def recorded() -> dict[str, str | None]:
        return {r["transaction_id"]: r.get("traceparent") for r in stream.records() if r["user_id"] == "dave"}

    expected = {"dave-1": trace.decode(), "dave-2": None, "dave-3": None}
    until(lambda: len(recorded()) == len(expected), "the records are written")
    assert recorded() == expected


GOOD = payment("erin", 1)
POISON: dict[str, tuple[str | None, object, str, str]] = {
    "no key": (None, GOOD, "no_key", ""),
    "empty key": ("", GOOD, "no_key", ""),
    "tombstone": ("erin", None, "no_value", ""),
    "not JSON": ("erin", b"\x00\x01", "not_json", ""),
    "half of a body": ("erin", b'{"amount": 1', "not_json", ""),
    "not UTF-8": ("erin", b'{"amount": 1, "user_id": "\xff"}', "not_json", ""),
    "not an object": ("erin", b"[1]", "invalid", ""),
    "unknown field": ("erin", GOOD | {"amuont": 2}, "invalid", "amuont"),
    "negative amount": ("erin", GOOD | {"amount": -1}, "invalid", "amount"),
    "no transaction_id": ("erin", GOOD | {"transaction_id": None}, "invalid", "transaction_id"),
    "future": ("erin", GOOD | {"event_timestamp": "2099-01-01T00:00:00Z"}, "invalid", "event_timestamp"),
    "short request": ("erin", {"amount": 5, "hour_of_day": 1, "day_of_week": 1}, "no_user", "user_id"),
    "other key": ("frank", GOOD, "key_mismatch", "user_id"),
    "key that is not UTF-8": ("erin\udcff", GOOD, "key_mismatch", "user_id"),
    "too large": ("erin", b'{"amount": 1, "x": "' + b"y" * 17_000 + b'"}', "too_large", ""),
    "10 MB": ("erin", b"z" * 10_000_000, "too_large", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", POISON)
def test_a_poison_message_is_rejected_with_its_bytes_and_does_not_stop_the_others(
    stream: Stream, client: Client, name: str
) -> None:
    key, value, reason, field = POISON[name]
    decided, rejected = len(client.of("decisions")), len(client.of("transactions.rejected"))
    raw = None if key is None else key.encode(errors="surrogateescape")
    client.send(raw, value, [("trace", b"1")])
    client.transaction(payment("grace", len(client.published) % 60, transaction_id=f"grace-{name}"))
    (decision,) = client.wait(decided + 1)[decided:]
    assert decision.json["transaction_id"] == f"grace-{name}"
    (message,) = client.wait(rejected + 1, "transactions.rejected")[rejected:]
    assert message.headers["rejected-reason"] == reason, message.headers
    assert message.headers["rejected-field"] == field
    assert message.headers["rejected-detail"]
    assert message.headers["trace"] == "1"
    assert message.headers["rejected-topic"] == "transactions"
    assert int(message.headers["rejected-offset"]) >= 0
    sent = value if isinstance(value, bytes) or value is None else None
    if sent is not None:
        assert message.value == sent
    assert int(message.headers["rejected-bytes"]) == len(message.value or b"")


def test_of_a_message_that_the_broker_would_refuse_the_beginning_is_published(stream: Stream, client: Client) -> None:
    rejected = len(client.of("transactions.rejected"))
    value = bytes(range(256)) * (17 * 4096)
    client.send("ida", value)
    (message,) = client.wait(rejected + 1, "transactions.rejected")[rejected:]
    assert message.value == value[:65_536]
    assert message.headers["rejected-truncated"] == "true"
    assert message.headers["rejected-bytes"] == str(len(value))
    assert message.headers["rejected-reason"] == "too_large"


def test_every_message_is_counted_and_sigterm_commits_all(
    broker: Broker, stream: Stream, client: Client, serving: Serving
) -> None:
    before = len(client.of("decisions"))
    for number in range(50):
        client.transaction(payment(f"henry{number % 7}", number))
    client.wait(before + 50)
    until(lambda: stream.metric("stream_unacknowledged_messages") == 0, "every decision acknowledged")
    outcomes = {
        of: stream.metric(f'stream_messages_total{{outcome="{of}"}}') for of in ("decided", "repeated", "rejected")
    }
    assert outcomes["decided"] + outcomes["repeated"] == len(client.of("decisions"))
    assert outcomes["rejected"] == len(client.of("transactions.rejected"))
    assert stream.metric("stream_redelivered_total") == outcomes["repeated"]
    assert stream.metric("stream_decision_seconds_count") == sum(outcomes.values())
    until(lambda: stream.metric("stream_paused") == 0, "consumption not paused")
    until(lambda: stream.metric("stream_broker_up") == 1, "the broker seen")
    assert stream.stop(signal.SIGTERM) == 0
    assert sum(committed(broker.bootstrap)) == sum(outcomes.values())
    ids = {of.json["prediction_id"] for of in client.of("decisions")}
    assert ids == {record["prediction_id"] for record in stream.records()}
