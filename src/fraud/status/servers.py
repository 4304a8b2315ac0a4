"""Read serving, Prometheus, Alertmanager and Airflow over HTTP. Functions raise HTTPError, KeyError or ValueError.

Each function returns values of fields of `fraud.status.facts.Facts`.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final, Literal

import httpx

from fraud.settings import Settings
from fraud.status.facts import Alert, DagRun, Ready, Served, Traffic

Values = Mapping[str, Any]
_MOST_RUNS: Final = 100
_PROCESSES: Final = 'count by (version) (serving_model_info{job=~"serving|stream"})'
_DECISIONS: Final = """sum by (version) (
  sum by (job, instance) (rate(model_predictions_total{job=~"serving|stream"}[5m]))
  * on (job, instance) group_right () serving_model_info)"""
_UP: Final = 'sum(up{job="%s"}) or vector(0)'
_TARGETS: Final = 'count(up{job="%s"}) or vector(0)'


def serving(url: str, deadline_s: float) -> Values:
    """The answer of /ready, which is 503 while serving has no model."""
    answer = httpx.get(f"{url}/ready", timeout=deadline_s)
    if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
        answer.raise_for_status()
    state = answer.json()
    return {"ready": Ready(bool(state["ready"]), str(state["model_version"]), bool(state["store_connected"]))}


def prometheus(url: str, deadline_s: float) -> Values:
    """What serves, its traffic and the stream."""
    with httpx.Client(base_url=url, timeout=deadline_s) as client:

        def series(query: str) -> list[tuple[Mapping[str, str], float]]:
            answer = client.get("/api/v1/query", params={"query": query}).raise_for_status().json()
            return [(each["metric"], float(each["value"][1])) for each in answer["data"]["result"]]

        def value(query: str) -> float | None:
            return next((number for _, number in series(query)), None)

        processes = {labels["version"]: int(number) for labels, number in series(_PROCESSES)}
        decisions = {labels["version"]: number for labels, number in series(_DECISIONS)}
        traffic = Traffic(
            serving_targets=int(value(_TARGETS % "serving") or 0),
            serving_up=int(value(_UP % "serving") or 0),
            answers_per_second=value('sum(rate(model_predictions_total{job=~"serving|stream"}[5m]))'),
            degraded_share=value("max(serving:degraded:ratio_rate5m)"),
            consumers=int(value(_TARGETS % "stream") or 0),
            consumers_up=int(value(_UP % "stream") or 0),
            lag_messages=value("sum(stream_lag_messages)"),
        )
    total = sum(decisions.values())
    shares = {version: decisions.get(version, 0.0) / total if total else None for version in processes}
    served = tuple(Served(version, processes[version], shares[version]) for version in sorted(processes))
    return {"served": served, "traffic": traffic}


def alertmanager(url: str, deadline_s: float) -> Values:
    """All alerts that fire, silenced and inhibited ones included."""
    found = httpx.get(f"{url}/api/v2/alerts", timeout=deadline_s).raise_for_status().json()
    return {"alerts": tuple(_alert(alert) for alert in found)}


def _alert(found: Mapping[str, Any]) -> Alert:
    labels, annotations = found["labels"], found["annotations"]
    state: Literal["active", "suppressed"] = "suppressed" if found["status"]["state"] == "suppressed" else "active"
    return Alert(
        labels["alertname"], labels.get("severity", ""), state, datetime.fromisoformat(found["startsAt"]),
        annotations.get("summary", ""), annotations.get("runbook_url", ""),
    )  # fmt: skip


def dag_runs(settings: Settings, now: datetime, deadline_s: float) -> Values:
    """The runs that ended in the last day, with the login or the token of the settings."""
    with httpx.Client(base_url=settings.airflow_url, timeout=deadline_s) as client:
        token = settings.airflow_token.get_secret_value()
        if not token:
            login = {
                "username": settings.airflow_username,
                "password": settings.airflow_password.get_secret_value(),
            }
            token = client.post("/auth/token", json=login).raise_for_status().json()["access_token"]
        params: dict[str, str | int] = {
            "end_date_gte": (now - timedelta(days=1)).isoformat(), "order_by": "-end_date", "limit": _MOST_RUNS,
        }  # fmt: skip
        answer = client.get("/api/v2/dags/~/dagRuns", params=params, headers={"Authorization": f"Bearer {token}"})
        found = answer.raise_for_status().json()["dag_runs"]
    runs = (
        DagRun(run["dag_id"], run["dag_run_id"], datetime.fromisoformat(run["end_date"]), run["state"] == "failed")
        for run in found
        if run["state"] in ("success", "failed")
    )
    return {"dag_runs": tuple(runs)}
