"""A consumer group on a Redis stream as a source of events."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, cast

import redis

from fraud.streams.redis_client import open_client
from fraud.streams.redis_errors import store_errors
from fraud.streams.source import Delivery

FIELD: Final = b"event"
"""The field of a stream entry with the event as JSON."""
_STREAM: Final = "the event stream"
_REPLY_S: Final = 10.0


class RedisStream:
    """A consumer group on a stream; rejected events go to the stream `{<name>}:rejected`, which is in the same slot."""

    def __init__(self, client: redis.Redis, stream: str, group: str, consumer: str) -> None:
        self._client, self._stream, self._group, self._consumer = client, stream, group, consumer
        self._after = "0"  # begin with the events that were delivered to this consumer and not settled
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
            pipeline.xadd(f"{{{self._stream}}}:rejected", {FIELD: delivery.payload, b"reason": reason.encode()})
            pipeline.xack(self._stream, self._group, delivery.token)
            pipeline.execute()


@contextmanager
def connect(url: str, stream: str, group: str, consumer: str, longest_wait_s: float) -> Iterator[RedisStream]:
    """Connect to the consumer group on the server or cluster of a URL. `longest_wait_s` bounds the waits of `read`.

    A server whose host is cut off sends no reply and closes nothing, so the wait for a reply has an end.
    """
    with store_errors(_STREAM):
        client = open_client(url, reply_s=longest_wait_s + _REPLY_S)
    with client:
        yield RedisStream(client, stream, group, consumer)
