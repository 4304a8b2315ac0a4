"""A Spark cluster whose master, workers, driver and S3 server are hosts without a common disk.

Its jobs write the bytes of one machine, also after faults.
Faults are made while the S3 server is stopped, so that no job can end before them.
"""

import ast
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import structlog
from tests import netns, spark_cluster
from tests.integration.conftest import Registry, linear_model, registry_in
from tests.late_transactions import day, publish, publish_labels, transactions
from tests.spark_cluster import Cluster

from fraud import declaration_file
from fraud.core.plan import Plan, tables
from fraud.features import build_daily, build_features
from fraud.job import Context
from fraud.lake import catalog
from fraud.params import Params
from fraud.scoring import score
from fraud.settings import Settings

ROOT: Final = Path(__file__).resolve().parents[3]
SHIPPED: Final = declaration_file.load_of(ROOT)
FEATURES: Final = catalog.features(SHIPPED.stored_hash)
DAYS: Final = 60
ROWS: Final = 60 * 2_000
SCORE: Final = ("score", f"--from={day(0)}", f"--to={day(DAYS - 1)}")
JOBS: Final = (("build-daily",), ("build-features",), SCORE)
LATER: Final = {FEATURES.name, catalog.SCORES.name}
"""Datasets that `build-daily` does not write."""
Contents = dict[str, dict[str, str]]
Report = Callable[[str, str, int], None]
pytestmark = [pytest.mark.long, pytest.mark.timeout(1_200)]

PROBE: Final = """
import sys
import structlog
from fraud.lake.spark import run_tasks, spark_session
from fraud.settings import Settings

project = sys.argv[1]

def where(_):
    import os, resource, sys
    import fraud, llvmlite, numba, numpy, onnx, onnxruntime, pandas, pyarrow, s3fs
    from pathlib import Path
    foreign = [m.__file__ for m in list(sys.modules.values()) if getattr(m, "__file__", None)
               and not m.__file__.startswith((os.getcwd(), "/opt/spark", sys.base_prefix + "/lib/python3.11/"))]
    installed = [p for p in sys.path if "site-packages" in p and any(Path(p).glob("numpy*"))]
    return os.uname().nodename, str(Path(fraud.__file__).relative_to(os.getcwd())), \
        str(Path(numpy.__file__).relative_to(os.getcwd())), foreign, installed, Path(project).exists(), \
        resource.getrlimit(resource.RLIMIT_AS)[0], pyarrow.default_memory_pool().backend_name

with spark_session(Settings.load(), "probe") as session:
    found = run_tasks(session, where, list(range(8)), lambda _: 1, structlog.get_logger())
print(sorted(set(map(repr, found))))
"""


def lake_contents(lake_uri: str) -> Contents:
    """Content hashes of every partition that the three jobs write."""
    datasets = [FEATURES, catalog.SCORES]
    for table in tables(SHIPPED):
        datasets += [catalog.daily(table), catalog.daily_parts(table)]
    opened = {dataset.name: dataset.at(lake_uri).open() for dataset in datasets}
    return {name: {p: found.content_sha256(p) for p in found.partitions()} for name, found in opened.items()}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, empty_registry: Path) -> Registry:
    """A registry with a production version for the shipped declaration."""
    folder = tmp_path_factory.mktemp("registry")
    made = registry_in(folder, empty_registry.read_bytes())
    made.register(linear_model(plan=Plan(SHIPPED)), declaration=SHIPPED)
    return made


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, registry: Registry) -> Contents:
    """What one machine writes, without a cluster and without S3."""
    home = tmp_path_factory.mktemp("one machine")
    context = here(f"file://{home}/lake", home, registry)
    deliver(context.settings.lake_uri)
    build_daily.build(SHIPPED, context)
    build_features.run(build_features.Config(), context)
    score.run(score.Config.model_validate({"from": day(0), "to": day(DAYS - 1)}), context)
    return lake_contents(context.settings.lake_uri)


def here(lake_uri: str, home: Path, registry: Registry) -> Context:
    """The context of jobs in this process, without a cluster."""
    settings = Settings.model_validate(
        {
            "home": home, "project": ROOT, "mlflow_url": registry.url, "spark_master": "local[2]", "redis_url": "none",
            "lake_uri": lake_uri,
        }
    )  # fmt: skip
    return Context(settings, Params.load(ROOT / "params.yaml"), SHIPPED, structlog.get_logger())


