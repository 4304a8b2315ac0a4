"""A Kafka topic of one test, and the settings of jobs that read it."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import structlog
from confluent_kafka import Producer

from fraud.declaration_file import load_of
from fraud.job import Context
from fraud.params import Params
from fraud.settings import Settings

ROOT: Final = Path(__file__).resolve().parents[2]
WAIT_S: Final = 30


def context(home: Path, bootstrap: str, **more: object) -> Context:
    settings = Settings.model_validate({"home": home, "project": ROOT, "kafka_brokers": bootstrap, **more})
    return Context(settings, Params.load(ROOT / "params.yaml"), load_of(ROOT), structlog.get_logger())


def send(
    bootstrap: str, topic: str, values: Sequence[bytes | dict[str, Any] | None], partition: int = 0, *,
    key: bytes | None = None, timestamp: int = 0, headers: list[tuple[str, str | bytes | None]] | None = None,
) -> None:  # fmt: skip
    """Send messages to one partition, in order, and wait until they are stored. A dictionary is sent as JSON."""
    producer = Producer(
        {"bootstrap.servers": bootstrap, "enable.idempotence": True, "message.max.bytes": 32 * 2**20, "log_level": 0}
    )
    failed: list[object] = []

    def delivered(error: object, _message: object) -> None:
        if error is not None:
            failed.append(error)

    for value in values:
        data = json.dumps(value).encode() if isinstance(value, dict) else value
        producer.produce(topic, data, key, partition, on_delivery=delivered, timestamp=timestamp, headers=headers or [])
        producer.poll(0)
    assert producer.flush(WAIT_S) == 0
    assert failed == []


def transaction(number: int, **changes: object) -> dict[str, Any]:
    """The body of POST /predict."""
    return {
        "transaction_id": f"t{number}", "user_id": f"u{number % 7}", "merchant_id": "m", "merchant_category": "grocery",
        "event_timestamp": f"2026-01-01T{number // 60:02}:{number % 60:02}:00Z", "amount": number + 1.5, **changes,
    }  # fmt: skip


def write_day(folder: Path, count: int) -> Path:
    """Transactions of five users. One has an amount that violates the contract."""
    amounts = [n + 1.5 for n in range(count - 1)]
    (folder / "transactions").mkdir(parents=True)
    columns = {
        "transaction_id": [f"t{n}" for n in range(count)], "user_id": [f"u{n % 5}" for n in range(count)],
        "merchant_id": ["m"] * count, "amount": [*amounts, -1.0],
        "event_timestamp": pa.array([datetime(2026, 1, 1, 0, n, tzinfo=UTC) for n in range(count)]),
    }  # fmt: skip
    pq.write_table(pa.table(columns), folder / "transactions/day.parquet")
    return folder
