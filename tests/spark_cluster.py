"""A standalone Spark cluster on hosts of tests/netns.py, each with a disk of its own, for tests and benches.

A host of the cluster has the system's programs (Java), Python 3.11 and Spark. It has no checkout, no environment of the
project and no lake. The driver runs on a host too, with the files of this machine.
"""

import os
import secrets
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyspark
from tests import netns, own_disk, s3
from tests.netns import Host

ROOT: Final = Path(__file__).resolve().parents[1]
SETTINGS: Final = ROOT / "infra/spark/standalone/spark-defaults.conf"
SPARK: Final = Path(pyspark.__file__).parent
PORT: Final = 7077
WORKER_MB: Final = 2_560
"""What a worker offers to executors. With the JVM of the worker itself a host stays below 3 GiB."""
_PACKAGES: Final = sysconfig.get_path("purelib", vars={"base": sys.base_prefix})
_JOB: Final = "import sys; from fraud.cli import main; sys.argv[0] = 'fraud'; main()"


@dataclass
class Cluster:
    """A master, and workers that can be added and killed. `folder` has a disk per host."""

    master: Host
    driver: Host
    folder: Path
    store: s3.Server
    workers: list[Host] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"spark://{self.master.name}:{PORT}"

    def disk(self, host: Host) -> Path:
        return self.folder / host.name

    def write_settings(self) -> None:
        """The project's settings for a cluster, with a generated password of this one."""
        (self.folder / "conf").mkdir()
        password = f"spark.authenticate.secret {secrets.token_hex(20)}\n"
        (self.folder / "conf/spark-defaults.conf").write_text(SETTINGS.read_text() + password)

    def no_packages(self) -> Path:
        """An empty folder, in place of packages that this machine's Python may have."""
        empty = self.folder / "empty"
        empty.mkdir(exist_ok=True)
        return empty

    def add_worker(self, host: Host) -> None:
        """Start a worker on a host. It joins running applications."""
        place = ("--cores", "1", "--memory", f"{WORKER_MB}m", "--work-dir", "/data", "--host", host.name)
        self._start(host, "org.apache.spark.deploy.worker.Worker", *place, self.url)
        self.workers.append(host)

    def kill(self, host: Host) -> None:
        """Kill every process of a worker's host."""
        netns.kill_processes(host.namespace)
        self.workers.remove(host)

    def start_master(self) -> None:
        place = ("--host", self.master.name, "--port", str(PORT))
        self._start(self.master, "org.apache.spark.deploy.master.Master", *place)

    def _start(self, host: Host, program: str, *arguments: str) -> None:
        disk = self.disk(host)
        disk.mkdir(exist_ok=True)
        python = str(Path(sys.base_prefix) / "bin")
        names = {
            "PATH": f"{python}:/usr/local/bin:/usr/bin:/bin", "HOME": "/data", "SPARK_HOME": "/opt/spark",
            "SPARK_CONF_DIR": "/opt/conf", "SPARK_LOCAL_DIRS": "/data/local", "SPARK_DAEMON_MEMORY": "256m",
        }  # fmt: skip
        command = own_disk.command(
            disk, "env", "-i", *(f"{name}={value}" for name, value in names.items()), "/opt/spark/bin/spark-class",
            program, *arguments, directory="/data",
            given={SPARK: "/opt/spark", self.folder / "conf": "/opt/conf", self.no_packages(): _PACKAGES},
        )  # fmt: skip
        with (self.folder / f"{host.name}.log").open("ab") as log:
            host.start(*command, stdout=log, stderr=log)

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """The variables of a job on the driver's host, with its own home and the lake on the S3 server."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "FRAUD_", "SPARK_"))}
        return {
            **own, **self.store.environment, "PYTHONPATH": str(ROOT / "src"),
            "SPARK_CONF_DIR": str(self.folder / "conf"), "FRAUD_HOME": str(home),
            "FRAUD_PROJECT": str(ROOT), "FRAUD_REDIS_URL": "none",
            "FRAUD_SPARK_MASTER": self.url, "FRAUD_FEATURE_ENGINE": "spark", **more,
        }  # fmt: skip

    def start_job(self, environment: dict[str, str], log: Path, *arguments: str) -> subprocess.Popen[Any]:
        """Start `fraud ARGUMENTS` on the driver's host. `log` gets its output."""
        with log.open("wb") as sink:
            return self.driver.start(
                sys.executable, "-c", _JOB, *arguments, env=environment, stdout=sink, stderr=sink, cwd=ROOT
            )


@contextmanager
def running(folder: Path, *, workers: int, spare: int = 0) -> Iterator[tuple[Cluster, list[Host]]]:
    """A cluster with an S3 server on a host of its own, and hosts without a worker yet. All end with the block."""
    names = ["master", "driver", "storage", *(f"worker{i}" for i in range(workers + spare))]
    folder.mkdir(parents=True, exist_ok=True)
    with netns.hosts(*names) as (master, driver, storage, *others), s3.running(folder / "s3", storage) as store:
        cluster = Cluster(master, driver, folder, store)
        cluster.write_settings()
        cluster.start_master()
        for host in others[:workers]:
            cluster.add_worker(host)
        yield cluster, others[workers:]
