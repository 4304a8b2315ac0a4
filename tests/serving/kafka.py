"""A Kafka broker, the stream process, and a client of both, for the tests of fraud_serving.stream."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from servers import Registry, log_records, until

from fraud.embedded.sockets import free_port

TOPICS = {"transactions": 4, "decisions": 4, "transactions.rejected": 1}
QUIET = {"log_level": 0, "log.connection.close": False}
LARGEST = 32 * 1024 * 1024
DEADLINE_S = 60.0


class Broker:
    """A broker process on a fixed port. `command` is the one of the wheel, with port 0."""

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self.port, self._folder = free_port(), folder
        self.bootstrap = f"127.0.0.1:{self.port}"
        self._command = [part.replace("127.0.0.1:0", self.bootstrap) for part in command]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, topics: dict[str, int] = TOPICS) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "kafka.log").open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log)
        until(self._answers, "the broker answering")
        self.create(topics)

    def _answers(self) -> bool:
        try:
            AdminClient({"bootstrap.servers": self.bootstrap, **QUIET}).list_topics(timeout=10)
        except KafkaException:
            return False
        return True

    def create(self, topics: dict[str, int]) -> None:
        admin = AdminClient({"bootstrap.servers": self.bootstrap, **QUIET})
        for future in admin.create_topics([NewTopic(name, count, 1) for name, count in topics.items()]).values():
            future.result(DEADLINE_S)

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


class MockBroker:
    """A broker whose records outlive `down` and `up` (mock_broker.py)."""

    def __init__(self, topics: dict[str, int] = TOPICS) -> None:
        program = str(Path(__file__).with_name("mock_broker.py"))
        self._process = subprocess.Popen(
            [sys.executable, program, *(f"{name}:{count}" for name, count in topics.items())],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert self._process.stdout is not None
        self.bootstrap = self._process.stdout.readline().decode().strip()

    def down(self) -> None:
        self._tell("down")

    def up(self) -> None:
        self._tell("up")

    def refuse(self, api: int, code: int) -> None:
        """Answer the next request of an API with an error of Kafka's protocol."""
        self._tell(f"refuse {api} {code}")

    def _tell(self, command: str) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(command.encode() + b"\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == b"done\n"

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()


class Published(NamedTuple):
    """A message of a topic, with its value parsed if it is JSON."""

    topic: str
    partition: int
    offset: int
    key: str | None
    value: bytes | None
    headers: dict[str, str]

    @property
    def json(self) -> dict[str, Any]:
        assert self.value is not None
        found: dict[str, Any] = json.loads(self.value)
        return found


class Client:
    """Produces to and reads the topics of a broker. A retry after a kill of the broker may send a message twice."""

    def __init__(self, bootstrap: str, topics: dict[str, int] = TOPICS, *, linger_ms: int = 1) -> None:
        self._topics = topics
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap, "max.in.flight": 1, "linger.ms": linger_ms,
                "partitioner": "murmur2_random", "message.max.bytes": LARGEST, **QUIET,
            }
        )  # fmt: skip
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap, "group.id": "reader", "enable.auto.commit": False,
                "auto.offset.reset": "earliest", "fetch.wait.max.ms": 20, **QUIET,
            }
        )  # fmt: skip
        self._consumer.assign(
            [
                TopicPartition(topic, partition, 0)
                for topic, count in topics.items()
                if topic != "transactions"
                for partition in range(count)
            ]
        )
        self.published: list[Published] = []

    def send(self, key: str | bytes | None, value: object, headers: Sequence[tuple[str, bytes]] = ()) -> None:
        """Queue a message for `transactions`; a value that is not bytes is sent as JSON."""
        body = value if isinstance(value, bytes) or value is None else json.dumps(value).encode()
        while True:
            try:
                self._producer.produce("transactions", body, key, headers=list(headers))
            except BufferError:
                self._producer.poll(0.1)
            else:
                return

    def serve(self) -> None:
        """Run what is due of the producer."""
        self._producer.poll(0)

    def flush(self, seconds: float = DEADLINE_S) -> None:
        assert self._producer.flush(seconds) == 0

    def transaction(self, transaction: dict[str, Any], headers: Sequence[tuple[str, bytes]] = ()) -> None:
        self.send(transaction["user_id"], transaction, headers)

    def read(self) -> None:
        """Add what is published by now."""
        while self.read_once(0.1):
            pass

    def read_once(self, seconds: float = 0.0) -> int:
        """Add what has been fetched, at most 1,000 messages; their number."""
        messages = self._consumer.consume(1_000, seconds)
        self.published += [_published(message) for message in messages if message.error() is None]
        return len(messages)

    def wait(self, count: int, topic: str = "decisions", seconds: float = DEADLINE_S) -> list[Published]:
        """Wait until a topic has `count` messages in all, and return them in the order of reading."""
        self.flush()

        def look() -> list[Published] | None:
            self.read()
            found = self.of(topic)
            return found if len(found) >= count else None

        return until(look, f"{count} messages of {topic}", seconds)

    def of(self, topic: str) -> list[Published]:
        return [message for message in self.published if message.topic == topic]

    def close(self) -> None:
        self._producer.purge()
        self._consumer.close()


