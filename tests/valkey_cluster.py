"""A cluster of Valkey servers for tests and benches: shards with replicas, on loopback or on hosts of tests/netns.py.

Servers are stopped by process id. A killed server keeps its port and its folder, so that it can be started again.
"""

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any, Final, TypeVar

import redis

from fraud.embedded.sockets import free_port

SLOTS: Final = 16_384
PASSWORD: Final = "secret"
_T = TypeVar("_T")


def until(look: Callable[[], _T | None], what: str, seconds: float = 60.0) -> _T:
    """Poll until `look` returns a true value, and return it."""
    deadline = time.monotonic() + seconds
    while True:
        with suppress(redis.RedisError):
            if found := look():
                return found
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen within {seconds} s")
        time.sleep(0.02)


@contextmanager
def meanwhile(work: Callable[[], None]) -> Iterator[None]:
    """Repeat `work` in a thread during the block."""
    done = Event()

    def repeat() -> None:
        while not done.is_set():
            work()

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(repeat)
        try:
            yield
        finally:
            done.set()
        running.result()


@dataclass(frozen=True)
class Tls:
    """PEM files: the CA's certificate, and certificate and key of all nodes, for their names and addresses."""

    ca: Path
    certificate: Path
    key: Path


@dataclass(eq=False)
class Node:
    """One server. `enter` is the beginning of a command that runs on its host, `name` the name of the host.

    With `tls`, clients, replicas and the cluster's own connections use it, and nodes are announced by name.
    """

    binary: str
    folder: Path
    host: str
    port: int
    bus_port: int
    enter: tuple[str, ...] = ()
    append_only: bool = True
    name: str = ""
    tls: Tls | None = None
    process: "subprocess.Popen[bytes] | None" = None
    client: "redis.Redis" = field(init=False)

    def __post_init__(self) -> None:
        self.client = redis.Redis(
            host=self.host, port=self.port, password=PASSWORD, socket_timeout=30, socket_connect_timeout=5,
            ssl=self.tls is not None, **({"ssl_ca_certs": str(self.tls.ca)} if self.tls else {}),
        )  # fmt: skip

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        options = {
            "bind": self.host, "port": self.port, "dir": self.folder, "requirepass": PASSWORD, "masterauth": PASSWORD,
            "save": "", "appendonly": "yes" if self.append_only else "no",
            "cluster-enabled": "yes", "cluster-port": self.bus_port,
            "cluster-node-timeout": 1000, "cluster-require-full-coverage": "no", "repl-diskless-sync-delay": 0,
            "cluster-replica-validity-factor": 0, "shutdown-on-sigterm": "now force",
        }  # fmt: skip
        if self.tls is not None:
            options |= {
                "port": 0, "tls-port": self.port, "tls-cluster": "yes", "tls-replication": "yes",
                "tls-auth-clients": "no", "tls-ca-cert-file": self.tls.ca, "tls-cert-file": self.tls.certificate,
                "tls-key-file": self.tls.key, "cluster-announce-hostname": self.name,
                "cluster-preferred-endpoint-type": "hostname",
            }  # fmt: skip
        command = [self.binary, *(str(part) for name, value in options.items() for part in (f"--{name}", value))]
        with (self.folder / "valkey.log").open("ab") as log:
            self.process = subprocess.Popen([*self.enter, *command], stdout=log, stderr=log)
        until(self.client.ping, f"Valkey answering on port {self.port}")

    def kill(self) -> None:
        """Kill -9, as when the host fails."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def ask(self, *words: str | int) -> Any:  # noqa: ANN401 - a reply
        """The reply to a CLUSTER command."""
        return self.client.execute_command(f"CLUSTER {words[0]}", *words[1:])

    def id(self) -> str:
        found: bytes = self.ask("MYID")
        return found.decode()

    def role(self) -> str:
        """`master` or `slave`."""
        return str(self.client.info("replication")["role"])

    def follows_in_step(self) -> bool:
        """Whether it is a replica that has received everything that its primary sent."""
        info = self.client.info("replication")
        return info["role"] == "slave" and info["master_link_status"] == "up" and not info["master_sync_in_progress"]


@dataclass
class Cluster:
    """`nodes`: the first `shards` of them begin as primaries, the others as their replicas."""

    nodes: list[Node]
    shards: int

    @property
    def url(self) -> str:
        return f"redis+cluster://:{PASSWORD}@" + ",".join(f"{node.host}:{node.port}" for node in self.nodes)

    def form(self) -> None:
        """Make a cluster of the started servers: equal ranges of slots, one replica per further node."""
        primaries, replicas = self.nodes[: self.shards], self.nodes[self.shards :]
        for number, node in enumerate(primaries):
            first, after = (SLOTS * at // self.shards for at in (number, number + 1))
            node.ask("SET-CONFIG-EPOCH", number + 1)
            node.ask("ADDSLOTSRANGE", first, after - 1)
        for node in self.nodes[1:]:
            self.nodes[0].ask("MEET", node.host, node.port, node.bus_port)
        self.agree()
        for number, node in enumerate(replicas):
            node.ask("REPLICATE", primaries[number % self.shards].id())
        until(lambda: all(node.follows_in_step() for node in replicas), "the replicas in step")
        self.agree()

    def agree(self) -> None:
        """Wait until all running nodes state the same complete table of slots, with all nodes."""
        running = [node for node in self.nodes if node.process is not None]

        def equal() -> bool:
            tables = [self.table(node) for node in running]
            complete = sum(last + 1 - first for first, last, *_ in tables[0]) == SLOTS
            known = all(len(node.ask("NODES")) >= len(running) for node in running)
            ok = all(node.ask("INFO")["cluster_state"] == "ok" for node in running)
            return complete and known and ok and all(table == tables[0] for table in tables)

        until(equal, "agreement of the nodes")

    @staticmethod
    def table(node: Node) -> list[tuple[int, int, int]]:
        """(first slot, last slot, port of the primary), in order."""
        return sorted((first, last, primary[1]) for first, last, primary, *_ in node.ask("SLOTS"))

    def primary(self, slot: int) -> Node:
        """The node that serves a slot."""
        running = next(node for node in self.nodes if node.process is not None)
        port = next(port for first, last, port in self.table(running) if first <= slot <= last)
        return next(node for node in self.nodes if node.port == port)

    def partner(self, node: Node) -> Node:
        """The other server of the shard, of a cluster with one replica per shard."""
        return self.nodes[(self.nodes.index(node) + self.shards) % len(self.nodes)]

    def primaries(self) -> list[Node]:
        return [node for node in self.nodes if node.process is not None and node.role() == "master"]

    def move_slot(self, slot: int, target: Node, between: Callable[[], None] = lambda: None) -> int:
        """Move a slot key by key, as `valkey-cli --cluster reshard` does. Clients get ASK, then MOVED.

        `between` is called after each step of ten keys. Returns the number of keys.
        """
        source, moved = self.primary(slot), 0
        target.ask("SETSLOT", slot, "IMPORTING", source.id())
        source.ask("SETSLOT", slot, "MIGRATING", target.id())
        between()
        while keys := source.ask("GETKEYSINSLOT", slot, 10):
            source.client.migrate(target.host, target.port, keys, 0, 5_000, auth=PASSWORD)
            moved += len(keys)
            between()
        for node in (target, source, *self.nodes):
            if node.process is not None and node.role() == "master":
                node.ask("SETSLOT", slot, "NODE", target.id())
        return moved

    def move_range(self, first: int, last: int, target: Node) -> None:
        """Move a range of slots of one node in one atomic step (Valkey 9). Clients get MOVED at its end."""
        source = self.primary(first)
        source.ask("MIGRATESLOTS", "SLOTSRANGE", first, last, "NODE", target.id())
        until(lambda: self.table(target) and self.primary(first) is target and self.primary(last) is target, "the move")

    def close(self) -> None:
        for node in self.nodes:
            node.client.close()
            node.kill()


@contextmanager
def running(
    binary: str | Path,
    folder: Path,
    *,
    shards: int = 3,
    replicas: int = 1,
    hosts: Sequence[Any] = (),
    append_only: bool = True,
    tls: Tls | None = None,
) -> Iterator[Cluster]:
    """A cluster for the duration of a block. `hosts` (tests/netns.py) get the nodes in turn; without, loopback.

    Without `append_only` a killed server that starts again is empty. TLS needs hosts.
    """
    count = shards * (1 + replicas)
    ports = [free_port() for _ in range(2 * count)]
    nodes = []
    for number in range(count):
        host = hosts[number % len(hosts)] if hosts else None
        nodes.append(
            Node(
                str(binary), folder / f"node{number}", host.address if host else "127.0.0.1", ports[2 * number],
                ports[2 * number + 1], tuple(host.command()) if host else (), append_only,
                host.name if host else "", tls,
            )
        )  # fmt: skip
    cluster = Cluster(nodes, shards)
    try:
        for node in nodes:
            node.start()
        cluster.form()
        yield cluster
    finally:
        cluster.close()
