"""kill -9 of the consumer at every step and of the store; outages; rebalances; back-pressure.

What must hold after each: every transaction has a decision, all decisions of a transaction are equal except for
`repeated`, and none but the first is without it.
"""

import json
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import killed_stream
import pytest
from kafka import Broker, Client, MockBroker, Stream, committed
from servers import Registry, Valkey, until
from stream_checks import SENT, all_decided, by_transaction, check, payment, transactions


@pytest.fixture
def broker(backends: dict[str, Any], tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(backends["kafka"], tmp_path / "kafka")
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def client(broker: Broker) -> Iterator[Client]:
    client = Client(broker.bootstrap)
    yield client
    client.close()


@pytest.fixture
def streams(
    broker: Broker, registry: Registry, versions: list[str], store: Valkey, tmp_path: Path
) -> Iterator[Callable[..., Stream]]:
    """Creates stream processes, not started, that end with the test."""
    registry.promote(versions[0])
    made: list[Stream] = []

    def make(**settings: str) -> Stream:
        made.append(Stream(tmp_path / f"stream{len(made)}", broker.bootstrap, store.url, registry, **settings))
        return made[-1]

    yield make
    for stream in made:
        stream.close()


@pytest.mark.parametrize("transactional", [False, True])
def test_partitions_are_shared_and_no_decision_is_lost_when_consumers_come_and_go(
    client: Client, streams: Callable[..., Stream], broker: Broker, *, transactional: bool
) -> None:
    sent = transactions()
    first, second = (
        streams(**({"STREAM_TRANSACTIONS": "1", "STREAM_TRANSACTIONAL_ID": name} if transactional else {}))
        for name in ("one", "two")
    )
    first.start()
    stopped = threading.Event()

    def produce() -> None:
        for transaction in sent:
            client.transaction(transaction)
            if int(transaction["transaction_id"].rpartition("-")[2]) % 5 == 0:
                stopped.wait(0.05)

    sending = threading.Thread(target=produce)
    sending.start()
    second.start()
    until(lambda: first.metric("stream_assigned_partitions") == 2, "the second half moved", 60)
    assert first.metric('stream_rebalances_total{kind="revoked"}') >= 1
    second.until_assigned(2)
    second.stop(signal.SIGTERM)
    first.until_assigned(4)
    stopped.set()
    sending.join()
    decisions = all_decided(client, sent)
    assert check(sent, decisions)["repeated"] == 0  # revoked partitions were drained and committed
    assert first.stop() == 0
    assert sum(committed(broker.bootstrap)) == SENT


def test_consumption_pauses_without_acknowledgements_and_resumes(
    broker: Broker, client: Client, streams: Callable[..., Stream], store: Valkey
) -> None:
    stream = streams(STREAM_MAX_UNACKNOWLEDGED="200", STREAM_BATCH_MESSAGES="50").start()
    client.transaction(payment("first", 1))
    client.wait(1)
    store.signal(signal.SIGSTOP)  # so that the consumer fetches more than it decides
    # One record batch, which is fetched as a whole: the broker cannot stop between the messages of it.
    sent = [{**of, "user_id": "user"} for of in transactions(1_000)]
    at_once = Client(broker.bootstrap, linger_ms=60_000)
    for transaction in sent:
        at_once.transaction(transaction)
    at_once.flush()
    # Soon: the first batches wait for the store no longer than its deadline, then their decisions are acknowledged.
    until(lambda: stream.metric("stream_unacknowledged_messages") >= 50, "a batch polled")
    broker.signal(signal.SIGSTOP)
    store.signal(signal.SIGCONT)
    until(lambda: stream.metric("stream_paused") == 1, "consumption paused")
    assert 200 <= stream.metric("stream_unacknowledged_messages") <= 250
    broker.signal(signal.SIGCONT)
    at_once.close()
    check(sent, [of for of in all_decided(client, sent) if of.key != "first"])
    until(lambda: stream.metric("stream_paused") == 0, "consumption resumed")
    assert stream.stop() == 0


def test_a_broker_that_goes_down_and_comes_back_with_its_log_loses_nothing(
    registry: Registry, versions: list[str], store: Valkey, tmp_path: Path
) -> None:
    registry.promote(versions[0])
    broker = MockBroker()
    client = Client(broker.bootstrap)
    stream = Stream(tmp_path / "stream", broker.bootstrap, store.url, registry).start()
    sent = transactions()
    try:
        for part in range(4):
            for transaction in sent[part::4]:
                client.transaction(transaction)
            broker.down()
            until(lambda: stream.metric("stream_broker_up") == 0, "the outage seen")
            broker.up()
            until(lambda: stream.metric("stream_broker_up") == 1, "the broker seen")
        check(sent, all_decided(client, sent))
        assert stream.stop() == 0
        assert sum(committed(broker.bootstrap)) >= SENT
    finally:
        client.close()
        stream.close()
        broker.stop()


@pytest.mark.parametrize("seconds", [1, 15])
def test_a_broker_that_is_away_loses_nothing(
    seconds: int, broker: Broker, client: Client, streams: Callable[..., Stream]
) -> None:
    """For less and for more than the session of the group."""
    stream = streams().start()
    sent = transactions()
    for transaction in sent[: SENT // 2]:
        client.transaction(transaction)
    client.flush()
    until(lambda: stream.metric("stream_batch_messages_count") > 0, "a batch polled")
    broker.signal(signal.SIGSTOP)
    threading.Event().wait(seconds)  # the length of the outage is what is tested
    broker.signal(signal.SIGCONT)
    for transaction in sent[SENT // 2 :]:
        client.transaction(transaction)
    check(sent, all_decided(client, sent))
    assert stream.stop() == 0
    assert sum(committed(broker.bootstrap)) == SENT


def test_a_killed_store_gives_degraded_answers_and_recovers(
    client: Client, streams: Callable[..., Stream], store: Valkey
) -> None:
    stream = streams().start()
    sent = transactions()
    for transaction in sent[:500]:
        client.transaction(transaction)
    all_decided(client, sent[:500])
    store.stop()
    for transaction in sent[500:1_000]:
        client.transaction(transaction)
    decisions = by_transaction(all_decided(client, sent[:1_000]))
    assert all(decisions[of["transaction_id"]][0]["degraded"] for of in sent[500:1_000])
    store.start()
    until(lambda: stream.metric("serving_store_up") == 1, "the store connected")
    for transaction in sent[1_000:]:
        client.transaction(transaction)
    counts = check(sent, all_decided(client, sent))
    assert counts["degraded"] == 500
    assert counts["repeated"] == 0
    assert stream.metric('serving_degraded_total{reason="store"}') == 500


@pytest.mark.parametrize("more", [{}, {"STREAM_TRANSACTIONS": "1", "STREAM_TRANSACTIONAL_ID": "one"}])
def test_sigterm_during_an_outage_ends_the_process_and_the_next_one_decides(
    broker: Broker, client: Client, streams: Callable[..., Stream], more: dict[str, str]
) -> None:
    stream = streams(STREAM_DRAIN_SECONDS="2", **more).start()
    sent = transactions()
    for transaction in sent:
        client.transaction(transaction)
    client.flush()
    until(lambda: stream.metric("stream_batch_messages_count") > 0, "a batch polled")
    broker.signal(signal.SIGSTOP)
    assert stream.stop() == 0
    broker.signal(signal.SIGCONT)
    streams(**more).start(wait_for="")
    check(sent, all_decided(client, sent))


def test_after_a_swap_a_second_delivery_still_gets_the_first_answer_and_the_challenger_scores(
    client: Client, streams: Callable[..., Stream], registry: Registry, versions: list[str]
) -> None:
    registry.promote(versions[1], "staging")
    stream = streams(SERVING_CHALLENGER_ALIAS="staging").start()
    until(lambda: stream.sample("serving_challenger_info") == 1, "the challenger loaded")
    client.transaction(payment("swap", 1))
    (first,) = client.wait(1)
    assert first.headers["model-version"] == first.json["model_version"] == versions[0]
    registry.promote(versions[2])
    until(lambda: stream.metric("serving_model_swaps_total") == 2, "the swap")
    client.transaction(payment("swap", 1))
    client.transaction(payment("swap", 2))
    _, second, other = client.wait(3)
    assert second.json == first.json | {"repeated": True}
    assert second.headers["model-version"] == versions[0]
    assert other.headers["model-version"] == other.json["model_version"] == versions[2]
    assert stream.stop() == 0
    records = {record["transaction_id"]: record for record in stream.records()}
    assert records["swap-1"]["challenger_version"] == versions[1]
    assert records["swap-1"]["prediction_id"] == first.json["prediction_id"]
    assert {record["model_version"] for record in records.values()} == {versions[0], versions[2]}


def test_a_message_whose_scoring_raises_is_rejected_and_its_batch_is_decided(
    client: Client, streams: Callable[..., Stream], tmp_path: Path
) -> None:
    stream = streams()
    stream.program = (str(Path(__file__).with_name("failing_stream.py")),)
    for number in range(30):
        client.transaction(payment("ok", number))
        if number % 10 == 5:
            client.transaction(payment("bad", number))
    client.flush()
    stream.start()
    assert [of.json["transaction_id"] for of in client.wait(30)] == [f"ok-{number}" for number in range(30)]
    rejected = client.wait(3, "transactions.rejected")
    assert {of.headers["rejected-reason"] for of in rejected} == {"internal"}
    assert {of.json["transaction_id"] for of in rejected} == {"bad-5", "bad-15", "bad-25"}
    assert "ZeroDivisionError" in rejected[0].headers["rejected-detail"]
    assert stream.stop() == 0


def test_a_missing_topic_is_reported_and_consumed_once_it_exists(
    backends: dict[str, Any], registry: Registry, versions: list[str], store: Valkey, tmp_path: Path
) -> None:
    registry.promote(versions[0])
    broker = Broker(backends["kafka"], tmp_path / "empty")
    stream = Stream(tmp_path / "stream", broker.bootstrap, store.url, registry)
    try:
        broker.start({"decisions": 4, "transactions.rejected": 1})
        stream.start(wait_for="")
        until(lambda: stream.metric('stream_kafka_errors_total{kind="topic"}', 0) > 0, "the missing topic counted", 60)
        broker.create({"transactions": 4})
        client = Client(broker.bootstrap)
        client.transaction(payment("late", 1))
        assert client.wait(1)[0].key == "late"
        client.close()
    finally:
        stream.close()
        broker.stop()


def test_a_clock_that_jumps_back_does_not_stop_the_stream(
    client: Client, streams: Callable[..., Stream], tmp_path: Path
) -> None:
    step = tmp_path / "step"
    step.write_text("0")
    stream = streams(STEP=str(step), PROGRAM="fraud_serving.stream.__main__")
    stream.program = (str(Path(__file__).with_name("stepped_clock.py")),)
    stream.start()
    client.transaction(payment("clock", 1))
    client.wait(1)
    for number, jump in enumerate(("7200", "-7200", "0"), 2):
        step.write_text(jump)
        client.transaction(payment("clock", number))
        assert client.wait(number)[-1].json["history"] == "store"
    until(lambda: stream.metric("stream_decision_seconds_count") == 4, "every decision counted")
    assert stream.metric("stream_decision_seconds_sum") >= 0
    assert stream.stop() == 0


@pytest.mark.slow
@pytest.mark.parametrize("step", killed_stream.STEPS)
def test_kill_9_of_the_consumer_loses_nothing_and_decides_nothing_differently(
    step: str, client: Client, streams: Callable[..., Stream]
) -> None:
    sent = transactions()
    third = SENT // 3
    more = {"STREAM_TRANSACTIONS": "1", "STREAM_TRANSACTIONAL_ID": "one"} if step == "uncommitted" else {}
    for start, at in ((0, 1), (third, 1 if step == "committed" else 3)):
        for transaction in sent[start : start + third]:
            client.transaction(transaction)
        client.flush()
        stream = streams(KILL_STEP=step, KILL_AT=str(at), STREAM_BATCH_MESSAGES="100", **more)
        stream.program = (str(Path(__file__).with_name("killed_stream.py")),)
        stream.start(wait_for="")
        assert stream.process is not None
        assert stream.process.wait(60) == -signal.SIGKILL
        stream.process = None
    for transaction in sent[2 * third :]:
        client.transaction(transaction)
    last = streams(**more).start(wait_for="")
    counts = check(sent, all_decided(client, sent))
    last.until_assigned()
    print(step, json.dumps(counts))
    if step not in ("polled", "appended", "kept", "committed"):  # one commit may cover all that was decided
        assert counts["repeated"] > 0
    assert last.stop() == 0
