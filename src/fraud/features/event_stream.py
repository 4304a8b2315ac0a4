"""Where events come from that do not pass through POST /predict: Redis Streams now; Kafka fits the same shape."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, Protocol, cast

import redis

from fraud.features.online_store import store_errors

FIELD: Final = b"event"
"""The field of a stream entry that holds the event as JSON."""
_STREAM: Final = "the event stream"


class Delivery(NamedTuple):
    """One event as it came. `token` is how its source knows it."""

    token: str
    payload: bytes


class EventSource(Protocol):
    """At least once: what was read and not settled comes again, first of all to the reader that died with it."""

    def read(self, count: int, wait_seconds: float) -> list[Delivery]:
        """Up to `count` events; none when nothing came for `wait_seconds`."""

    def settle(self, deliveries: Sequence[Delivery]) -> None:
        """These are taken care of and must not come again."""

    def reject(self, delivery: Delivery, reason: str) -> None:
        """Set an unusable event aside with the reason, and settle it."""


class RedisStream:
    """A consumer group on a stream; rejected events go to the stream `<name>:rejected`."""

    def __init__(self, client: redis.Redis, stream: str, group: str, consumer: str) -> None:
        self._client, self._stream, self._group, self._consumer = client, stream, group, consumer
        self._after = "0"  # first what this consumer was given before and never settled
        with store_errors(_STREAM):
            try:
                client.xgroup_create(stream, group, id="0", mkstream=True)
            except redis.ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise

    def read(self, count: int, wait_seconds: float) -> list[Delivery]:
        with store_errors(_STREAM):
            while True:
                reply = self._client.xreadgroup(
                    self._group, self._consumer, {self._stream: self._after}, count=count,
                    block=max(1, round(wait_seconds * 1_000)),
                )  # fmt: skip
                entries: list[Any] = cast("list[Any]", reply)[0][1] if reply else []
                if entries or self._after == ">":
                    break
                self._after = ">"
        deliveries = [Delivery(token.decode(), (fields or {}).get(FIELD, b"")) for token, fields in entries]
        if deliveries and self._after != ">":
            self._after = deliveries[-1].token
        return deliveries

    def settle(self, deliveries: Sequence[Delivery]) -> None:
        if deliveries:
            with store_errors(_STREAM):
                self._client.xack(self._stream, self._group, *(delivery.token for delivery in deliveries))

    def reject(self, delivery: Delivery, reason: str) -> None:
        with store_errors(_STREAM):
            pipeline = self._client.pipeline(transaction=True)
            pipeline.xadd(f"{self._stream}:rejected", {FIELD: delivery.payload, b"reason": reason.encode()})
            pipeline.xack(self._stream, self._group, delivery.token)
            pipeline.execute()


@contextmanager
def connect(url: str, stream: str, group: str, consumer: str) -> Iterator[RedisStream]:
    """The group's next events, from a `redis://` URL."""
    with redis.Redis.from_url(url, socket_connect_timeout=5) as client:
        yield RedisStream(client, stream, group, consumer)
