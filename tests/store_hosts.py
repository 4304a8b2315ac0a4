"""A cluster of the online store whose six servers have hosts of their own, with serving and clients on others.

`over_tls` makes a second one on the same hosts, of Debian's redis-server: the Valkey of the wheel is built without TLS.
"""

import dataclasses
import json
import os
import secrets
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from redis.crc import key_slot
from tests import netns, valkey_cluster
from tests.netns import Host
from tests.served_attempts import Attempt, answered
from tests.serving.servers import Registry
from tests.serving_client import FIRST
from tests.serving_hosts import Load, Replica, serving_variables, start_registry, start_store
from tests.valkey_cluster import PASSWORD, Cluster, Node, Tls

from fraud.embedded.servers import valkey
from fraud.lake.dataset import Dataset

ROOT: Final = Path(__file__).resolve().parents[1]
STORES: Final = tuple(f"store{number}" for number in range(6))
_OTHERS: Final = ("serving", "single", "client", "registry", "tls", "refused", "stream")
_JOB: Final = "import sys; from fraud.cli import main; sys.argv[0] = 'fraud'; main()"


def slot_of(user: str) -> int:
    slot: int = key_slot(f"{{user_id:{user}}}".encode())
    return slot


@dataclass
class Bed:
    """All hosts by name, and what runs on them."""

    folder: Path
    hosts: dict[str, Host]
    cluster: Cluster
    registry: Registry
    replicas: list[Replica]
    """Serving on the cluster."""
    single: Replica
    single_url: str
    """The store of `single`, one server."""

    @property
    def serving(self) -> Replica:
        return self.replicas[0]

    def host_of(self, node: Node) -> Host:
        return next(host for host in self.hosts.values() if host.address == node.host)

    def load(self, prefix: str) -> Load:
        """Clients that pay until `finished`."""
        return Load(self.hosts["client"], self.folder / f"{prefix}.jsonl", prefix, self.serving.host.address)

    def records(self, prefix: str) -> list[dict[str, Any]]:
        return self.serving.records(prefix)

    def shard_of(self, user: str) -> Node:
        """The primary of a user."""
        return self.cluster.primary(slot_of(user))

    def tls_replica(self, name: str, ca: Path, *names: str) -> Replica:
        """Serving on a host, not started, with a copy of the CA's certificate on its disk. `names` as of `tls_url`."""
        host, disk = self.hosts[name], self.folder / name
        (disk / "data").mkdir(parents=True, exist_ok=True)
        shutil.copy(ca, disk / "data/ca.pem")
        url = tls_url(self.cluster, Path("/data/ca.pem"), *names)
        return Replica(host, disk, serving_variables(host, url, self.registry))

    def start_job(self, host: str, environment: Mapping[str, str], *arguments: str) -> "subprocess.Popen[str]":
        """Start `fraud ARGUMENTS --json` on a host."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "FRAUD_"))}
        variables = {**own, "PYTHONPATH": str(ROOT / "src"), "FRAUD_PROJECT": str(ROOT), **environment}
        command = (sys.executable, "-c", _JOB, *arguments, "--json")
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return self.hosts[host].start(*command, env=variables, cwd=ROOT, **pipes)

    def job(self, host: str, environment: Mapping[str, str], *arguments: str) -> tuple[int, dict[str, Any], str]:
        """Run `fraud ARGUMENTS --json` on a host: exit code, result, standard error."""
        job = self.start_job(host, environment, *arguments)
        printed, errors = job.communicate()
        return job.returncode, json.loads(printed) if job.returncode == 0 else {}, errors


@contextmanager
def running(folder: Path) -> Iterator[Bed]:
    """Six servers of Valkey, serving on them, and serving on one server, until the end of the block."""
    with ExitStack() as stack:
        hosts = {host.name: host for host in stack.enter_context(netns.hosts(*STORES, *_OTHERS))}
        stores = [hosts[name] for name in STORES]
        cluster = stack.enter_context(valkey_cluster.running(valkey.binary(), folder / "cluster", hosts=stores))
        single_url = start_store(hosts["single"], folder / "one", 6379, secrets.token_urlsafe(16))
        registry = start_registry(hosts["registry"], folder)
        stack.callback(registry.close)
        replicas = [
            Replica(hosts[name], folder / name, serving_variables(hosts[name], url, registry))
            for name, url in (("serving", cluster.url), ("single", single_url))
        ]
        for replica in replicas:
            replica.start()
        yield Bed(folder, hosts, cluster, registry, replicas[:1], replicas[1], single_url)


def certificates(folder: Path, hosts: list[Host]) -> Tls:
    """A CA, and a certificate for the names and addresses of the hosts."""
    folder.mkdir()
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    names = ",".join(f"DNS:{host.name},IP:{host.address}" for host in hosts)
    (folder / "names").write_text(f"subjectAltName={names}\nauthorityKeyIdentifier=keyid\n")
    for command in (
        ("req", "-x509", *key, "-subj", "/CN=CA of a test", "-keyout", "ca.key", "-out", "ca.pem",
         "-addext", "keyUsage=critical,keyCertSign"),
        ("req", *key, "-subj", "/CN=online store", "-keyout", "store.key", "-out", "store.csr"),
        ("x509", "-req", "-in", "store.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
         "-extfile", "names", "-out", "store.pem"),
    ):  # fmt: skip
        subprocess.run(["openssl", *command], cwd=folder, check=True, capture_output=True)
    return Tls(folder / "ca.pem", folder / "store.pem", folder / "store.key")


def tls_url(cluster: Cluster, ca: Path, *names: str) -> str:
    """The URL of a cluster with TLS, by the names of its hosts or by other names of them."""
    named = [f"{name}:{node.port}" for name, node in zip(names or STORES, cluster.nodes, strict=False)]
    return f"rediss+cluster://:{PASSWORD}@{','.join(named)}?ssl_ca_certs={ca}"


@contextmanager
def over_tls(bed: Bed) -> Iterator[Bed]:
    """The same hosts, with another cluster whose connections all use TLS, and serving on it."""
    stores = [bed.hosts[name] for name in STORES]
    tls = certificates(bed.folder / "certificates", stores)
    with valkey_cluster.running("redis-server", bed.folder / "tls-cluster", hosts=stores, tls=tls) as cluster:
        made = dataclasses.replace(bed, cluster=cluster, replicas=[])
        made.replicas.append(made.tls_replica("tls", tls.ca))
        made.serving.start()
        yield made


@contextmanager
def unreachable(host: Host, *others: Host) -> Iterator[None]:
    """What `host` sends to the others is lost during the block. Nothing tells it so, and connections stay open."""
    for other in others:
        absent = ("lladdr", "02:00:00:00:00:01", "nud", "permanent", "dev", "eth0")
        host.run("ip", "neighbour", "replace", other.address, *absent)
    try:
        yield
    finally:
        for other in others:
            host.run("ip", "neighbour", "delete", other.address, "dev", "eth0")


def degraded(attempts: list[Attempt]) -> list[Attempt]:
    return [attempt for attempt in answered(attempts) if attempt["answer"]["degraded"]]


def users_of(attempts: list[Attempt]) -> set[str]:
    return {attempt["sent"]["user_id"] for attempt in attempts}


def waits(attempts: list[Attempt]) -> str:
    """How long the degraded answers took, and those of the users that had none, in seconds."""

    def took(some: list[Attempt]) -> str:
        seconds = [attempt["ended"] - attempt["began"] for attempt in some]
        return f"{statistics.median(seconds):.3f} s (median), {max(seconds):.2f} s at most"

    without = degraded(attempts)
    others = [of for of in attempts if of["sent"]["user_id"] not in users_of(without)]
    return f"degraded answers after {took(without)}; other users {took(others)}"


def payment_of(user: str, number: int) -> dict[str, Any]:
    return {
        "transaction_id": f"{user}-{number}", "user_id": user, "merchant_id": f"m{number}", "amount": 10.0 + number,
        "merchant_category": "grocery", "distance_from_home": None,
        "event_timestamp": FIRST.replace(minute=number).isoformat(),
    }  # fmt: skip


def publish(lake: Path, payments: list[dict[str, Any]]) -> None:
    """Payments of tests/serving_client.py as the lake's transactions of one day."""
    at = pa.array([datetime.fromisoformat(of["event_timestamp"]) for of in payments], pa.timestamp("us", "UTC"))
    names = ("transaction_id", "user_id", "merchant_id", "merchant_category", "amount")
    columns = {name: [of[name] for of in payments] for name in names}
    distance = pa.array([of["distance_from_home"] for of in payments], pa.float64())
    table = pa.table({**columns, "event_timestamp": at, "created_timestamp": at, "distance_from_home": distance})
    keys = [(name, "ascending") for name in ("event_timestamp", "created_timestamp", "transaction_id")]
    Dataset(f"file://{lake}", "transactions").publish(FIRST.date().isoformat(), table.sort_by(keys))
