"""Errors of the client of Kafka: counted, logged once per kind of state, and a fatal one ends the process."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from confluent_kafka import KafkaError

from fraud_serving.stream.metrics import StreamMetrics

_log = logging.getLogger(__name__)
_LOG_AGAIN_S: Final = 30.0
_TRANSPORT: Final = (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._RESOLVE, KafkaError._TIMED_OUT)  # noqa: SLF001
_TOPIC: Final = (KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION, KafkaError.UNKNOWN_TOPIC_OR_PART)  # noqa: SLF001
_LOGIN: Final = (
    KafkaError._AUTHENTICATION, KafkaError._SSL, KafkaError.TOPIC_AUTHORIZATION_FAILED,  # noqa: SLF001
    KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
)  # fmt: skip


class ClientErrors:
    """Counts errors of the consumer and the producer. `on_fatal` is called for one that only a restart repairs."""

    def __init__(self, metrics: StreamMetrics, on_fatal: Callable[[], None]) -> None:
        self._metrics, self._on_fatal = metrics, on_fatal
        self._logged_s: dict[str, float] = {}
        self._lock = threading.Lock()
        self.logger = logging.getLogger("fraud_serving.kafka")
        """For librdkafka's own lines: those of a broker that is away repeat with every attempt to connect."""
        self.logger.setLevel(logging.CRITICAL)

    @contextmanager
    def fatal(self, part: str) -> Iterator[None]:
        """End the process if a part of it raises: what it has in hand would never be committed."""
        try:
            yield
        except Exception:
            _log.critical("%s failed, the process ends", part, exc_info=True)
            self._on_fatal()
            raise

    def seen(self, error: KafkaError) -> None:
        """Count an error, and log it unless one of its code was logged in the last half minute."""
        code = error.code()
        kind = (
            "transport" if code in _TRANSPORT else "topic" if code in _TOPIC
            else "authentication" if code in _LOGIN else "other"
        )  # fmt: skip
        with self._lock:
            self._metrics.errors[kind] += 1
            now_s = time.monotonic()
            first = now_s - self._logged_s.get(error.name(), -_LOG_AGAIN_S) >= _LOG_AGAIN_S
            if first:
                self._logged_s[error.name()] = now_s
        if error.fatal():
            _log.critical("fatal error of the client of Kafka, the process ends: %s", error)
            self._on_fatal()
        elif first:
            _log.warning("Kafka: %s (%s)", error.str(), error.name())
