"""Airflow over its REST API, as a logged-in person: trigger runs, watch them, read what their tasks returned."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import httpx

from fraud.embedded.servers.airflow import ADMIN
from fraud.errors import UnavailableError

FINISHED: Final = ("success", "failed")
_TOKEN_STATUS: Final = 201


class Run(NamedTuple):
    """One run of a DAG."""

    dag: str
    id: str
    state: str
    queued_at: datetime
    ended_at: datetime | None


class Task(NamedTuple):
    """One task of a run. `state` is None while it waits to be scheduled."""

    run: Run
    id: str
    state: str | None
    attempt: int
    seconds: float


class AirflowApi:
    """A session with the API server. Raises UnavailableError where the server refuses or is gone."""

    def __init__(self, url: str, password: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=30)
        self._login = {"username": ADMIN, "password": password}
        self._renew()

    def _renew(self) -> None:
        try:
            answer = self._http.post("/auth/token", json=self._login)
        except httpx.HTTPError as error:
            raise UnavailableError(
                "Airflow does not answer", got=type(error).__name__, hint="make status shows what runs"
            ) from error
        if answer.status_code != _TOKEN_STATUS:
            raise UnavailableError("Airflow refused our login", got=f"{answer.status_code} {answer.text[:200]}")
        self._http.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    def _ask(self, method: str, path: str, **more: Any) -> Any:  # noqa: ANN401 - JSON
        try:
            answer = self._http.request(method, f"/api/v2{path}", **more)
            if answer.status_code == httpx.codes.UNAUTHORIZED:
                self._renew()
                answer = self._http.request(method, f"/api/v2{path}", **more)
            answer.raise_for_status()
        except httpx.HTTPError as error:
            said = error.response.text[:300] if isinstance(error, httpx.HTTPStatusError) else type(error).__name__
            raise UnavailableError(f"Airflow: {method} {path} failed", got=said) from error
        return answer.json()

    def dags(self) -> list[str]:
        """Ids of the DAGs that are known and not paused."""
        answer = self._ask("GET", "/dags", params={"limit": 100, "paused": False})
        return [dag["dag_id"] for dag in answer["dags"]]

    def import_errors(self) -> dict[str, str]:
        """File -> what is wrong with it."""
        answer = self._ask("GET", "/importErrors")
        return {error["filename"]: error["stack_trace"] for error in answer["import_errors"]}

    def trigger(self, dag: str, conf: Mapping[str, Any]) -> Run:
        """Start a run now."""
        return _run(self._ask("POST", f"/dags/{dag}/dagRuns", json={"logical_date": None, "conf": dict(conf)}))

    def runs(self, dag: str = "~", limit: int = 100) -> list[Run]:
        """The newest runs, newest first."""
        params = {"limit": limit, "order_by": "-run_after"}
        return [_run(run) for run in self._ask("GET", f"/dags/{dag}/dagRuns", params=params)["dag_runs"]]

    def tasks(self, run: Run) -> list[Task]:
        """The run's tasks, in no order."""
        answer = self._ask("GET", f"/dags/{run.dag}/dagRuns/{quote(run.id)}/taskInstances")
        return [
            Task(run, t["task_id"], t["state"], t["try_number"], t["duration"] or 0.0) for t in answer["task_instances"]
        ]

    def result(self, run: Run, task: str) -> dict[str, Any] | None:
        """What a task returned; None when it returned nothing."""
        path = f"/dags/{run.dag}/dagRuns/{quote(run.id)}/taskInstances/{task}/xcomEntries"
        entries = self._ask("GET", path)["xcom_entries"]
        if not any(entry["key"] == "return_value" for entry in entries):
            return None
        value = self._ask("GET", f"{path}/return_value", params={"deserialize": False, "stringify": False})["value"]
        return value if isinstance(value, dict) else None

    def results(self, dag: str, task: str) -> list[dict[str, Any]]:
        """What the successful runs of a task returned, newest first."""
        runs = [r for r in self.runs(dag) if any(t.id == task and t.state == "success" for t in self.tasks(r))]
        return [result for run in runs if (result := self.result(run, task))]


def _run(answer: Mapping[str, Any]) -> Run:
    ended = answer["end_date"]
    return Run(
        answer["dag_id"],
        answer["dag_run_id"],
        answer["state"],
        datetime.fromisoformat(answer["queued_at"] or answer["run_after"]),
        datetime.fromisoformat(ended) if ended else None,
    )
