"""The main job with the CeleryExecutor on two worker hosts, one of which is lost while it trains."""

import importlib.util
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests import netns, postgres

from . import celery_hosts
from .celery_hosts import Airflow

MAIN_JOB = ("ingest_transactions", "build_features", "train_fraud_model", "promote_model", "score_nightly")
WORLD = ("--days=150", "--users=1500", "--seed=1")
"""That of `make smoke`: a version passes its gates."""
NO_CELERY = "NOT TESTED: Airflow's environment has no Celery; install requirements/celery.txt"
PARENT = "mlflow.parentRunId"


@pytest.fixture
def airflow(tmp_path: Path) -> Any:
    if reason := netns.missing():
        pytest.skip(reason)
    if postgres.programs() is None:
        pytest.skip("NOT TESTED: PostgreSQL is not installed; install the package postgresql")
    if importlib.util.find_spec("celery") is None:
        pytest.skip(NO_CELERY)
    with celery_hosts.running(tmp_path) as made:
        yield made


def test_the_executor_of_the_lock_file_can_be_loaded() -> None:
    if importlib.util.find_spec("celery") is None:
        pytest.skip(NO_CELERY)
    # Releases of Celery have removed names that Airflow's provider imports.
    from airflow.providers.celery.executors.celery_executor import CeleryExecutor

    assert CeleryExecutor.supports_ad_hoc_ti_run


@pytest.mark.long
@pytest.mark.timeout(2_400)
@pytest.mark.parametrize("fault", ["killed", "disconnected"])
def test_the_main_job_runs_on_two_hosts_and_a_task_of_a_lost_host_is_retried_on_the_other(
    airflow: Airflow, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`disconnected`: the training continues on the lost host until its supervisor ends it; the network comes back."""
    airflow.fraud("simulate", *WORLD)
    with airflow.api() as api:
        body = {"logical_date": None, "conf": {"feed": "all"}}
        api.post("/dags/ingest_transactions/dagRuns", json=body).raise_for_status()
    fitted = wait_for(airflow, lambda: levels(airflow, "FINISHED"), "a level of the ladder is trained")
    [train] = tasks(airflow, "train_fraud_model", "train", "running")
    lost, lost_at = airflow.workers[train["hostname"]], datetime.now(UTC)
    # The network first: otherwise the supervisor reports the death of the task, which is killed before it.
    with lost.disconnected():
        if fault == "killed":
            netns.kill_processes(lost.namespace)
        wait_for(airflow, lambda: retried(airflow), "training is retried")
    wait_for(airflow, lambda: tasks(airflow, "score_nightly", "score", "success"), "scores are published")
    wait_for(airflow, lambda: all_ended(airflow), "all runs ended")

    tries = {dag: airflow.tries(dag) for dag in MAIN_JOB}
    first, second = (each for each in tries["train_fraud_model"] if each["task_id"] == "train")
    assert {first["hostname"], second["hostname"]} == set(airflow.workers)
    assert (first["hostname"], first["state"], second["state"]) == (lost.name, "failed", "success")
    wait_for(airflow, lambda: not any(map(airflow.jobs, airflow.workers.values())), "no job is left on a worker")
    history = airflow.fraud("history")
    assert (history["verified"], history["production"], len(history["changes"])) == (True, "1", 1)
    days = {name.split("/")[0] for name in airflow.store.names("lake/scores") if name.endswith(".parquet")}
    assert days
    assert airflow.store.names("logs")
    # A training without a fault, on a third host, has the same bytes.
    assert airflow.fraud("train", "--force")["version"] == "2"
    assert model_hash(airflow, "1") == model_hash(airflow, "2")
    assert sorted(run["info"]["status"] for run in trainings(airflow)) == ["FINISHED", "FINISHED", "KILLED"]
    assert levels(airflow, "RUNNING") == []
    with capsys.disabled():
        print(report(tries, f"{lost.name} {fault}, {len(fitted)} of 4 levels trained", lost_at))


def retried(airflow: Airflow) -> bool:
    [train] = [each for each in airflow.tasks("train_fraud_model") if each["task_id"] == "train"]
    return bool(train["try_number"] == 2 and train["state"] in {"running", "success"})


def tasks(airflow: Airflow, dag: str, task: str, state: str) -> list[dict[str, Any]]:
    return [each for each in airflow.tasks(dag) if (each["task_id"], each["state"]) == (task, state)]


def all_ended(airflow: Airflow) -> bool:
    return all(run["state"] in {"success", "failed"} for dag in MAIN_JOB for run in airflow.runs(dag))


def mlflow_runs(airflow: Airflow) -> list[dict[str, Any]]:
    found = airflow.mlflow("experiments/get-by-name?experiment_name=fraud-detector")
    if not found:
        return []
    runs = airflow.mlflow("runs/search", experiment_ids=[found["experiment"]["experiment_id"]], max_results=100)
    return list(runs.get("runs", []))


def tags(run: dict[str, Any]) -> dict[str, str]:
    return {tag["key"]: tag["value"] for tag in run["data"]["tags"]}


def trainings(airflow: Airflow) -> list[dict[str, Any]]:
    """The trainings in MLflow."""
    return [run for run in mlflow_runs(airflow) if PARENT not in tags(run)]


def levels(airflow: Airflow, status: str) -> list[dict[str, Any]]:
    """The nested runs of the trainings, one for each level."""
    return [run for run in mlflow_runs(airflow) if PARENT in tags(run) and run["info"]["status"] == status]


def model_hash(airflow: Airflow, version: str) -> str:
    found = airflow.mlflow(f"model-versions/get?name=fraud-detector&version={version}")
    return {tag["key"]: tag["value"] for tag in found["model_version"]["tags"]}["model_sha256"]


def wait_for(airflow: Airflow, condition: Callable[[], Any], what: str) -> Any:
    """The value of a condition once it is true. Fails when a task of the job failed for good."""
    deadline = time.monotonic() + 1_500
    while time.monotonic() < deadline:
        if found := condition():
            return found
        failed = [each for name in MAIN_JOB for each in airflow.tasks(name) if each["state"] == "failed"]
        assert not failed, f"{failed}\n{airflow.logs()}"
        time.sleep(1)
    pytest.fail(f"not within 1,500 s: {what}\n{airflow.logs()}")


def report(tries: dict[str, list[dict[str, Any]]], fault: str, lost_at: datetime) -> str:
    """A table of all tries, and one of what happened to the task of the lost host."""
    first, second = (each for each in tries["train_fraud_model"] if each["task_id"] == "train")
    lines = ["", "| DAG | task | try | worker host | seconds | state |", "| --- | --- | --- | --- | --- | --- |"]
    for each in (each for dag in MAIN_JOB for each in tries[dag]):
        seconds = (at(each["end_date"]) - at(each["start_date"])).total_seconds()
        cells = [each[name] for name in ("dag_id", "task_id", "try_number", "hostname")]
        lines.append(f"| {' | '.join(map(str, [*cells, f'{seconds:.0f}', each['state']]))} |")
    events = {
        "try 1 of train starts": at(first["start_date"]), fault: lost_at, "try 1 is failed": at(first["end_date"]),
        "try 2 starts": at(second["start_date"]), "try 2 ends": at(second["end_date"]),
    }  # fmt: skip
    lines += ["", "| seconds | event |", "| --- | --- |"]
    lines += [f"| {(when - lost_at).total_seconds():.0f} | {event} |" for event, when in events.items()]
    return "\n".join(lines)


def at(moment: str) -> datetime:
    return datetime.fromisoformat(moment)
