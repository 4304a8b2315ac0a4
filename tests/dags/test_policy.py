"""Rules that every DAG keeps. They are read from the loaded DAGs, not from the files' text."""

import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag

DAGS = Path(__file__).resolve().parents[2] / "dags"
IDS = {
    "ingest_transactions", "build_features", "train_fraud_model", "promote_model", "rollback_model", "score_nightly",
    "monitor_drift", "monitor_skew", "expire_waivers", "reproduce_model", "apply_retention",
}  # fmt: skip
# Asset -> (DAGs that emit it, DAGs it starts), from the table in docs/architecture.md.
WIRING = {
    "transactions": ({"ingest_transactions"}, {"build_features"}),
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


def test_every_file_loads_and_the_ids_are_the_frozen_ones(bag: Any) -> None:
    assert bag.import_errors == {}
    assert set(bag.dags) == IDS
    assert {path.stem for path in DAGS.glob("*.py")} == IDS


def test_a_dag_says_what_when_and_what_to_do_when_it_fails(dag: Any) -> None:
    for section in ("**What.**", "**When.**", "**Triage.**"):
        assert section in dag.doc_md
    assert dag.description


def test_a_dag_has_an_owner_tags_and_one_run_at_a_time(dag: Any) -> None:
    assert dag.owner == "ml-platform"
    assert "fraud" in dag.tags
    assert len(dag.tags) == 2
    assert dag.max_active_runs == 1
    assert dag.catchup is False


def test_every_task_is_tried_again_and_has_a_limit(dag: Any) -> None:
    for task in dag.tasks:
        if task.task_type == "OptionalApproval":
            assert task.response_timeout == timedelta(days=2)
            continue
        assert task.retries == 3
        assert task.execution_timeout == timedelta(hours=2)


@pytest.mark.parametrize(
    ("dag_id", "task_id", "pool"),
    [
        ("score_nightly", "score", "scoring"),
        ("monitor_drift", "request_retraining", "retraining"),
        ("monitor_skew", "request_retraining", "retraining"),
    ],
)
def test_what_runs_one_at_a_time_takes_its_slot_from_a_pool_that_every_stack_makes(
    bag: Any, dag_id: str, task_id: str, pool: str
) -> None:
    assert bag.dags[dag_id].get_task(task_id).pool == pool
    assert f"airflow pools set {pool} 1 " in (DAGS.parent / "services/airflow/prepare.sh").read_text()
    assert f'("{pool}", "' in (DAGS.parent / "src/fraud/embedded/services.py").read_text()


def test_every_job_runs_through_the_one_operator(bag: Any) -> None:
    kinds = {task.task_type for dag in bag.dags.values() for task in dag.tasks}
    assert kinds == {"FraudJobOperator", "OptionalApproval", "_PythonDecoratedOperator"}


def test_every_job_that_a_dag_names_exists(bag: Any) -> None:
    jobs = set(
        re.findall(r'^    "([a-z-]+)": Job\(', (DAGS.parent / "src/fraud/job_list.py").read_text(), re.MULTILINE)
    )
    for dag in bag.dags.values():
        for task in dag.tasks:
            if task.task_type == "FraudJobOperator":
                assert task.job in jobs


def assets_in(condition: Any) -> list[str]:
    if condition is None:
        return []
    parts = getattr(condition, "objects", None)
    return [condition.name] if parts is None else [name for part in parts for name in assets_in(part)]


def test_assets_tie_the_dags_as_the_architecture_says(bag: Any) -> None:
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
