"""Serving on hosts of tests/netns.py: replicas with disks of their own, a store, a registry, two proxies and a client.

The proxies run infra/proxy/haproxy.cfg; infra/proxy/keepalived.conf decides which of them has the virtual address.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import httpx
from tests import netns, own_disk
from tests.netns import Host
from tests.serving import backends
from tests.serving.servers import Registry
from tests.valkey_cluster import until

from fraud.embedded.servers import mlflow_server, valkey

ROOT: Final = Path(__file__).resolve().parents[1]
CLIENT: Final = ROOT / "tests/serving_client.py"
PROXY: Final = ROOT / "infra/proxy"
PORT: Final = 8000
STATE_PORT: Final = 8404
NAME: Final = "checkout"
"""The name of both proxies' own addresses in the table of the client's host: a name with two addresses in DNS."""
_ENVIRONMENT: Final = ROOT / ".venv/serving"
_STORE_PORTS: Final = {"shared": 6379, "single": 6380}
_JOB: Final = "import sys; from fraud.cli import main; sys.argv[0] = 'fraud'; main()"


@dataclass
class Replica:
    """A serving process on a host, with its model copies and its prediction log on the disk of the host."""

    host: Host
    disk: Path
    environment: dict[str, str]
    module: str = "fraud_serving"
    process: "subprocess.Popen[Any] | None" = None

    @property
    def url(self) -> str:
        return f"http://{self.host.address}:{PORT}"

    @property
    def log_folder(self) -> Path:
        return self.disk / "data/predictions"

    def start(self) -> None:
        """Start and wait until it has a model."""
        given = {
            ROOT / "src": "/opt/fraud", ROOT / "services/serving/src": "/opt/serving",
            _ENVIRONMENT.resolve(): str(_ENVIRONMENT.resolve()),
        }  # fmt: skip
        program = (_ENVIRONMENT.resolve() / "bin/python", "-m", self.module)
        self.disk.mkdir(exist_ok=True)
        with self.disk.with_suffix(".log").open("ab") as log:
            command = own_disk.command(self.disk, *program, given=given, directory="/data")
            self.process = self.host.start(*command, env=self.environment, stdout=log, stderr=log)
        until(lambda: status(f"{self.url}/ready") == httpx.codes.OK, f"readiness of {self.host.name}")

    def kill(self) -> None:
        """Kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """SIGTERM: answers and records what it has accepted."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait(timeout=60)

    def predict(self, **transaction: object) -> dict[str, Any]:
        """Its answer, without a proxy. The short request of the handbook, with more or other fields."""
        short = {"amount": 5.0, "merchant_category": "grocery", "hour_of_day": 3, "day_of_week": 2}
        body = transaction if "amount" in transaction else short | transaction
        done = httpx.post(f"{self.url}/predict", json=body, timeout=30, trust_env=False)
        assert done.status_code == httpx.codes.OK, done.text
        answer: dict[str, Any] = done.json()
        return answer

    def metric(self, name: str) -> float:
        """The value of one sample, as `serving_degraded_total{reason="store"}`."""
        lines = httpx.get(f"{self.url}/metrics", timeout=30, trust_env=False).text.splitlines()
        return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} "))

    def records(self, prefix: str) -> list[dict[str, Any]]:
        """The complete records of its prediction log whose transaction id has the prefix, in order."""
        lines = (line for path in sorted(self.log_folder.glob("*.jsonl")) for line in path.read_text().splitlines(True))
        records = [json.loads(line) for line in lines if line.endswith("\n")]
        return [record for record in records if str(record["transaction_id"]).startswith(prefix)]


@dataclass
class Proxy:
    """A host with HAProxy and, if `start_keepalived` was called, keepalived."""

    host: Host
    folder: Path
    environment: dict[str, str]
    config_id: str

    def start(self, replicas: int) -> None:
        """Start HAProxy as its image does, and wait until it counts all replicas."""
        with (self.folder / f"{self.host.name}-haproxy.log").open("ab") as log:
            command = ("haproxy", "-W", "-db", "-f", PROXY / "haproxy.cfg")
            self.host.start(*command, env=self.environment, stdout=log, stderr=log)
        until(
            lambda: self.state() == f"{replicas} connected, {replicas} ready, {replicas} live\n",
            f"replicas of {self.host.name}",
        )

    def state(self) -> str:
        """What the proxy counts; "" while it does not answer."""
        with suppress(httpx.HTTPError):
            return httpx.get(f"http://{self.host.address}:{STATE_PORT}/health", timeout=5, trust_env=False).text
        return ""

    def start_keepalived(self, parameters: dict[str, str]) -> None:
        conf = self.folder / self.host.name
        conf.mkdir(exist_ok=True)
        (conf / "keepalived.conf").write_bytes((PROXY / "keepalived.conf").read_bytes())
        (conf / "host.conf").write_text("".join(f"${name}={value}\n" for name, value in parameters.items()))
        with (conf / "keepalived.log").open("ab") as log:
            self.host.start(
                "keepalived", "--dont-fork", "--log-console", "--log-detail", f"--use-file={conf}/keepalived.conf",
                f"--config-id={self.config_id}", f"--pid={conf}/parent.pid", f"--vrrp_pid={conf}/vrrp.pid", "--vrrp",
                stdout=log, stderr=log,
            )  # fmt: skip

    def has(self, address: str) -> bool:
        """Whether an interface of the host has the address."""
        return f" {address}/" in self.host.run("ip", "-4", "address", "show")

    def kill_haproxy(self) -> None:
        """Kill -9 of master and worker, and wait for their end."""
        for pid in self.host.pids("haproxy"):
            process = os.pidfd_open(pid)
            try:
                signal.pidfd_send_signal(process, signal.SIGKILL)
            finally:
                os.close(process)
        until(lambda: not self.host.pids("haproxy"), "the end of HAProxy")


@dataclass
class Platform:
    """All hosts. Users of a test have a prefix of their own."""

    folder: Path
    replicas: list[Replica]
    single: Replica
    """A replica with a store of its own, which no proxy knows."""
    proxies: list[Proxy]
    store: Host
    client: Host
    storage: Host
    virtual_address: str

    def active(self) -> Proxy:
        """The proxy that has the virtual address, once it is exactly one of those whose HAProxy runs."""

        def one() -> Proxy | None:
            holders = [proxy for proxy in self.proxies if proxy.has(self.virtual_address)]
            return holders[0] if len(holders) == 1 and holders[0].host.pids("haproxy") else None

        return until(one, "one proxy with the virtual address")

    def load(self, prefix: str, address: str = "") -> "Load":
        """Clients that pay until `finished`, by default through the virtual address."""
        return Load(self.client, self.folder / f"{prefix}.jsonl", prefix, address or self.virtual_address)

    def records(self, prefix: str) -> list[dict[str, Any]]:
        """The records of all replicas behind the proxy."""
        return [record for replica in self.replicas for record in replica.records(prefix)]

    def job(
        self, replica: Replica, lake_uri: str, environment: dict[str, str], *arguments: str
    ) -> "subprocess.Popen[Any]":
        """Start `fraud ARGUMENTS` on the host of a replica, with its prediction log and a home of its own."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "FRAUD_"))}
        variables = {
            **own, **environment, "PYTHONPATH": str(ROOT / "src"), "FRAUD_HOME": str(replica.disk / "home"),
            "FRAUD_PROJECT": str(ROOT), "FRAUD_REDIS_URL": "none", "FRAUD_LAKE_URI": lake_uri,
            "FRAUD_PREDICTION_LOG": str(replica.log_folder),
        }  # fmt: skip
        with replica.disk.with_suffix(".job.log").open("ab") as log:
            command = (sys.executable, "-c", _JOB, *arguments, "--json")
            return replica.host.start(*command, env=variables, cwd=ROOT, stdout=subprocess.PIPE, stderr=log)


