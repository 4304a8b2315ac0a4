"""The embedded stack of a soak: its services, killed and started again, and Airflow's runs."""

import json
import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog
import yaml
from tests.e2e.project import small_project
from tests.soak.kills import killing
from tests.soak.schedule import Kill

from fraud import declaration_file
from fraud.cli import run_job
from fraud.embedded import lock, services
from fraud.embedded.follow import MAIN_JOB
from fraud.embedded.servers.airflow_api import FINISHED, AirflowApi, Run, Task
from fraud.embedded.stack import Stack
from fraud.errors import UnavailableError
from fraud.job import Context
from fraud.params import Params
from fraud.settings import Settings

T = TypeVar("T")
PARAMS: Final[dict[str, dict[str, Any]]] = {
    "split": {"train_days": 22, "gap_days": 7, "validation_days": 6, "holdout_days": 8},
    "gates": {"min_auc": 0.6, "min_average_precision_lift": 3.0},
    "drift": {"psi_threshold": 0.035},
}
"""Over those of the small project: a longer holdout, and bounds that its 4,000 payments can pass in every night. Of 31
inputs, at most 7 have a PSI of 0.035 in a night before the drift of seed 1, and at least 12 from its fifth night on."""
_QUIET_POLLS: Final = 5
"""Polls in a row without an unfinished run: the scheduler takes seconds to start a run for an asset."""
_POLL_S: Final = 1.0
_API_S: Final = 180.0
_NIGHT_S: Final = 1500.0


class Platform:
    """A running stack in `folder`. Use `running` to make one."""

    def __init__(self, stack: Stack, log: Callable[[str], None]) -> None:
        self.stack, self._log = stack, log
        self.settings = Settings.load()
        self.context = Context(
            self.settings, Params.load(stack.project / "params.yaml"), declaration_file.load_of(stack.project),
            structlog.get_logger(job="soak"),
        )  # fmt: skip
        self.api: AirflowApi = self._patiently(
            lambda: AirflowApi(stack.url("airflow"), stack.secret["AIRFLOW_ADMIN_PASSWORD"])
        )
        self._patiently(self._dags_listed)

    def job(self, *arguments: str) -> dict[str, Any]:
        """Run a `fraud` job in this process. Returns its result. Raises FraudError."""
        return run_job(arguments[0], list(arguments[1:])).model_dump(mode="json")

    def run(self, dag: str, conf: Mapping[str, Any]) -> list[Run]:
        """Trigger a DAG, and wait until nothing runs that it or its assets started. Returns all runs since."""
        since = datetime.now(UTC)
        self._patiently(lambda: self.api.trigger(dag, conf))
        return self.until_quiet(since)

    def until_quiet(self, since: datetime) -> list[Run]:
        """Wait until no run is queued or running. Returns those queued since then. Raises UnavailableError."""
        deadline, quiet = time.monotonic() + _NIGHT_S, 0
        while True:
            runs: list[Run] = self._patiently(self.api.runs)
            unfinished = [f"{run.dag} ({run.state})" for run in runs if run.state not in FINISHED]
            quiet = 0 if unfinished else quiet + 1
            if quiet == _QUIET_POLLS:
                return [run for run in runs if run.queued_at >= since]
            if time.monotonic() > deadline:
                raise UnavailableError(f"runs do not end within {_NIGHT_S:.0f} s", got=", ".join(unfinished))
            time.sleep(_POLL_S)

    def tasks(self, runs: list[Run]) -> list[Task]:
        """The tasks of the runs, those of the newest run last."""
        ordered = sorted(runs, key=lambda run: run.queued_at)
        return [task for run in ordered for task in self._patiently(lambda run=run: self.api.tasks(run))]

    def result(self, runs: list[Run], dag: str, task: str) -> dict[str, Any] | None:
        """The result of a task in the newest of these runs of its DAG."""
        of_dag = sorted((run for run in runs if run.dag == dag), key=lambda run: run.queued_at)
        return self._patiently(lambda: self.api.result(of_dag[-1], task)) if of_dag else None

    @contextmanager
    def killing(self, kill: Kill | None) -> Iterator[None]:
        """Kill a service during the block and start it again."""
        with killing(self.stack, kill, self._log):
            yield

    def _dags_listed(self) -> None:
        if missing := MAIN_JOB.difference(self.api.dags()):
            raise UnavailableError("Airflow does not list every DAG", got=f"{sorted(missing)}")

    def _patiently(self, call: Callable[[], T]) -> T:
        """The result of a call of Airflow's API, which is slow while jobs use both cores."""
        deadline = time.monotonic() + _API_S
        while True:
            try:
                return call()
            except UnavailableError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_POLL_S)


def project_in(folder: Path) -> Path:
    """The project of a soak: this checkout with parameters for few transactions. Made once."""
    project = folder / "project"
    if not project.exists():
        path = small_project(project) / "params.yaml"
        params = yaml.safe_load(path.read_text())
        for section, values in PARAMS.items():
            params[section] |= values
        path.write_text(yaml.safe_dump(params))
    return project


@contextmanager
def running(folder: Path, log: Callable[[str], None], *, keep: bool) -> Iterator[Platform]:
    """Start the stack in `folder` on free ports, as `make start` does. It is stopped after the block, unless `keep`."""
    project = project_in(folder)
    (folder / "tmp").mkdir(exist_ok=True)
    os.environ |= {"FRAUD_HOME": str(folder / "home"), "FRAUD_PROJECT": str(project), "TMPDIR": str(folder / "tmp")}
    stack = Stack.open(Settings.load(), usual_ports=False, stream=False)
    with lock.exclusive(stack.run):
        try:
            services.end_leftover_processes(stack, log)
            stack = services.choose_free_ports(stack, log)
            os.environ |= _variables(stack.write_shell_environment())
            services.start_all(stack, log)
            yield Platform(stack, log)
        finally:
            if not keep:
                services.stop_all(stack, log)


def _variables(file: Path) -> dict[str, str]:
    """What a shell that sources stack.env has."""
    pairs = (line.partition("=") for line in file.read_text().splitlines())
    return {name: shlex.split(value)[0] for name, _, value in pairs}


def log_to(path: Path) -> Callable[[str], None]:
    """Append the log of the soak and of the jobs in its process to a file. Returns the function of the soak's lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a", buffering=1)
    structlog.configure(
        processors=[structlog.processors.add_log_level, structlog.processors.TimeStamper(fmt="iso", utc=True),
                    structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(file),
    )  # fmt: skip

    def write(line: str) -> None:
        file.write(json.dumps({"timestamp": datetime.now(UTC).isoformat(), "event": line}) + "\n")

    return write
