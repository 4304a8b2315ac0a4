"""The interface of a source of events. A Redis stream and a Kafka topic implement it."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Delivery(NamedTuple):
    """One event of a source. `token` identifies it in the source."""

    token: str
    payload: bytes


class EventSource(Protocol):
    """Delivers events at least once: events that were read and not settled are delivered again after a restart."""

    def read(self, count: int, wait_seconds: float) -> list[Delivery]:
        """Up to `count` events; none when no event arrived within `wait_seconds`."""

    def settle(self, deliveries: Sequence[Delivery]) -> None:
        """Mark the events as processed. They are not delivered again."""

    def reject(self, delivery: Delivery, reason: str) -> None:
        """Store an invalid event with the reason, and settle it."""
