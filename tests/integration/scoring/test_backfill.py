"""A month scored through the real scheduler, as a person triggers it: each day once, cancelled on the way or not."""

import datetime as dt
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow.compute as pc
import pytest

from fraud.declaration_file import load
from fraud.embedded.servers.airflow_api import FINISHED, AirflowApi, Run
from fraud.embedded.stack import Stack
from fraud.lake import catalog
from fraud.lake.dataset import Dataset
from fraud.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
THREE = ROOT / "tests/declarations/three.yaml"
FIRST = dt.date(2026, 2, 8)
DAYS = [str(FIRST + dt.timedelta(days=n)) for n in range(30)]
SPAN = {"from": DAYS[0], "to": DAYS[-1]}
OBJECTS, ROWS = 8, 250
AIRFLOW = ["airflow-api-server", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer"]
Make = Callable[..., Any]


def until(condition: Callable[[], Any], seconds: float) -> Any:  # noqa: ANN401 - what the condition gives
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.2)
    return found


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """MLflow and all of Airflow, on a project beside this one; `score_nightly` is its one DAG."""
    project = tmp_path / "project"
    (project / "dags").mkdir(parents=True)
    for name in (
        "plugins",
        "services",
        "infra",
        "src",
        ".venv",
        "params.yaml",
        "feature_repo",
        "dags/score_nightly.py",
    ):
        (project / name).symlink_to(ROOT / name)
    env = {**os.environ, "FRAUD_HOME": str(tmp_path / "home"), "FRAUD_PROJECT": str(project)}
    embedded = [sys.executable, "-m", "fraud.embedded"]
    try:
        subprocess.run([*embedded, "up", "--free-ports", "--only", "mlflow", *AIRFLOW], env=env, check=True)
        yield Stack.open(Settings(home=tmp_path / "home", project=project))
    finally:
        subprocess.run([*embedded, "down"], env=env, check=True)


@pytest.fixture
def environment(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """This process as a client of the stack."""
    for name, value in stack.platform_environment().items():
        if name.startswith("MLFLOW_"):
            monkeypatch.setenv(name, value)
    return Settings(home=stack.home, project=stack.project, mlflow_url=stack.url("mlflow"))


def finished(api: AirflowApi, run: Run) -> Run | None:
    return next((r for r in api.runs("score_nightly") if r.id == run.id and r.state in FINISHED), None)


def scored(api: AirflowApi) -> Run:
    """A run over the span, to its end."""
    run = api.trigger("score_nightly", SPAN)
    ended: Run = until(lambda: finished(api, run), 480)
    return ended


def java(stack: Stack) -> list[int]:
    """JVMs that this stack's tasks started."""
    mark = f"={stack.mark}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"SparkSubmit" in path.read_bytes() and mark in path.with_name("environ").read_bytes():
                found.append(int(path.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def content(scores: Dataset) -> dict[str, Any]:
    return dict(scores.open().contents.partitions)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_thirty_days_are_thirty_partitions_and_a_cancelled_backfill_goes_on_where_it_was(
    stack: Stack, environment: Settings, registry_at: Make, features_of: Make, linear_model: Make, tmp_path: Path
) -> None:
    registry_at(stack.url("mlflow"), tmp_path / "models").register(linear_model())
    lake_uri = environment.lake_uri
    features = catalog.features(load(THREE).stored_hash).at(lake_uri)
    scores = catalog.SCORES.at(lake_uri)
    for day in DAYS:
        features.publish(day, (features_of(dt.date.fromisoformat(day), ROWS, seed=i) for i in range(OBJECTS)))
    api = AirflowApi(stack.url("airflow"), stack.secret["AIRFLOW_ADMIN_PASSWORD"])
    until(lambda: "score_nightly" in api.dags(), 180)

    cancelled = api.trigger("score_nightly", SPAN)
    until(scores.staged, 240)
    patched = httpx.patch(
        f"{stack.url('airflow')}/api/v2/dags/score_nightly/dagRuns/{cancelled.id}", json={"state": "failed"},
        headers=dict(api._http.headers), timeout=30,
    )  # fmt: skip
    assert patched.is_success, patched.text
    until(lambda: not java(stack), 180)
    until(lambda: finished(api, cancelled), 180)
    before = scores.staged()
    assert 0 < len(before) < len(DAYS)
    assert scores.partitions() == []

    run = scored(api)
    assert {task.id: task.state for task in api.tasks(run)} == {
        "production_model": "success", "score": "success", "consistency": "skipped",
    }  # fmt: skip
    result = api.result(run, "score")
    assert result is not None
    assert scores.partitions() == DAYS
    assert result["resumed"] == len(before)
    assert (scores.open().number, scores.staged()) == (0, {})
    assert (len(result["days"]), result["rows"], result["rejected"]) == (30, 30 * OBJECTS * ROWS, 0)
    ids = []
    for day in DAYS:
        assert scores.verify(day).rows == OBJECTS * ROWS
        table = scores.read(day)
        assert pc.unique(table["event_timestamp"].cast("date32")).to_pylist() == [dt.date.fromisoformat(day)]
        ids += table["transaction_id"].to_pylist()
    assert len(set(ids)) == len(ids) == 30 * OBJECTS * ROWS

    published = content(scores)
    again = scored(api)
    unchanged = api.result(again, "score")
    assert unchanged is not None
    assert not any(day["changed"] for day in unchanged["days"])
    assert content(scores) == published

    refused = httpx.post(
        f"{stack.url('airflow')}/api/v2/backfills",
        json={"dag_id": "score_nightly", "from_date": f"{DAYS[0]}T00:00:00Z", "to_date": f"{DAYS[-1]}T00:00:00Z"},
        headers=dict(api._http.headers), timeout=30,
    )  # fmt: skip
    assert (refused.status_code, "non-periodic" in refused.text) == (422, True), refused.text  # docs/batch.md says so
    print(json.dumps({"days": len(published), "rows": len(ids), "seconds": result["seconds"]}))
