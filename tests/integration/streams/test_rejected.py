"""Rejected messages are listed once each, and replayed once each with key, value and headers."""

from pathlib import Path

import pytest
from tests.integration.broker import context, send, transaction

from fraud.errors import BadConfigError, BadInputError
from fraud.streams import rejected
from fraud.streams.rejected import Listing, Replayed
from fraud.streams.topic_reader import Record, reading


def rejection(
    offset: int, reason: str = "invalid", *, partition: int = 0, more: dict[str, str] | None = None
) -> list[tuple[str, str | bytes | None]]:
    """Headers that the scoring consumer adds, behind one of the original message."""
    own = {"reason": reason, "detail": "expected less", "field": "amount", "partition": str(partition)}
    own |= {"offset": str(offset), "bytes": "9", **(more or {})}
    return [("traceparent", b"00-ab"), *((f"rejected-{name}", text.encode()) for name, text in own.items())]


def listed(home: Path, bootstrap: str, topic: str, **more: object) -> Listing:
    given = rejected.List.model_validate({"topic": topic, **more})
    result = rejected.run(rejected.Config(list=given, replay=None), context(home, bootstrap))
    assert isinstance(result, Listing)
    return result


def replayed(home: Path, bootstrap: str, topic: str, **more: object) -> tuple[int, int, int]:
    given = rejected.Replay.model_validate({"topic": topic, **more})
    result = rejected.run(rejected.Config(list=None, replay=given), context(home, bootstrap))
    assert isinstance(result, Replayed)
    return result.replayed, result.replayed_before, result.truncated


def messages(home: Path, bootstrap: str, topic: str) -> list[Record]:
    with reading(context(home, bootstrap).settings, topic) as reader:
        return [r for part in (0, 1) for chunk in reader.chunks(part, 0, None, 100) for r in chunk.records]


@pytest.fixture
def three(kafka_broker: str, topic: str) -> str:
    """Three rejected messages, one of them rejected twice, and a message that is none."""
    name = f"{topic}.rejected"
    send(kafka_broker, name, [transaction(1)], key=b"u1", headers=rejection(7), timestamp=1_767_500_000_000)
    send(kafka_broker, name, [b"\xff{"], headers=rejection(8, "not_json", partition=1), timestamp=1_767_500_001_000)
    send(kafka_broker, name, [transaction(1)], key=b"u1", headers=rejection(7), timestamp=1_767_500_002_000)
    long = rejection(9, "too_large", more={"truncated": "true", "bytes": "70000"})
    send(kafka_broker, name, [b"x" * 100], headers=long, timestamp=1_767_500_003_000)
    send(kafka_broker, name, [b"no headers"])
    return topic


def test_each_message_is_listed_once_with_its_reason(tmp_path: Path, kafka_broker: str, three: str) -> None:
    found = listed(tmp_path, kafka_broker, three)
    assert (found.messages, found.replayed) == (3, 0)
    assert found.reasons == {"invalid": 1, "not_json": 1, "too_large": 1}
    assert [(r.where, r.reason, r.bytes) for r in found.rows] == [
        ("0@9", "too_large", 70_000), ("0@7", "invalid", 9), ("1@8", "not_json", 9),
    ]  # fmt: skip
    assert (found.rows[1].key, found.rows[1].field, found.rows[1].detail) == ("u1", "amount", "expected less")
    assert found.rows[0].rejected_at == "2026-01-04T04:13:23.000+00:00"
    assert found.rows[2].value == "\\xff{"

    assert [row.where for row in listed(tmp_path, kafka_broker, three, limit=1).rows] == ["0@9"]
    assert [row.where for row in listed(tmp_path, kafka_broker, three, reason="not_json").rows] == ["1@8"]
    (whole,) = listed(tmp_path, kafka_broker, three, where="0@7").rows
    assert '"transaction_id": "t1"' in whole.value
    assert "1@8" in found.as_text()


def test_a_message_is_replayed_once_as_it_was(tmp_path: Path, kafka_broker: str, three: str) -> None:
    assert replayed(tmp_path, kafka_broker, three, reason="invalid") == (1, 0, 0)
    (sent,) = messages(tmp_path, kafka_broker, three)
    assert (sent.key, sent.headers) == (b"u1", (("traceparent", b"00-ab"),))
    assert sent.value is not None
    assert b'"transaction_id": "t1"' in sent.value

    assert replayed(tmp_path, kafka_broker, three, all=True) == (1, 1, 1)
    assert sorted(m.value or b"" for m in messages(tmp_path, kafka_broker, three)) == sorted([sent.value, b"\xff{"])
    assert replayed(tmp_path, kafka_broker, three, all=True) == (0, 2, 1)

    found = listed(tmp_path, kafka_broker, three)
    assert (found.messages, found.replayed, found.reasons) == (3, 2, {"too_large": 1})
    assert [row.where for row in found.rows] == ["0@9"]
    assert len(listed(tmp_path, kafka_broker, three, replayed=True).rows) == 3


def test_one_message_can_be_selected(tmp_path: Path, kafka_broker: str, three: str) -> None:
    assert replayed(tmp_path, kafka_broker, three, where="1@8") == (1, 0, 0)
    assert [message.value for message in messages(tmp_path, kafka_broker, three)] == [b"\xff{"]


def test_nothing_is_replayed_without_a_selection(tmp_path: Path, kafka_broker: str, topic: str) -> None:
    with pytest.raises(BadConfigError, match="nothing is selected"):
        replayed(tmp_path, kafka_broker, topic)
    with pytest.raises(BadInputError, match="no Kafka topic nowhere"):
        listed(tmp_path, kafka_broker, "nowhere")