class Load:
    """A process with several clients (tests/serving_client.py) on a host."""

    def __init__(self, host: Host, output: Path, prefix: str, address: str) -> None:
        output.touch()
        self._output = output
        self._answered = self._end = 0
        """Answers before an offset of the output."""
        command = (sys.executable, CLIENT, f"http://{address}:{PORT}", prefix, output)
        self._process = host.start(*command, stdin=subprocess.PIPE)

    def more(self, count: int) -> None:
        """Wait until `count` further attempts were answered."""
        expected = self._answers() + count
        until(lambda: self._answers() >= expected, f"{count} more answers")

    def _answers(self) -> int:
        with self._output.open("rb") as file:
            file.seek(self._end)
            whole = file.read().rpartition(b"\n")[0]
        lines = whole.split(b"\n") if whole else []
        self._answered += sum(b'"answer": null' not in line for line in lines)
        self._end += len(whole) + bool(whole)
        return self._answered

    def finished(self) -> list[dict[str, Any]]:
        """End after the payments in progress. Returns what every attempt got, in the order of its end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(timeout=120) == 0
        return [json.loads(line) for line in self._output.read_text().splitlines()]


def status(url: str) -> int:
    """The status of a GET; 0 without an answer."""
    with suppress(httpx.HTTPError):
        return httpx.get(url, timeout=5, trust_env=False).status_code
    return 0


@contextmanager
def running(folder: Path) -> Iterator[Platform]:
    """The platform without keepalived and with running proxies, until the end of the block."""
    names = ("store", "storage", "client", "single", "proxy1", "proxy2", "replica1", "replica2", "replica3")
    with netns.hosts(*names) as (store, storage, client, single, *others):
        password = secrets.token_urlsafe(16)
        urls = {name: start_store(store, folder / name, port, password) for name, port in _STORE_PORTS.items()}
        registry = start_registry(store, folder)
        replicas = [
            Replica(host, folder / host.name, serving_variables(host, urls[name], registry))
            for host, name in ((single, "single"), *((host, "shared") for host in others[2:]))
        ]
        for replica in replicas:
            replica.start()
        first, *behind = replicas
        addresses = {
            f"REPLICA_{letter}": f"{replica.host.address}:{PORT}" for letter, replica in zip("ABC", behind, strict=True)
        }
        limits = {"REQUESTS_PER_SECOND": "1000000", "PATH": os.environ["PATH"]}
        proxies = [
            Proxy(host, folder, addresses | limits, name)
            for host, name in zip(others, ("first", "second"), strict=False)
        ]
        for proxy in proxies:
            proxy.start(len(behind))
        _two_addresses(client, proxies)
        virtual = f"{store.address.rpartition('.')[0]}.100"
        try:
            yield Platform(folder, behind, first, proxies, store, client, storage, virtual)
        finally:
            registry.close()


def start_keepalived(platform: Platform) -> None:
    """Start it on both hosts, and wait until one has the virtual address."""
    first, second = platform.proxies
    parameters = {
        "INTERFACE": "eth0", "FIRST": first.host.address, "SECOND": second.host.address,
        "VIRTUAL_ADDRESS": f"{platform.virtual_address}/24",
    }  # fmt: skip
    for proxy in platform.proxies:
        proxy.start_keepalived(parameters)
    platform.active()


def serving_variables(host: Host, store_url: str, registry: Registry) -> dict[str, str]:
    """The environment of a replica on a host."""
    return {
        "PATH": os.environ["PATH"], "PYTHONPATH": "/opt/fraud:/opt/serving", "SERVING_HOST": host.address,
        "SERVING_PORT": str(PORT), "SERVING_REDIS_URL": store_url,
        "SERVING_MLFLOW_URL": registry.url, "MLFLOW_TRACKING_USERNAME": mlflow_server.ADMIN,
        "MLFLOW_TRACKING_PASSWORD": registry.password, "SERVING_OPEN": "1", "SERVING_POLL_SECONDS": "1",
        "SERVING_MODEL_CACHE": "/data/models", "SERVING_PREDICTION_LOG": "/data/predictions",
        # Below the proxy's timeout. The default of 20 ms would make answers degraded on a machine that does other work.
        "SERVING_STORE_DEADLINE_MS": "500",
    }  # fmt: skip


def start_store(host: Host, folder: Path, port: int, password: str) -> str:
    """Start Valkey on a host. Returns its URL."""
    folder.mkdir()
    options = {"port": port, "bind": host.address, "requirepass": password, "save": "", "dir": folder}
    words = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    with (folder / "valkey.log").open("wb") as log:
        host.start(valkey.binary(), *words, stdout=log, stderr=log)
    until(lambda: port in host.ports(), "the store")
    return f"redis://:{password}@{host.address}:{port}/0"


def start_registry(host: Host, folder: Path) -> Registry:
    """Start MLflow on a host, with one version of tests/declarations/three.yaml in production."""
    home, password, port = folder / "mlflow", secrets.token_urlsafe(16), 5000
    variables = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    variables |= mlflow_server.environment(home, password, secrets.token_urlsafe(24))
    command = [part.replace("127.0.0.1", host.address) for part in mlflow_server.command(home, port, host.address)]
    with (folder / "mlflow.log").open("wb") as log:
        host.start(*command, env=variables, stdout=log, stderr=log, cwd=home)
    url = f"http://{host.address}:{port}"
    until(lambda: status(f"{url}/health") == httpx.codes.OK, "the registry", seconds=180)
    backends.build(folder / "versions/0", backends.THREE, -1.0)
    registry = Registry(url, password, folder / "versions")
    registry.promote(registry.register(*registry.files(0)))
    return registry


def _two_addresses(client: Host, proxies: list[Proxy]) -> None:
    table = netns.table(client)
    table.write_text(table.read_text() + "".join(f"{proxy.host.address}\t{NAME}\n" for proxy in proxies))


def seconds_without_answers(attempts: list[dict[str, Any]], since: float) -> float:
    """The longest time between two answers that ended after `since` (s since the epoch), 0 without two."""
    ends = [since, *sorted(attempt["ended"] for attempt in attempts if attempt["answer"] and attempt["ended"] > since)]
    return max((after - before for before, after in pairwise(ends)), default=0.0)
