"""The broker of the embedded stack, as a process: topics, records, groups, and its end by process id."""

import os
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from tests import s3

from fraud.embedded.servers import child, kafka
from fraud.embedded.servers.kafka import Server, Storage
from fraud.embedded.sockets import free_port
from fraud.errors import UnavailableError

WAIT_S = 30


def produce(server: Server, topic: str, values: list[bytes], partition: int = 0) -> None:
    producer = Producer({"bootstrap.servers": server.bootstrap, "enable.idempotence": True})
    failed: list[object] = []
    for value in values:
        producer.produce(
            topic, value, partition=partition, on_delivery=lambda error, _: failed.append(error) if error else None
        )
    assert producer.flush(WAIT_S) == 0
    assert failed == []


def consumer(server: Server, **more: object) -> Consumer:
    own = {"bootstrap.servers": server.bootstrap, "group.id": "test", "enable.auto.commit": False}
    return Consumer({**own, "enable.partition.eof": True, **more})


def read(reader: Consumer, topic: str, partition: int, start: int = 0) -> list[tuple[int, bytes]]:
    """(offset, value) from `start` up to the end of the partition."""
    reader.assign([TopicPartition(topic, partition, start)])
    found: list[tuple[int, bytes]] = []
    while True:
        message = reader.poll(WAIT_S)
        assert message is not None
        error = message.error()
        if error is not None:
            assert error.code() == KafkaError._PARTITION_EOF
            return found
        value = message.value()
        assert value is not None
        found.append((message.offset() or 0, value))


def test_a_broker_has_the_topics_and_returns_what_was_produced(tmp_path: Path) -> None:
    with kafka.running(tmp_path, {"transactions": 4, "labels": 1}) as server:
        listed = kafka.admin(server.bootstrap).list_topics(timeout=WAIT_S).topics
        produce(server, "transactions", [b"a", b"b", b"c"], partition=3)
        reader = consumer(server)
        found = read(reader, "transactions", 3)
        reader.close()

    assert {name: len(topic.partitions) for name, topic in listed.items()} == {"transactions": 4, "labels": 1}
    assert found == [(0, b"a"), (1, b"b"), (2, b"c")]


def test_topics_that_exist_are_kept(tmp_path: Path) -> None:
    with kafka.running(tmp_path, {"transactions": 2}) as server:
        produce(server, "transactions", [b"a"])
        kafka.create_topics(server.bootstrap, {"transactions": 2, "decisions": 3})
        reader = consumer(server)
        found = read(reader, "transactions", 0)
        reader.close()

    assert found == [(0, b"a")]


def test_the_end_of_the_block_ends_the_process_and_frees_the_port(tmp_path: Path) -> None:
    with kafka.running(tmp_path) as server:
        os.kill(server.pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, 0)

    again = kafka.start(tmp_path, port=server.port)
    child.stop(again.pid)


def test_records_and_committed_offsets_survive_kill_9_over_s3(tmp_path: Path) -> None:
    with s3.running(tmp_path / "s3") as objects:
        storage = Storage.s3(s3.BUCKET, objects.environment)
        first = kafka.start(tmp_path, {"transactions": 1}, storage=storage)
        try:
            produce(first, "transactions", [b"a", b"b"])
            reader = consumer(first)
            reader.commit(offsets=[TopicPartition("transactions", 0, 1)], asynchronous=False)
            reader.close()
        finally:
            child.kill(first.pid)

        again = kafka.start(tmp_path, port=first.port, storage=storage)
        try:
            produce(again, "transactions", [b"c"])
            reader = consumer(again)
            found = read(reader, "transactions", 0)
            committed = reader.committed([TopicPartition("transactions", 0)], timeout=WAIT_S)[0].offset
            reader.close()
        finally:
            child.stop(again.pid)

    assert found == [(0, b"a"), (1, b"b"), (2, b"c")]
    assert committed == 1


def test_a_broker_that_cannot_start_is_an_error_with_its_log(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"kafka\.log"):
        kafka.start(tmp_path, storage=Storage("unsupported://"))


def test_a_broker_that_does_not_answer_is_an_error() -> None:
    with pytest.raises(UnavailableError, match="does not answer"):
        kafka.wait_until_ready(kafka.address(free_port()), seconds=0.1)
