"""Settings of the stream process: `STREAM_*` variables for Kafka, and those `SERVING_*` ones that concern scoring."""

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from fraud_serving.settings import BadSettingError, ScoringSettings, explained

PREFIX: Final = "STREAM_"
REJECTED_BYTES: Final = 16 * 1024 * 1024
"""Largest message that is copied to the topic of rejected messages as a whole."""
_STATISTICS_MS: Final = 2_000
_METADATA_MS: Final = 10_000
"""How often topics and partitions are looked up: an added partition is consumed after at most this time."""


class StreamSettings(BaseModel):
    """Every setting of the Kafka side. The variable of `brokers` is STREAM_BROKERS."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    brokers: str = Field(description="addresses of brokers, host:port,host:port")
    group: str = Field(default="fraud-scoring", min_length=1, description="consumer group")
    transactions_topic: str = Field(default="transactions", min_length=1, description="topic that is consumed")
    decisions_topic: str = Field(default="decisions", min_length=1, description="topic of the answers")
    rejected_topic: str = Field(
        default="transactions.rejected", min_length=1, description="topic of messages that cannot be scored"
    )
    batch_messages: int = Field(default=1_000, ge=1, le=10_000, description="most messages of one batch")
    max_unacknowledged: int = Field(
        default=10_000, ge=1, le=1_000_000,
        description="messages whose decisions are not acknowledged; above it the consumer pauses",
    )  # fmt: skip
    model_wait_seconds: float = Field(
        default=60.0, ge=0, le=86_400,
        description="longest wait for a model before the first message; after it the level 0 rule decides",
    )  # fmt: skip
    drain_seconds: float = Field(
        default=20.0, ge=0.1, le=240,
        description="longest wait for acknowledgements when the process ends or partitions are revoked",
    )  # fmt: skip
    session_seconds: float = Field(
        default=45.0, ge=1, le=300, description="without a heartbeat for this long the group removes the consumer"
    )
    fetch_wait_ms: int = Field(
        default=100, ge=1, le=10_000, description="longest wait of the broker for a fetch without messages"
    )
    transactions: bool = Field(
        default=False, description="1: decisions and offsets of a batch are published in one transaction of Kafka"
    )
    transactional_id: str = Field(
        default="", description="id of this process for transactions; default: group and name of the host"
    )
    tls: bool = Field(default=False, description="1: TLS to the brokers")
    tls_ca: Path | None = Field(default=None, description="file of CA certificates; default: the system's")
    sasl_mechanism: Literal["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        default="", description="how the process logs in; empty: it does not"
    )
    sasl_username: str = Field(default="", description="user")
    sasl_password: SecretStr = Field(default=SecretStr(""), description="password")

    @field_validator("brokers")
    @classmethod
    def _addresses(cls, value: str) -> str:
        for address in value.split(","):
            host, _, port = address.strip().rpartition(":")
            if not host or "/" in host or not port.isdigit() or not 0 < int(port) < 65_536:
                raise ValueError("expected host:port[,host:port...]")
        return value

    @model_validator(mode="after")
    def _no_contradiction(self) -> Self:
        if self.tls_ca is not None and not self.tls:
            raise ValueError("STREAM_TLS_CA has no effect without STREAM_TLS")
        login = (self.sasl_mechanism, self.sasl_username, self.sasl_password.get_secret_value())
        if any(login) and not all(login):
            raise ValueError("STREAM_SASL_MECHANISM, STREAM_SASL_USERNAME and STREAM_SASL_PASSWORD: set all or none")
        if self.transactional_id and not self.transactions:
            raise ValueError("STREAM_TRANSACTIONAL_ID has no effect without STREAM_TRANSACTIONS")
        topics = {self.transactions_topic, self.decisions_topic, self.rejected_topic}
        if len(topics) < 3:
            raise ValueError("STREAM_TRANSACTIONS_TOPIC, STREAM_DECISIONS_TOPIC, STREAM_REJECTED_TOPIC: not distinct")
        return self

    @classmethod
    def load(cls, environment: Mapping[str, str]) -> Self:
        """Read the environment. Raises BadSettingError naming the variable."""
        values = {
            name.removeprefix(PREFIX).lower(): value
            for name, value in environment.items()
            if name.startswith(PREFIX) and value != ""
        }
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise BadSettingError(explained(error, PREFIX)) from None

    def _client(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "bootstrap.servers": self.brokers, "client.id": "fraud-stream", "log.connection.close": False,
            "topic.metadata.refresh.interval.ms": _METADATA_MS, "reconnect.backoff.max.ms": 2_000,
            "allow.auto.create.topics": False,
            "security.protocol": ("SASL_" if self.sasl_mechanism else "") + ("SSL" if self.tls else "PLAINTEXT"),
        }  # fmt: skip
        if self.tls_ca is not None:
            found["ssl.ca.location"] = str(self.tls_ca)
        if self.sasl_mechanism:
            found |= {
                "sasl.mechanism": self.sasl_mechanism, "sasl.username": self.sasl_username,
                "sasl.password": self.sasl_password.get_secret_value(),
            }  # fmt: skip
        return found

    def consumer(self) -> dict[str, Any]:
        """The configuration of librdkafka's consumer."""
        return self._client() | {
            "group.id": self.group, "enable.auto.commit": False, "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest", "statistics.interval.ms": _STATISTICS_MS,
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": round(1e3 * self.session_seconds),
            "heartbeat.interval.ms": round(1e3 * min(3.0, self.session_seconds / 4)),
            "fetch.wait.max.ms": self.fetch_wait_ms, "queued.max.messages.kbytes": 32_768,
            "isolation.level": "read_committed",
        }  # fmt: skip

    def producer(self) -> dict[str, Any]:
        """The configuration of librdkafka's producer. It retries without end: consumption pauses meanwhile."""
        transactional_id = self.transactional_id or f"{self.group}-{socket.gethostname()}"
        own = {"transactional.id": transactional_id} if self.transactions else {"delivery.timeout.ms": 0}
        return self._client() | own | {
            "enable.idempotence": True, "acks": "all", "linger.ms": 1,
            "partitioner": "murmur2_random",  # as Java's producers
            "message.max.bytes": REJECTED_BYTES, "queue.buffering.max.messages": 2_000_000,
        }  # fmt: skip


class StreamScoringSettings(ScoringSettings):
    """The `SERVING_*` settings of the stream process."""

    internal_port: int = Field(default=9100, ge=1, le=65_535, description="port of /health, /ready and /metrics")
    store_deadline_ms: float = Field(
        default=250.0, ge=1, le=1e3, description="longest wait of a batch for the online store"
    )