def deliver(lake_uri: str) -> None:
    rows = transactions(ROWS, DAYS, seed=3)
    publish(lake_uri, rows)
    publish_labels(lake_uri, rows)


@contextmanager
def running(folder: Path, **hosts: int) -> Iterator[tuple[Cluster, list[netns.Host]]]:
    """A cluster, and this process with the variables of its S3 server."""
    if reason := netns.missing():
        pytest.skip(reason)
    with spark_cluster.running(folder, **hosts) as made, pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in made[0].store.environment.items():
            patch.setenv(name, value)
        yield made


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The driver's folder. The archive of the environment is kept for the next run of the tests."""
    folder, kept = tmp_path_factory.mktemp("driver"), ROOT / "build/spark"
    kept.mkdir(parents=True, exist_ok=True)
    (folder / "spark").symlink_to(kept)
    return folder


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two workers that no test kills."""
    with running(tmp_path_factory.mktemp("cluster") / "hosts", workers=2) as (made, _):
        yield made


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str]) -> Report:
    """Prints a line of the table of docs/scale.md: fault, job and its exit code."""

    def line(fault: str, job: str, code: int) -> None:
        with capsys.disabled():
            print(f"\n{fault:<34}| {job:<15}| exit code {code:>3} | {'rerun: ' if code else ''}the same bytes")

    return line


class Run:
    """The jobs of one lake on the S3 server of a cluster."""

    def __init__(self, cluster: Cluster, home: Path, registry: Registry, lake: str) -> None:
        self.lake = cluster.store.uri(lake)
        self._cluster, self._log = cluster, home / f"{lake}.log"
        self._environment = cluster.environment(home, FRAUD_LAKE_URI=self.lake, FRAUD_MLFLOW_URL=registry.url)

    def start(self, *job: str) -> subprocess.Popen[Any]:
        return self._cluster.start_job(self._environment, self._log, *job)

    def finish(self, process: subprocess.Popen[Any], code: int = 0) -> None:
        assert process.wait(timeout=600) == code, self._log.read_text()[-6_000:]

    def run(self, *job: str) -> None:
        self.finish(self.start(*job))

    @contextmanager
    def frozen(self, process: subprocess.Popen[Any], prefix: str, objects: int) -> Iterator[None]:
        """Stop the S3 server while the job runs and has written some objects, for the length of the block."""
        below = f"{self.lake.rpartition('/')[2]}/{prefix}"
        until(lambda: len([n for n in self._cluster.store.names(below) if n.endswith(".parquet")]) >= objects)
        os.kill(self._cluster.store.pid, signal.SIGSTOP)
        try:
            assert process.poll() is None, self._log.read_text()[-6_000:]
            yield
        finally:
            os.kill(self._cluster.store.pid, signal.SIGCONT)


def until(condition: Callable[[], object], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.1)


def test_workers_have_code_and_packages_from_the_job_only(cluster: Cluster, home: Path) -> None:
    ended = subprocess.run(
        cluster.driver.command(sys.executable, "-c", PROBE, ROOT), env=cluster.environment(home), capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-6_000:]
    print(ended.stdout)
    for found in ast.literal_eval(ended.stdout.splitlines()[-1]):
        host, code, numpy, foreign, installed, has_project, limit, allocator = ast.literal_eval(found)
        assert host in {"worker0", "worker1"}
        assert (code, numpy) == ("code/fraud/__init__.py", "environment/numpy/__init__.py")
        assert foreign == installed == []
        assert not has_project
        assert (limit, allocator) == (1536 * 2**20, "system")


def test_a_job_without_the_password_of_the_cluster_is_refused(cluster: Cluster, home: Path, tmp_path: Path) -> None:
    (tmp_path / "spark-defaults.conf").write_text(
        spark_cluster.SETTINGS.read_text() + "spark.authenticate.secret wrong\n"
    )
    ended = subprocess.run(
        cluster.driver.command(sys.executable, "-c", PROBE, ROOT), capture_output=True, text=True, check=False,
        env=cluster.environment(home, SPARK_CONF_DIR=str(tmp_path)),
    )  # fmt: skip
    assert ended.returncode == 1
    assert "UnavailableError: Spark did not start" in ended.stderr


def test_the_jobs_on_a_cluster_write_the_bytes_of_one_machine(
    cluster: Cluster, home: Path, registry: Registry, expected: Contents, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(cluster, home, registry, "whole")
    deliver(run.lake)
    for job in JOBS:
        run.run(*job)
    assert lake_contents(run.lake) == expected
    assert [len(expected[name]) for name in (FEATURES.name, catalog.SCORES.name)] == [DAYS, DAYS]
    with capsys.disabled():
        partitions = sum(map(len, expected.values()))
        print(f"\ncluster against one machine: {ROWS:,} rows, {partitions} partitions, the same bytes")


def test_a_stopped_s3_server_delays_the_daily_build(
    cluster: Cluster, home: Path, registry: Registry, expected: Contents, report: Report
) -> None:
    run = Run(cluster, home, registry, "stopped")
    deliver(run.lake)
    job = run.start("build-daily")
    with run.frozen(job, "daily_parts", objects=3):
        time.sleep(10)  # the length of the fault
    run.finish(job)
    assert lake_contents(run.lake) == {name: {} if name in LATER else days for name, days in expected.items()}
    report("S3 server stopped for 10 s", "build-daily", 0)


def test_a_killed_driver_publishes_nothing_and_a_rerun_the_same_features(
    cluster: Cluster, home: Path, registry: Registry, expected: Contents, report: Report
) -> None:
    run = Run(cluster, home, registry, "driver")
    deliver(run.lake)
    build_daily.build(SHIPPED, here(run.lake, home, registry))
    job = run.start("build-features")
    with run.frozen(job, "features", objects=3):
        job.kill()
        assert job.wait() == -signal.SIGKILL
    assert FEATURES.at(run.lake).partitions() == []
    until(lambda: not any(executors(host) for host in cluster.workers))
    run.run("build-features")
    assert lake_contents(run.lake)[FEATURES.name] == expected[FEATURES.name]
    report("driver killed", "build-features", -9)


def test_the_tasks_of_a_killed_worker_are_repeated_on_the_other(
    home: Path, registry: Registry, expected: Contents, tmp_path: Path, report: Report
) -> None:
    with running(tmp_path / "hosts", workers=2) as (cluster, _):
        run = Run(cluster, home, registry, "worker")
        deliver(run.lake)
        build_daily.build(SHIPPED, here(run.lake, home, registry))
        job = run.start("build-features")
        with run.frozen(job, "features", objects=3):
            cluster.kill(cluster.workers[0])
        run.finish(job)
        assert lake_contents(run.lake)[FEATURES.name] == expected[FEATURES.name]
    report("one of two workers killed", "build-features", 0)


def test_a_worker_that_is_added_gets_tasks_of_the_running_job(
    home: Path, registry: Registry, expected: Contents, tmp_path: Path, report: Report
) -> None:
    with running(tmp_path / "hosts", workers=1, spare=1) as (cluster, [spare]):
        run = Run(cluster, home, registry, "added")
        deliver(run.lake)
        context = here(run.lake, home, registry)
        build_daily.build(SHIPPED, context)
        build_features.run(build_features.Config(), context)
        job = run.start(*SCORE)
        with run.frozen(job, "scores", objects=3):
            cluster.add_worker(spare)
            until(lambda: any(cluster.disk(spare).glob("data/app-*/*/code/fraud")))  # it has a task
        run.finish(job)
        assert lake_contents(run.lake) == expected
        version = catalog.SCORES.at(run.lake).open().number
        run.run(*SCORE)
        assert catalog.SCORES.at(run.lake).open().number == version
    report("a worker added, S3 server stopped", "score", 0)


def executors(host: netns.Host) -> list[str]:
    """Command lines of the executors on a host."""
    pids = subprocess.run(
        ["ip", "netns", "pids", host.namespace], capture_output=True, text=True, check=True
    ).stdout.split()  # fmt: skip
    found = []
    for pid in pids:
        try:
            found.append(Path(f"/proc/{pid}/cmdline").read_text())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return [line for line in found if "CoarseGrainedExecutorBackend" in line or "pyspark.daemon" in line]
