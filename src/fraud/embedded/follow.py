"""Follow a chain of Airflow runs that assets start, and print each change of a task's state."""

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
"""The DAGs of the main job, and `rollback_model`."""

_POLL_SECONDS: Final = 1.0
_HEARTBEAT_SECONDS: Final = 20.0
_APPEARS_SECONDS: Final = 90.0
_RUNNING: Final = ("running", "queued", "up_for_retry", "restarting", "deferred", "awaiting_input")


def task_log(logs: Path, task: Task) -> Path:
    """The path of the log of a task's last attempt."""
    folder = logs / f"dag_id={task.run.dag}" / f"run_id={task.run.id}" / f"task_id={task.id}"
    return folder / f"attempt={task.attempt}.log"


class Follower:
    """Follows the runs queued after `since` and those unfinished at that time.

    `progress` is called with each line of progress. Methods raise ServiceFailedError with the log of a failed task.
    """

    def __init__(self, api: AirflowApi, logs: Path, since: datetime, progress: Callable[[str], None]) -> None:
        self._api, self._logs, self._since, self._progress = api, logs, since, progress
        self._reported: dict[tuple[str, str, str], str] = {}
        self._printed_at = time.monotonic()

    def chain(self, first: Run, dags: Sequence[str]) -> list[Run]:
        """Wait for `first` to end, then for a run of each named DAG that was queued after the one before it."""
        runs = [self.until_finished(first)]
        for dag in dags:
            runs.append(self.until_finished(self._appeared(dag, runs[-1].queued_at)))
        return runs

    def until_finished(self, run: Run) -> Run:
        """Wait until a run has ended, and print the progress of all runs."""
        while True:
            for current in self.poll():
                if (current.dag, current.id) == (run.dag, run.id) and current.state in FINISHED:
                    return current
            time.sleep(_POLL_SECONDS)

    def until_quiet(self) -> None:
        """Wait until two polls in a row find no queued or running run. An asset may start a run between polls."""
        quiet_polls = 0
        while quiet_polls < 2:
            quiet_polls = quiet_polls + 1 if all(run.state in FINISHED for run in self.poll()) else 0
            time.sleep(_POLL_SECONDS)

    def poll(self) -> list[Run]:
        """The followed runs. Prints each state that changed since the last poll."""
        runs = [
            run
            for run in self._api.runs()
            if run.queued_at >= self._since or run.state not in FINISHED or (run.dag, run.id, "") in self._reported
        ]
        running = []
        for run in reversed(runs):
            if run.state in FINISHED and self._reported.get((run.dag, run.id, "")) == run.state:
                continue
            tasks = self._api.tasks(run)
            self._report_tasks(tasks)
            running += [f"{run.dag}.{t.id} ({t.state})" for t in tasks if t.state in _RUNNING]
            self._reported[run.dag, run.id, ""] = run.state
            if run.state == "failed":
                failed = [task for task in tasks if task.state == "failed"] or tasks
                raise ServiceFailedError(
                    f"{run.dag}.{failed[0].id}", "the task failed", task_log(self._logs, failed[0])
                )
        if running and time.monotonic() - self._printed_at > _HEARTBEAT_SECONDS:
            self._print(f"  running: {', '.join(running)}")
        return runs

    def _appeared(self, dag: str, after: datetime) -> Run:
        deadline = time.monotonic() + _APPEARS_SECONDS
        while time.monotonic() < deadline:
            found = [run for run in self.poll() if run.dag == dag and run.queued_at > after]
            if found:
                return found[-1]
            time.sleep(_POLL_SECONDS)
        raise UnavailableError(
            f"no run of {dag} was started by its asset within {_APPEARS_SECONDS:.0f} s",
            hint="read the DAG's asset events in Airflow and the scheduler's log",
        )

    def _report_tasks(self, tasks: Iterable[Task]) -> None:
        for task in tasks:
            key = (task.run.dag, task.run.id, task.id)
            if task.state is None or task.state in ("scheduled", "queued") or self._reported.get(key) == task.state:
                continue
            self._reported[key] = task.state
            took = f" in {timedelta(seconds=round(task.seconds))}" if task.state in FINISHED else ""
            self._print(f"  {task.run.dag}.{task.id}: {task.state}{took}")

    def _print(self, line: str) -> None:
        self._printed_at = time.monotonic()
        self._progress(line)
