"""A day of transactions through the topic, decided by the real consumer."""

import os
import subprocess
from pathlib import Path

import pytest
from tests.integration.broker import ROOT, context, write_day

from fraud.embedded.servers import kafka
from fraud.embedded.sockets import free_port
from fraud.errors import BadInputError
from fraud.simulator import topic_traffic


def test_every_transaction_is_decided_or_rejected(tmp_path: Path, valkey_url: str) -> None:
    topics = {"transactions": 2, "decisions": 2, "transactions.rejected": 1}
    with kafka.running(tmp_path / "kafka", topics) as server:
        env = {
            "PATH": os.defpath, "STREAM_BROKERS": server.bootstrap, "STREAM_MODEL_WAIT_SECONDS": "0",
            "SERVING_INTERNAL_PORT": str(free_port()), "SERVING_REDIS_URL": valkey_url,
            "SERVING_MLFLOW_URL": "http://127.0.0.1:1", "SERVING_MODEL_CACHE": str(tmp_path / "model"),
            "SERVING_PREDICTION_LOG": str(tmp_path / "log"), "STREAM_SESSION_SECONDS": "6",
        }  # fmt: skip
        command = [str(ROOT / ".venv/serving/bin/python"), "-m", "fraud_serving.stream"]
        with (tmp_path / "stream.log").open("wb") as log:
            consumer = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        try:
            config = topic_traffic.Config(source=write_day(tmp_path / "day", 40), rate=0)
            first = topic_traffic.run(config, context(tmp_path, server.bootstrap))
            second = topic_traffic.run(config, context(tmp_path, server.bootstrap))
        finally:
            consumer.terminate()
            consumer.wait()

    assert (first.sent, first.decided, first.rejected, first.undecided) == (40, 39, 1, 0)
    assert first.model_versions == {"rule": 39}
    assert 0 < first.p50_ms <= first.p99_ms <= first.max_ms
    assert (second.decided, second.rejected, second.undecided) == (39, 1, 0)


def test_without_a_consumer_the_run_ends(tmp_path: Path, kafka_broker: str, topic: str) -> None:
    kafka.create_topics(kafka_broker, {f"{topic}-d": 1})
    config = topic_traffic.Config(
        source=write_day(tmp_path, 3), rate=0, topic=topic, decisions=f"{topic}-d", wait_seconds=0.2
    )  # fmt: skip
    result = topic_traffic.run(config, context(tmp_path, kafka_broker))
    assert (result.sent, result.decided, result.undecided) == (3, 0, 3)


def test_an_empty_source_is_an_error(tmp_path: Path, kafka_broker: str) -> None:
    with pytest.raises(BadInputError, match="has no Parquet file"):
        topic_traffic.run(topic_traffic.Config(source=tmp_path), context(tmp_path, kafka_broker))
