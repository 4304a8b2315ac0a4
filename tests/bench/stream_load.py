"""Loads a topic with payments and reads the decisions, for the stream bench. The payments are those of serving.lua."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from confluent_kafka import Consumer, Producer, TopicPartition

PARTITIONS: Final = 4
WAIT_S: Final = 0.002
"""Of the reader of a paced load: so much later a decision may be seen. The client needs a tenth of its core."""
QUIET: Final = {"log_level": 0, "log.connection.close": False}
CATEGORIES: Final = ("grocery", "travel", "electronics", "shopping_net", "home")


def payments(name: str, first_s: float, count: int, *, wide: bool = False) -> Iterator[tuple[str, bytes]]:
    """(user_id, body): 5,000 users, about 60 payments a user and month, ids never repeated within a run."""
    for n in range(1, count + 1):
        at = first_s + n * 8.64
        moment = datetime.fromtimestamp(int(at), UTC).strftime("%Y-%m-%dT%H:%M:%S")
        user = f"u{n * 7919 % 5000:05d}"
        more = (
            f',"device_id":"d{n * 7919 % 4000:05d}","country":"country-{n * 31 % 60:02d}",'
            f'"card_present":{str(n % 3 == 0).lower()}'
        ) if wide else ""  # fmt: skip
        yield (
            user,
            (
                f'{{"transaction_id":"{name}-{n}","user_id":"{user}","merchant_id":"m{n * 104729 % 2000:04d}",'
                f'"event_timestamp":"{moment}.{n % 1000000:06d}Z","amount":{5 + n * 37 % 400:.2f},'
                f'"merchant_category":"{CATEGORIES[n % 5]}","distance_from_home":{n % 50:.1f}{more}}}'
            ).encode(),
        )


@dataclass(frozen=True)
class Latencies:
    """Milliseconds from the timestamp of a message to the read of its decision."""

    p50_ms: float
    p99_ms: float
    rate: float


class Load:
    """A producer of `topic` and a reader of `decisions`; `linger.ms` is the default of librdkafka and Kafka 4, 5 ms."""

    def __init__(self, brokers: str, topic: str, decisions: str) -> None:
        self._topic = topic
        self._producer = Producer(
            {
                "bootstrap.servers": brokers, "enable.idempotence": True,
                "partitioner": "murmur2_random", "queue.buffering.max.messages": 2_000_000, **QUIET,
            }
        )  # fmt: skip
        self._reader = Consumer(
            {"bootstrap.servers": brokers, "group.id": "reader", "enable.auto.commit": False, "fetch.wait.max.ms": 2,
             **QUIET}
        )  # fmt: skip
        self._reader.assign([TopicPartition(decisions, partition, 0) for partition in range(PARTITIONS)])

    def send(self, messages: list[tuple[str, bytes]]) -> None:
        """Produce the messages, and wait until the broker has them."""
        for key, value in messages:
            self._producer.produce(self._topic, value, key)
        self._producer.flush()

    def read(self, count: int, seconds: float = 120.0) -> int:
        """Wait for at least `count` decisions; the number that was read."""
        deadline_s, total = time.monotonic() + seconds, 0
        while total < count:
            found = self._reader.consume(5_000, 0.01)
            total += sum(message.error() is None for message in found)
            if time.monotonic() > deadline_s:
                raise SystemExit(f"{count - total} decisions are missing after {seconds} s")
        return total

    def paced(self, messages: list[tuple[str, bytes]], rate: float) -> Latencies:
        """Send at a constant rate, whatever the answers do, and read the decisions meanwhile."""
        sent_s: dict[bytes, float] = {}
        latencies: list[float] = []
        began_s = time.perf_counter()
        at, total = 0, len(messages)
        while len(latencies) < total:
            now_s = time.perf_counter()
            due = min(total, int((now_s - began_s) * rate))
            for key, value in messages[at:due]:
                # From the moment at which it is due: a late producer must not hide a delay.
                sent_s[value[19 : value.index(b'"', 19)]] = began_s + at / rate
                self._producer.produce(self._topic, value, key)
                at += 1
            self._producer.poll(0)
            for message in self._reader.consume(1_000, WAIT_S):
                body = message.value()
                if message.error() is None and body is not None:
                    start = body.index(b'"transaction_id":') + 18
                    if body[start] == 0x22:  # json.dumps puts a space after the colon
                        start += 1
                    key_of = body[start : body.index(b'"', start)]
                    if key_of in sent_s:
                        latencies.append(time.perf_counter() - sent_s.pop(key_of))
            if now_s - began_s > total / rate + 60:
                raise SystemExit(f"{total - len(latencies)} decisions are missing")
        latencies.sort()
        return Latencies(
            1e3 * latencies[len(latencies) // 2], 1e3 * latencies[int(0.99 * len(latencies))],
            total / (time.perf_counter() - began_s),
        )  # fmt: skip


def figures(seconds: float, cpu_s: float, count: int) -> dict[str, Any]:
    return {"transactions_per_s": count / seconds, "cpu_us_per_transaction": 1e6 * cpu_s / count}
