"""infra/kafka/prepare.py: topics, users and rights. The test broker has no access control and cannot change topics."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import ConfigResource, ResourceType
from tests.integration.broker import ROOT, WAIT_S

from fraud.embedded.servers import kafka

_spec = importlib.util.spec_from_file_location("kafka_prepare", ROOT / "infra/kafka/prepare.py")
assert _spec is not None
assert _spec.loader is not None
prepare: Any = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = prepare
_spec.loader.exec_module(prepare)


def test_missing_topics_are_created_with_their_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with kafka.running(tmp_path) as server:
        client = kafka.admin(server.bootstrap)
        prepare.create_topics(client, prepare.topics(6), 1)
        found = {name: len(topic.partitions) for name, topic in client.list_topics(timeout=WAIT_S).topics.items()}
        resource = ConfigResource(ConfigResource.Type.TOPIC, "transactions.rejected")
        (settings,) = client.describe_configs([resource]).values()
        values = {name: entry.value for name, entry in settings.result(WAIT_S).items()}
        prepare.create_users(client, {"jobs": "a-password-of-this-test"})

    assert found == {
        "transactions": 6, "decisions": 6, "transactions.rejected": 1, "labels": 1, "labels.rejected": 1,
    }  # fmt: skip
    assert values["message.timestamp.type"] == "LogAppendTime"
    assert values["retention.ms"] == "2592000000"
    assert values["max.message.bytes"] == "17825792"
    assert "5 created" in capsys.readouterr().out


@pytest.mark.parametrize(("replicas", "expected"), [(1, "1"), (2, "1"), (3, "2")])
def test_a_message_is_acknowledged_by_all_replicas_but_one(replicas: int, expected: str) -> None:
    for topic in prepare.topics(6):
        assert prepare.settings(topic, replicas)["min.insync.replicas"] == expected


def test_each_user_has_only_its_rights() -> None:
    rights = {
        user: sorted(
            (entry.restype.name, entry.name, entry.operation.name)
            for entry in prepare.bindings()
            if entry.principal == f"User:{user}"
        )
        for user in prepare.USERS
    }
    assert set(rights) == {"stream", "jobs", "checkout"}
    assert rights["stream"] == [
        ("GROUP", "fraud-scoring", "READ"), ("TOPIC", "decisions", "WRITE"), ("TOPIC", "transactions", "READ"),
        ("TOPIC", "transactions.rejected", "WRITE"), ("TRANSACTIONAL_ID", "fraud-scoring", "WRITE"),
    ]  # fmt: skip
    assert rights["checkout"] == [
        ("GROUP", "checkout", "READ"), ("TOPIC", "decisions", "READ"), ("TOPIC", "labels", "WRITE"),
        ("TOPIC", "transactions", "WRITE"),
    ]  # fmt: skip
    assert ("TOPIC", "decisions", "WRITE") not in rights["jobs"]
    patterns = {(e.restype, e.resource_pattern_type.name) for e in prepare.bindings()}
    assert patterns == {
        (ResourceType.TOPIC, "LITERAL"), (ResourceType.GROUP, "PREFIXED"), (ResourceType.TRANSACTIONAL_ID, "PREFIXED"),
    }  # fmt: skip
