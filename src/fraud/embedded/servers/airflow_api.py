"""Client of Airflow's REST API with a login: trigger runs, read their states and the results of their tasks."""

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
    """A session with the API server. Methods raise UnavailableError when a request fails."""

    def __init__(self, url: str, password: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=30)
        self._login = {"username": ADMIN, "password": password}
        self._log_in()

    def _log_in(self) -> None:
        try:
            answer = self._http.post("/auth/token", json=self._login)
        except httpx.HTTPError as error:
            raise UnavailableError(
                "Airflow does not answer", got=type(error).__name__, hint="make services lists them"
            ) from error
        if answer.status_code != _TOKEN_STATUS:
            raise UnavailableError("Airflow refused the login", got=f"{answer.status_code} {answer.text[:200]}")
        self._http.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    def _request(self, method: str, path: str, **more: Any) -> Any:  # noqa: ANN401 - JSON
        try:
            answer = self._http.request(method, f"/api/v2{path}", **more)
            if answer.status_code == httpx.codes.UNAUTHORIZED:
                self._log_in()
                answer = self._http.request(method, f"/api/v2{path}", **more)
            answer.raise_for_status()
        except httpx.HTTPError as error:
            detail = error.response.text[:300] if isinstance(error, httpx.HTTPStatusError) else type(error).__name__
            raise UnavailableError(f"Airflow: {method} {path} failed", got=detail) from error
        return answer.json()

    def dags(self) -> list[str]:
        """Ids of the DAGs that are not paused."""
        answer = self._request("GET", "/dags", params={"limit": 100, "paused": False})
        return [dag["dag_id"] for dag in answer["dags"]]

    def import_errors(self) -> dict[str, str]:
        """DAG file -> traceback of its import."""
        answer = self._request("GET", "/importErrors")
        return {error["filename"]: error["stack_trace"] for error in answer["import_errors"]}

    def trigger(self, dag: str, conf: Mapping[str, Any]) -> Run:
        """Start a run now."""
        return _run(self._request("POST", f"/dags/{dag}/dagRuns", json={"logical_date": None, "conf": dict(conf)}))

    def runs(self, dag: str = "~", limit: int = 100) -> list[Run]:
        """The newest runs, newest first."""
        params = {"limit": limit, "order_by": "-run_after"}
        return [_run(run) for run in self._request("GET", f"/dags/{dag}/dagRuns", params=params)["dag_runs"]]

    def tasks(self, run: Run) -> list[Task]:
        """The run's tasks, in no order."""
        answer = self._request("GET", f"/dags/{run.dag}/dagRuns/{quote(run.id)}/taskInstances")
        return [
            Task(run, t["task_id"], t["state"], t["try_number"], t["duration"] or 0.0) for t in answer["task_instances"]
        ]

    def result(self, run: Run, task: str) -> dict[str, Any] | None:
        """The return value of a task. None without one, or when it is not a dictionary."""
        path = f"/dags/{run.dag}/dagRuns/{quote(run.id)}/taskInstances/{task}/xcomEntries"
        entries = self._request("GET", path)["xcom_entries"]
        if not any(entry["key"] == "return_value" for entry in entries):
            return None
        value = self._request("GET", f"{path}/return_value", params={"deserialize": False, "stringify": False})["value"]
        return value if isinstance(value, dict) else None

    def results(self, dag: str, task: str) -> list[dict[str, Any]]:
        """The return values of the successful runs of a task, newest first."""
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
