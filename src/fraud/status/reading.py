"""Read all configured sources at once, each within a deadline. A source that fails or is late becomes a problem."""

import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Any

import httpx

from fraud.core.declaration import Declaration
from fraud.errors import FraudError
from fraud.job import Context
from fraud.registry import mlflow_client
from fraud.status import servers, sources
from fraud.status.facts import Facts, Source

Read = Callable[[], Mapping[str, Any]]


def read(context: Context, now: datetime, deadline_s: float) -> Facts:
    """The facts of all sources that are configured and answer. Takes up to two deadlines."""
    mlflow_client.client(context.settings)  # imports MLflow's client, which takes seconds, before the first deadline
    live: list[Declaration] = []
    of_registry, first = within(deadline_s, {"registry": partial(_registry, context, live, deadline_s)})
    declared = list(sources.declarations_in_use(context.declaration, live))
    values, others = within(deadline_s, _readers(context, declared, now, deadline_s))
    hints = _hints(context)
    found = tuple(
        Source(name, problem, hints.get(name, "") if problem else "") for name, problem in {**first, **others}.items()
    )
    return Facts(
        now=now, declaration=context.declaration.hash, docs_url=context.settings.docs_url, sources=found,
        **of_registry, **values,
    )  # fmt: skip


def _registry(context: Context, live: list[Declaration], deadline_s: float) -> Mapping[str, Any]:
    found = sources.registry(context.settings, deadline_s)
    live += context.live_declarations()
    return found


def _readers(context: Context, declared: list[Declaration], now: datetime, deadline_s: float) -> dict[str, Read]:
    settings = context.settings
    readers: dict[str, Read] = {
        "promotion history": partial(sources.promotion_history, settings),
        "lake": partial(sources.lake, settings, declared),
        "records of jobs": partial(sources.jobs, settings),
        "reports": partial(sources.reports, settings),
        "services": partial(sources.services, settings, declared),
    }
    if settings.serving_url:
        readers["serving"] = partial(servers.serving, settings.serving_url, deadline_s)
    if settings.prometheus_url:
        readers["Prometheus"] = partial(servers.prometheus, settings.prometheus_url, deadline_s)
    if settings.alertmanager_url:
        readers["Alertmanager"] = partial(servers.alertmanager, settings.alertmanager_url, deadline_s)
    if settings.airflow_url and (settings.airflow_token.get_secret_value() or settings.airflow_username):
        readers["Airflow"] = partial(servers.dag_runs, settings, now, deadline_s)
    return readers


def _hints(context: Context) -> dict[str, str]:
    settings, logs = context.settings, "look at its log"
    return {
        "registry": f"check FRAUD_MLFLOW_URL ({settings.mlflow_url}); {logs}",
        "promotion history": "check FRAUD_CONTROL_DB; fraud history verifies the history",
        "lake": f"check FRAUD_LAKE_URI ({settings.lake_uri})",
        "records of jobs": f"check FRAUD_JOB_RUNS_URI ({settings.job_runs_uri})",
        "reports": f"check FRAUD_REPORTS_URI ({settings.reports_uri})",
        "services": "check the online store and FRAUD_AIRFLOW_URL",
        "serving": f"check FRAUD_SERVING_URL ({settings.serving_url}); {logs}",
        "Prometheus": f"check FRAUD_PROMETHEUS_URL ({settings.prometheus_url}); {logs}",
        "Alertmanager": f"check FRAUD_ALERTMANAGER_URL ({settings.alertmanager_url}); {logs}",
        "Airflow": f"check FRAUD_AIRFLOW_URL ({settings.airflow_url}) and the login; {logs}",
    }


def within(deadline_s: float, readers: Mapping[str, Read]) -> tuple[dict[str, Any], dict[str, str]]:
    """The values of all readers, and by name why a reader gave none, "" for those that did.

    The readers run at once in daemon threads, so a reader that hangs does not delay the end of the process.
    """
    answers: dict[str, tuple[Mapping[str, Any], str]] = {}

    def answer(name: str, read_source: Read) -> None:
        try:
            answers[name] = read_source(), ""
        except Exception as error:  # noqa: BLE001 - one source that fails in any way must not hide the others
            answers[name] = {}, _reason(error)

    threads = [threading.Thread(target=answer, args=each, daemon=True) for each in readers.items()]
    for thread in threads:
        thread.start()
    end = time.monotonic() + deadline_s
    for thread in threads:
        thread.join(max(end - time.monotonic(), 0.0))
    late: tuple[Mapping[str, Any], str] = {}, f"no answer within {deadline_s:g} s"
    ended = {name: answers.get(name, late) for name in readers}  # before another late answer arrives
    values = {field: value for found, _ in ended.values() for field, value in found.items()}
    return values, {name: reason for name, (_, reason) in ended.items()}


def _reason(error: Exception) -> str:
    """The error on one line."""
    if isinstance(error, httpx.HTTPStatusError):
        return f"status {error.response.status_code}"
    named = (error.message, error.got) if isinstance(error, FraudError) else (type(error).__name__, str(error))
    return " ".join(": ".join(part for part in named if part).split())
