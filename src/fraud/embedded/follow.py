"""Follow Airflow from one run to the next, as assets start them, and tell a terminal about it."""

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from fraud.embedded.processes import ServiceFailedError
from fraud.embedded.servers.airflow_api import FINISHED, AirflowApi, Run, Task
from fraud.errors import UnavailableError

MAIN_JOB: Final = frozenset(
    {
        "ingest_transactions", "build_features", "train_fraud_model", "promote_model", "rollback_model",
        "score_nightly", "monitor_drift", "monitor_skew",
    }
)  # fmt: skip
"""The DAGs that the main job runs through, and the one that takes it back."""

_POLL_SECONDS: Final = 1.0
_HEARTBEAT_SECONDS: Final = 20.0
_APPEARS_SECONDS: Final = 90.0
_RUNNING: Final = ("running", "queued", "up_for_retry", "restarting", "deferred", "awaiting_input")


def task_log(logs: Path, task: Task) -> Path:
    """Where Airflow keeps the log of a task's last attempt."""
    folder = logs / f"dag_id={task.run.dag}" / f"run_id={task.run.id}" / f"task_id={task.id}"
    return folder / f"attempt={task.attempt}.log"


class Follower:
    """Watches the runs queued since `since`, or under way then. Raises ServiceFailedError with a failed task's log."""

    def __init__(self, api: AirflowApi, logs: Path, since: datetime, say: Callable[[str], None]) -> None:
        self._api, self._logs, self._since, self._say = api, logs, since, say
        self._told: dict[tuple[str, str, str], str] = {}
        self._spoke = time.monotonic()

    def chain(self, first: Run, dags: Sequence[str]) -> list[Run]:
        """Wait for `first` to end, then for a run of each named DAG that was queued after the one before it."""
        runs = [self.until_finished(first)]
        for dag in dags:
            runs.append(self.until_finished(self._appeared(dag, runs[-1].queued_at)))
        return runs

    def until_finished(self, run: Run) -> Run:
        """Wait for one run, telling about all that happens meanwhile."""
        while True:
            for seen in self.look():
                if (seen.dag, seen.id) == (run.dag, run.id) and seen.state in FINISHED:
                    return seen
            time.sleep(_POLL_SECONDS)

    def until_quiet(self) -> None:
        """Wait until no run is queued or running, looked at twice so that a run about to appear is not missed."""
        quiet = 0
        while quiet < 2:
            quiet = quiet + 1 if all(run.state in FINISHED for run in self.look()) else 0
            time.sleep(_POLL_SECONDS)

    def look(self) -> list[Run]:
        """The runs since `since` and those under way already; says what changed."""
        runs = [
            run
            for run in self._api.runs()
            if run.queued_at >= self._since or run.state not in FINISHED or (run.dag, run.id, "") in self._told
        ]
        running = []
        for run in reversed(runs):
            if run.state in FINISHED and self._told.get((run.dag, run.id, "")) == run.state:
                continue
            tasks = self._api.tasks(run)
            self._tell(tasks)
            running += [f"{run.dag}.{t.id} ({t.state})" for t in tasks if t.state in _RUNNING]
            self._told[run.dag, run.id, ""] = run.state
            if run.state == "failed":
                failed = [task for task in tasks if task.state == "failed"] or tasks
                raise ServiceFailedError(
                    f"{run.dag}.{failed[0].id}", "the task failed", task_log(self._logs, failed[0])
                )
        if running and time.monotonic() - self._spoke > _HEARTBEAT_SECONDS:
            self._speak(f"  still at {', '.join(running)}")
        return runs

    def _appeared(self, dag: str, after: datetime) -> Run:
        deadline = time.monotonic() + _APPEARS_SECONDS
        while time.monotonic() < deadline:
            found = [run for run in self.look() if run.dag == dag and run.queued_at > after]
            if found:
                return found[-1]
            time.sleep(_POLL_SECONDS)
        raise UnavailableError(
            f"no run of {dag} was started by its asset within {_APPEARS_SECONDS:.0f} s",
            hint="look at the DAG's asset events in Airflow, and at the scheduler's log",
        )

    def _tell(self, tasks: Iterable[Task]) -> None:
        for task in tasks:
            key = (task.run.dag, task.run.id, task.id)
            if task.state is None or task.state in ("scheduled", "queued") or self._told.get(key) == task.state:
                continue
            self._told[key] = task.state
            took = f" in {timedelta(seconds=round(task.seconds))}" if task.state in FINISHED else ""
            self._speak(f"  {task.run.dag}.{task.id}: {task.state}{took}")

    def _speak(self, line: str) -> None:
        self._spoke = time.monotonic()
        self._say(line)
