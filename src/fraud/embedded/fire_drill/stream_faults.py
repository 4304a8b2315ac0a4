"""Faults of the topic `transactions` and its consumer, in a stack with streaming."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from confluent_kafka import Producer

from fraud.embedded.fire_drill import undo
from fraud.embedded.fire_drill.faults import Site, payment_of, process_of, repeating, throttle
from fraud.embedded.servers import kafka

_TOPIC: Final = "transactions"
_BEHIND: Final = 100_000
"""Messages. StreamLagHigh allows 10,000; a throttled consumer decides about a thousand a second."""
_FLUSH_S: Final = 10.0
_PAUSE_S: Final = 0.05


def _producer(site: Site) -> Producer:
    """A producer of messages of the topic. Raises NotPossibleError in a stack without streaming."""
    process_of(site, "stream")
    return Producer({"bootstrap.servers": kafka.address(site.stack.ports["kafka"]), "log_level": 0})


@contextmanager
def stream_behind(site: Site) -> Iterator[None]:
    """More messages than the alert allows, for a consumer that runs for a hundredth of the time.

    All are the same payment of the drill's user, so that only its history changes, once.
    """
    producer, consumer = _producer(site), process_of(site, "stream")
    body = json.dumps(payment_of(site, f"drill-{time.time()}")).encode()
    with site.undo.after(undo.stopped([consumer])), repeating(lambda: throttle(consumer)):
        for _ in range(_BEHIND):
            producer.produce(_TOPIC, body, b"drill")
            producer.poll(0)
        producer.flush(_FLUSH_S)
        yield


@contextmanager
def bad_messages(site: Site) -> Iterator[None]:
    """Messages of the topic that are not JSON."""
    producer = _producer(site)

    def send() -> None:
        producer.produce(_TOPIC, b"drill", b"drill")
        producer.flush(_FLUSH_S)
        time.sleep(_PAUSE_S)

    with repeating(send):
        yield
