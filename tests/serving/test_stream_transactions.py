"""STREAM_TRANSACTIONS=1: decisions and offsets of a batch in one transaction of Kafka.

The broker of the wheel hides open transactions from readers of committed records and moves offsets with their commit.
It shows them aborted ones. The mock cluster refuses requests on demand. It keeps no offsets of transactions.
"""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import Broker, Client, MockBroker, Stream, committed
from servers import Registry, Valkey, until
from stream_checks import SENT, all_decided, check, tally, transactions

ON = {"STREAM_TRANSACTIONS": "1", "STREAM_TRANSACTIONAL_ID": "one", "STREAM_BATCH_MESSAGES": "100"}
TXN_OFFSET_COMMIT, END_TXN = 28, 26
ILLEGAL_GENERATION, PRODUCER_FENCED = 22, 90


@pytest.fixture
def version(registry: Registry, versions: list[str]) -> str:
    registry.promote(versions[0])
    return versions[0]


@pytest.fixture
def mock() -> Iterator[MockBroker]:
    broker = MockBroker()
    yield broker
    broker.stop()


def test_after_a_kill_between_produce_and_commit_readers_see_what_the_offsets_cover(
    backends: dict[str, Any], registry: Registry, version: str, store: Valkey, tmp_path: Path
) -> None:
    broker = Broker(backends["kafka"], tmp_path / "kafka")
    broker.start()
    client = Client(broker.bootstrap)  # reads committed records, as librdkafka does by default
    killed = Stream(tmp_path / "a", broker.bootstrap, store.url, registry, KILL_STEP="uncommitted", KILL_AT="3", **ON)
    killed.program = (str(Path(__file__).with_name("killed_stream.py")),)
    next_one = Stream(tmp_path / "b", broker.bootstrap, store.url, registry, **ON)
    sent = transactions()
    try:
        client.send(None, b"no key")
        for transaction in sent:
            client.transaction(transaction)
        client.flush()
        killed.start(wait_for="")
        assert killed.process is not None
        assert killed.process.wait(60) == -signal.SIGKILL
        killed.process = None
        covered = sum(committed(broker.bootstrap))
        assert 0 < covered < SENT

        def read() -> bool:
            client.read()
            return len(client.published) >= covered

        until(read, "what the offsets cover")
        assert len(client.published) == covered

        next_one.start(wait_for="")
        counts = check(sent, all_decided(client, sent))
        assert counts["repeated"] > 0
        assert client.wait(1, "transactions.rejected")[0].value == b"no key"
        assert next_one.stop() == 0
        assert sum(committed(broker.bootstrap)) == SENT + 1
        assert next_one.records()
    finally:
        client.close()
        for stream in (killed, next_one):
            stream.close()
        broker.stop()


def test_an_aborted_transaction_is_repeated(
    mock: MockBroker, registry: Registry, version: str, store: Valkey, tmp_path: Path
) -> None:
    client = Client(mock.bootstrap)
    stream = Stream(tmp_path / "a", mock.bootstrap, store.url, registry, **ON)
    sent = transactions(400)
    try:
        for transaction in sent:
            client.transaction(transaction)
        client.flush()
        mock.refuse(TXN_OFFSET_COMMIT, ILLEGAL_GENERATION)
        stream.start(wait_for="")
        counts = tally(sent, all_decided(client, sent))
        assert (counts["lost"], counts["different"]) == (0, 0)
        until(lambda: stream.metric("stream_unacknowledged_messages") == 0, "every transaction committed")
        assert stream.metric('stream_commits_total{outcome="failed"}') == 1
        assert stream.metric('stream_messages_total{outcome="decided"}') == 400
        assert stream.stop() == 0
    finally:
        client.close()
        stream.close()


def test_a_process_whose_transactional_id_another_one_uses_ends(
    mock: MockBroker, registry: Registry, version: str, store: Valkey, tmp_path: Path
) -> None:
    client = Client(mock.bootstrap)
    stream = Stream(tmp_path / "a", mock.bootstrap, store.url, registry, STREAM_DRAIN_SECONDS="1", **ON)
    try:
        mock.refuse(END_TXN, PRODUCER_FENCED)
        client.transaction(transactions(1)[0])
        client.flush()
        stream.start(wait_for="")
        assert stream.process is not None
        assert stream.process.wait(60) == 1
        stream.process = None
        assert "_FENCED" in stream.output
    finally:
        client.close()
        stream.close()
