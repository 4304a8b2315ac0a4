"""The topic `<topic>.rejected`: messages that violate the contract, with the reason and their place in headers.

Key, value and headers of a rejected message are the original's. Headers that begin with `rejected-` are added. A
message may be rejected twice, when its reader was killed in between; its place (partition and offset) identifies it. A
message with the header `rejected-replayed-ms` and no value records that the message at a place was sent to its topic
again.
"""

import time
from collections.abc import Sequence
from typing import Final, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from fraud.errors import UnavailableError
from fraud.settings import Settings
from fraud.streams import kafka
from fraud.streams.kafka import ClientErrors
from fraud.streams.topic_reader import Record

_PREFIX: Final = "rejected-"
_REPLAYED: Final = "rejected-replayed-ms"
Headers = Sequence[tuple[str, bytes | None]]


def name_of(topic: str) -> str:
    return f"{topic}.rejected"


class Place(NamedTuple):
    """Where a message was read."""

    topic: str
    partition: int
    offset: int


class Reason(NamedTuple):
    """Why a message was rejected."""

    code: str
    """`no_value`, `not_json`, `invalid`; of the scoring consumer also the others of docs/streaming.md."""
    detail: str
    """What was expected, and what the message has."""
    field: str = ""
    """The field, if it is a single one."""


class Rejected(NamedTuple):
    """A message of the topic. `replayed` is set in the record of a replay, which has no value."""

    place: Place
    reason: Reason
    key: bytes | None
    value: bytes | None
    headers: Headers
    """The original ones."""
    size: int
    """Bytes of the original value."""
    truncated: bool
    """The value has only the first bytes of the original."""
    timestamp_us: int | None
    """When it was rejected."""
    replayed: bool


def parse(record: Record, topic: str) -> Rejected | None:
    """A message of the rejected topic of `topic`; None for one without the headers."""
    own = {name: (value or b"").decode(errors="replace") for name, value in record.headers if name.startswith(_PREFIX)}
    try:
        place = Place(
            own.get("rejected-topic", topic), int(own["rejected-partition"]), int(own["rejected-offset"])
        )  # fmt: skip
    except (KeyError, ValueError):
        return None
    reason = Reason(own.get("rejected-reason", ""), own.get("rejected-detail", ""), own.get("rejected-field", ""))
    original = [(name, value) for name, value in record.headers if not name.startswith(_PREFIX)]
    size = own.get("rejected-bytes", "")
    return Rejected(
        place, reason, record.key, record.value, original, int(size) if size.isdigit() else len(record.value or b""),
        own.get("rejected-truncated") == "true", record.timestamp_us, _REPLAYED in own,
    )  # fmt: skip


class Sender:
    """Sends messages that are acknowledged by the brokers when `flush` returns."""

    def __init__(self, settings: Settings) -> None:
        self._errors = ClientErrors()
        self._failed: list[tuple[str, KafkaError]] = []
        self._producer = Producer(
            {
                **kafka.client_config(settings, self._errors),
                "enable.idempotence": True, "partitioner": "murmur2_random", "message.max.bytes": 32 * 2**20,
                "delivery.timeout.ms": int(kafka.REQUEST_SECONDS * 1_000),
            }
        )  # fmt: skip

    def send(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers) -> None:
        """Raises UnavailableError when the queue stays full."""
        deadline = time.monotonic() + kafka.REQUEST_SECONDS
        while True:
            try:
                self._producer.produce(topic, value, key, headers=list(headers), on_delivery=self._delivered)
            except BufferError as error:
                if time.monotonic() > deadline:
                    raise kafka.as_fraud_error(topic, None, self._errors) from error
                self._producer.poll(0.5)
            except KafkaException as error:
                raise kafka.raised(topic, error, self._errors) from error
            else:
                return

    def poll(self) -> None:
        """Take acknowledgements without waiting. Raises the error of a message that was not stored."""
        self._producer.poll(0)
        self._check()

    def _check(self) -> None:
        if self._failed:
            topic, error = self._failed[0]
            raise kafka.as_fraud_error(topic, error, self._errors)

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._failed.append((message.topic() or "", error))

    def reject(self, place: Place, record: Record, reason: Reason) -> None:
        """Send a message to the rejected topic of its topic."""
        own = {
            "reason": reason.code, "detail": reason.detail, "field": reason.field, "topic": place.topic,
            "partition": str(place.partition), "offset": str(place.offset),
            "timestamp-ms": str(-1 if record.timestamp_us is None else record.timestamp_us // 1_000),
            "bytes": str(len(record.value or b"")),
        }  # fmt: skip
        added = [(f"{_PREFIX}{name}", text.encode(errors="replace")) for name, text in own.items()]
        self.send(name_of(place.topic), record.key, record.value, [*record.headers, *added])

    def replay(self, message: Rejected) -> None:
        """Send the original message to its topic again."""
        self.send(message.place.topic, message.key, message.value, message.headers)

    def record_replay(self, message: Rejected) -> None:
        """Record in the rejected topic that the message was replayed."""
        place = message.place
        own = {"topic": place.topic, "partition": str(place.partition), "offset": str(place.offset)}
        headers = [(f"{_PREFIX}{name}", text.encode()) for name, text in own.items()]
        now = str(time.time_ns() // 1_000_000).encode()
        self.send(name_of(place.topic), message.key, None, [*headers, (_REPLAYED, now)])

    def flush(self) -> None:
        """Wait until every message is acknowledged. Raises UnavailableError, BadInputError or BadConfigError."""
        left = self._producer.flush(kafka.REQUEST_SECONDS)
        self._check()
        if left:
            raise UnavailableError("Kafka did not acknowledge all messages", got=f"{left} left")