def _published(message: Message) -> Published:
    key, headers = message.key(), message.headers() or []
    return Published(
        message.topic() or "", message.partition() or 0, message.offset() or 0, _text(key),
        message.value(), {name: value.decode() for name, value in headers},
    )  # fmt: skip


def _text(key: bytes | None) -> str | None:
    return None if key is None else key.decode(errors="surrogateescape")


def committed(bootstrap: str, partitions: int = 4, group: str = "fraud-scoring") -> list[int]:
    """The committed offset of each partition of `transactions`, 0 without one."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, **QUIET})
    try:
        return [
            max(of.offset, 0)
            for of in consumer.committed(
                [TopicPartition("transactions", i) for i in range(partitions)], timeout=DEADLINE_S
            )
        ]
    finally:
        consumer.close()


class Stream:
    """A `python -m fraud_serving.stream` process."""

    def __init__(
        self, folder: Path, bootstrap: str, redis_url: str, registry: Registry | None, **settings: str
    ) -> None:
        self.folder, self.port = folder, free_port()
        self.log_folder = folder / "log"
        self.program: tuple[str, ...] = ("-m", "fraud_serving.stream")
        self.python = sys.executable
        self.environment = {
            **{name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ},
            "STREAM_BROKERS": bootstrap, "STREAM_SESSION_SECONDS": "6", "STREAM_FETCH_WAIT_MS": "20",
            "SERVING_INTERNAL_PORT": str(self.port), "SERVING_REDIS_URL": redis_url,
            "SERVING_MLFLOW_URL": registry.url if registry else f"http://127.0.0.1:{free_port()}",
            "SERVING_MODEL_CACHE": str(folder / "cache"), "SERVING_PREDICTION_LOG": str(self.log_folder),
            "SERVING_POLL_SECONDS": "0.1", "SERVING_STORE_DEADLINE_MS": "900",
            "MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": registry.password if registry else "",
        } | settings  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30, trust_env=False)

    @property
    def output(self) -> str:
        return (self.folder / "stream.log").read_text()

    def start(self, wait_for: str = "assigned") -> "Stream":
        """Start and wait until partitions are assigned; "" waits for nothing."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "stream.log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.python, *self.program], env=self.environment, stderr=log, cwd=self.folder
            )
        if wait_for == "assigned":
            self.until_assigned()
        return self

    def until_assigned(self, partitions: int = 1) -> None:
        def look() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.output
            return self.metric("stream_assigned_partitions", 0) >= partitions

        until(look, f"{partitions} partitions assigned (see {self.folder / 'stream.log'})", DEADLINE_S)

    def metric(self, name: str, default: float | None = None) -> float:
        """The value of one sample; `default` while the process does not answer."""
        try:
            lines = self._client.get("/metrics").text.splitlines()
        except httpx.TransportError:
            assert default is not None
            return default
        for line in lines:
            if line.startswith(f"{name} "):
                return float(line.rpartition(" ")[2])
        assert default is not None, f"no sample {name}"
        return default

    def sample(self, name: str) -> float:
        """The value of the only sample of a family with labels; 0 without one."""
        lines = self._client.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name}{{"))

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(DEADLINE_S)
        self.process = None
        return code

    def close(self) -> None:
        if self.process is not None:
            self.stop(signal.SIGKILL)
        self._client.close()

    def records(self) -> list[dict[str, Any]]:
        """The records of the prediction log on disk."""
        return log_records(self.log_folder)
