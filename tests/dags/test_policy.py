"""Rules for every DAG, checked on the loaded DAGs."""

import json
import runpy
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import CronTriggerTimetable

DAGS = Path(__file__).resolve().parents[2] / "dags"
IDS = {
    "ingest_transactions", "build_features", "train_fraud_model", "promote_model", "rollback_model", "score_nightly",
    "monitor_drift", "monitor_skew", "expire_waivers", "reproduce_model", "apply_retention", "land_topics",
}  # fmt: skip
# Asset -> (DAGs that emit it, DAGs it starts), from the table in docs/architecture.md.
WIRING = {
    "delivery": ({"ingest_transactions"}, {"build_features"}),
    "labels": ({"ingest_transactions"}, {"train_fraud_model"}),
    "features": ({"build_features"}, {"score_nightly", "monitor_skew", "train_fraud_model"}),
    "candidate": ({"train_fraud_model"}, {"promote_model"}),
    "production_model": ({"promote_model", "rollback_model", "expire_waivers"}, {"score_nightly"}),
    "scores": ({"score_nightly"}, {"monitor_drift"}),
    "retraining_requested": ({"monitor_drift", "monitor_skew"}, {"train_fraud_model"}),
}


@pytest.fixture(scope="module")
def bag() -> Any:
    return DagBag(DAGS)


@pytest.fixture(params=sorted(IDS))
def dag(request: pytest.FixtureRequest, bag: Any) -> Any:
    return bag.dags[request.param]


def test_every_file_loads_and_the_dag_ids_are_the_frozen_ones(bag: Any) -> None:
    assert bag.import_errors == {}
    assert set(bag.dags) == IDS
    assert {path.stem for path in DAGS.glob("*.py")} == IDS


def test_the_doc_of_a_dag_has_the_sections_what_when_and_triage(dag: Any) -> None:
    for section in ("**What.**", "**When.**", "**Triage.**"):
        assert section in dag.doc_md
    assert dag.description


def test_a_dag_has_an_owner_tags_and_one_run_at_a_time(dag: Any) -> None:
    assert dag.owner == "ml-platform"
    assert "fraud" in dag.tags
    assert len(dag.tags) == 2
    assert dag.max_active_runs == 1
    assert dag.catchup is False


def test_a_new_installation_does_not_start_the_run_of_a_time_before_it(dag: Any) -> None:
    if isinstance(dag.timetable, CronTriggerTimetable):
        assert dag.timetable.run_immediately == timedelta(0)


def test_these_dags_and_no_others_have_a_cron_schedule(bag: Any) -> None:
    scheduled = {dag.dag_id for dag in bag.dags.values() if isinstance(dag.timetable, CronTriggerTimetable)}
    assert scheduled == {"ingest_transactions", "expire_waivers", "reproduce_model", "apply_retention"}


def test_every_task_has_retries_and_a_time_limit(dag: Any) -> None:
    for task in dag.tasks:
        if task.task_type == "OptionalApproval":
            assert task.response_timeout == timedelta(days=2)
            continue
        # training_set is also retried while build_features runs.
        assert task.retries == (8 if task.task_id == "training_set" else 3)
        assert task.execution_timeout == timedelta(hours=2)


@pytest.mark.parametrize(
    ("dag_id", "task_id", "pool"),
    [
        ("score_nightly", "score", "scoring"),
        ("monitor_drift", "request_retraining", "retraining"),
        ("monitor_skew", "request_retraining", "retraining"),
    ],
)
def test_a_task_that_must_not_run_twice_at_once_uses_a_pool_of_one_slot(
    bag: Any, dag_id: str, task_id: str, pool: str
) -> None:
    pools = json.loads((DAGS.parent / "services/airflow/pools.json").read_text())
    assert bag.dags[dag_id].get_task(task_id).pool == pool
    assert pools[pool]["slots"] == 1


def test_every_pool_of_a_task_is_defined(bag: Any) -> None:
    pools = json.loads((DAGS.parent / "services/airflow/pools.json").read_text())
    assert {task.pool for dag in bag.dags.values() for task in dag.tasks} - {"default_pool"} == set(pools)


def test_every_job_runs_through_the_job_operator(bag: Any) -> None:
    kinds = {task.task_type for dag in bag.dags.values() for task in dag.tasks}
    assert kinds == {"EmptyOperator", "FraudJobOperator", "OptionalApproval", "_PythonDecoratedOperator"}


def job_names() -> set[str]:
    """The keys of `fraud.job_list.JOBS`. Airflow's environment does not have the package `fraud` installed."""
    tables = runpy.run_path(str(DAGS.parent / "src/fraud/job_list.py"))
    return set(tables["JOBS"])


def test_every_job_that_a_dag_names_exists(bag: Any) -> None:
    tasks = [task for dag in bag.dags.values() for task in dag.tasks if task.task_type == "FraudJobOperator"]
    assert {task.job for task in tasks} <= job_names()


def assets_in(condition: Any) -> list[str]:
    if condition is None:
        return []
    parts = getattr(condition, "objects", None)
    return [condition.name] if parts is None else [name for part in parts for name in assets_in(part)]


def test_assets_connect_the_dags_as_documented(bag: Any) -> None:
    emitted: dict[str, set[str]] = {}
    started: dict[str, set[str]] = {}
    for dag in bag.dags.values():
        for task in dag.tasks:
            for asset in task.outlets:
                emitted.setdefault(asset.name, set()).add(dag.dag_id)
        for name in assets_in(getattr(dag.timetable, "asset_condition", None)):
            started.setdefault(name, set()).add(dag.dag_id)
    assert {name: (emitted[name], started[name]) for name in WIRING} == WIRING
    assert set(emitted) == set(started) == set(WIRING)


@pytest.mark.parametrize("dag_id", sorted(IDS))
def test_a_file_fits_on_a_screen(dag_id: str) -> None:
    assert len((DAGS / f"{dag_id}.py").read_text().splitlines()) <= 60


def test_parsing_imports_no_data_library() -> None:
    code = (
        "import sys, runpy, pathlib\n"
        f"[runpy.run_path(str(p)) for p in pathlib.Path({str(DAGS)!r}).glob('*.py')]\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    heavy = {"numpy", "pandas", "pyarrow", "mlflow", "sklearn", "torch", "pyspark", "feast", "evidently", "fraud"}
    parsed = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert not heavy & set(parsed.stdout.split())
