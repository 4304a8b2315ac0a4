"""Every DAG's tasks for real, on a tiny world: real jobs, a real Valkey, a real MLflow, one Airflow in this process.

The order is the one in which assets would start them. The figures below are those of the simulated world.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv/ml/bin/python"
# A split that a short world fills: 12 + 2 + 5 + 2 + 5 days, and gates that so few frauds can pass.
PARAMS = {
    "labels": {"maturity_days": 2},
    "split": {"train_days": 16, "gap_days": 1, "validation_days": 5, "holdout_days": 5},
    "training": {"bootstrap": 50, "mlp": {"max_epochs": 2}, "boosting": {"max_iter": 40}},
    "gates": {
        "min_holdout_rows": 200, "min_holdout_frauds": 3, "min_average_precision_lift": 1.0,
        "max_calibration_error": 1.0, "max_latency_us": 50_000, "max_quarantine_rate": 0.2,
    },
    "drift": {"max_drifted_share": 1.0},
}  # fmt: skip


def small_params(project: Path) -> None:
    """params.yaml as it is, with the values above."""
    code = (
        "import json, sys, yaml\n"
        "values = yaml.safe_load(open(sys.argv[1]))\n"
        "def lay(over, under):\n"
        "    for key, value in over.items():\n"
        "        if isinstance(value, dict): lay(value, under[key])\n"
        "        else: under[key] = value\n"
        "lay(json.loads(sys.argv[2]), values)\n"
        "yaml.safe_dump(values, open(sys.argv[3], 'w'))\n"
    )
    target = project / "params.yaml"
    subprocess.run([PYTHON, "-c", code, ROOT / "params.yaml", json.dumps(PARAMS), target], check=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, database: None) -> Iterator[dict[str, str]]:
    """A project beside this one, its stores running, its landing zone filled; yields its environment."""
    project = tmp_path_factory.mktemp("project")
    for name in ("dags", "plugins", "feature_repo", "services", "infra", "src", ".venv", "requirements", "mappings"):
        if (ROOT / name).exists():
            (project / name).symlink_to(ROOT / name)
    small_params(project)
    env = {**os.environ, "FRAUD_HOME": str(project / "var"), "FRAUD_PROJECT": str(project)}
    stack = [str(PYTHON), "-m", "fraud.embedded"]
    try:
        subprocess.run([*stack, "up", "--only", "valkey", "mlflow"], env=env, check=True)
        lines = (project / "var/stack.env").read_text().splitlines()
        env |= dict(line.split("=", 1) for line in lines)
        simulate = ["simulate", "--days=40", "--users=150", "--seed=3", "--fraud-rate=0.04", "--hold-back-days=1"]
        subprocess.run([env["FRAUD_COMMAND"], *simulate], env=env, check=True)
        yield {
            name: value for name, value in env.items() if name.startswith(("FRAUD_", "MLFLOW_", "SPARK_", "PYSPARK_"))
        }
    finally:
        subprocess.run([*stack, "down"], env=env, check=True)
        shutil.rmtree(project, ignore_errors=True)


@pytest.fixture(scope="module")
def airflow(world: dict[str, str]) -> Iterator[Any]:
    """Runs a DAG to its end; gives its tasks' states."""
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(ROOT / "dags")

    def run(dag_id: str, **conf: Any) -> dict[str, str]:
        finished = bag.dags[dag_id].test(logical_date=None, run_conf=conf)
        return {task.task_id: str(task.state) for task in finished.get_task_instances()}

    with pytest.MonkeyPatch.context() as patch:
        for name, value in world.items():
            patch.setenv(name, value)
        yield run


def test_every_dag_does_its_part(airflow: Any) -> None:
    assert airflow("score_nightly") == {"production_model": "skipped", "score": "skipped"}
    assert airflow("ingest_transactions", feed="all") == {"ingest": "success", "ingest_labels": "success"}
    assert airflow("ingest_transactions", feed="all") == {"ingest": "skipped", "ingest_labels": "skipped"}
    assert airflow("build_features") == {"build_features": "success", "materialize": "success"}
    assert airflow("build_features") == {"build_features": "skipped", "materialize": "success"}
    # Five frauds in the holdout prove nothing: the gates refuse.
    assert airflow("train_fraud_model") == {"training_set": "success", "train": "success", "candidate": "skipped"}
