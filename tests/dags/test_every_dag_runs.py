"""Every DAG's tasks on a small simulation: real jobs, a real Valkey, a real MLflow, one Airflow in this process.

The order is that in which assets would start them. The figures below are those of the simulation.
"""

import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv/ml/bin/python"
# A split for a short simulation with a high fraud rate, and gates that its holdout of some forty frauds can pass.
PARAMS = {
    "split": {"train_days": 16, "gap_days": 7, "validation_days": 5, "holdout_days": 5},
    "costs": {"alerts_per_1000": 20},
    "training": {"bootstrap": 50, "mlp": {"max_epochs": 1}, "boosting": {"max_iter": 40}},
    "gates": {"min_holdout_rows": 200, "max_calibration_error": 0.1, "max_latency_us": 50_000},
    "drift": {"max_drifted_share": 1.0},
}  # fmt: skip
WORLD = ("--days=50", "--users=400", "--seed=3", "--fraud-rate=0.04", "--hold-back-days=1")


def write_params(project: Path, over: dict[str, Any]) -> None:
    """Write params.yaml with some values replaced."""
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
    subprocess.run([PYTHON, "-c", code, ROOT / "params.yaml", json.dumps(over), target], check=True)


def fraud(env: dict[str, str], *arguments: str) -> dict[str, Any]:
    """Run a job. Returns its result."""
    answer = subprocess.run(
        [env["FRAUD_COMMAND"], *arguments, "--json"], env={**os.environ, **env}, check=True, stdout=subprocess.PIPE
    )
    result: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return result


def serving_url(world: dict[str, str]) -> str:
    port = json.loads((Path(world["FRAUD_HOME"]) / "stack.json").read_text())["ports"]["serving"]
    return f"http://127.0.0.1:{port}"


def served_version(world: dict[str, str]) -> str:
    try:
        with urllib.request.urlopen(f"{serving_url(world)}/model", timeout=10) as answer:  # noqa: S310 - our own
            return str(json.load(answer)["model_version"])
    except urllib.error.HTTPError as error:
        return f"none ({error.code})"


def wait_for_version(world: dict[str, str], version: str) -> None:
    """Wait until serving answers with a version. Fails after two minutes."""
    deadline = time.monotonic() + 120
    while (found := served_version(world)) != version:
        assert time.monotonic() < deadline, f"serving stays at version {found}"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Iterator[dict[str, str]]:
    """The environment of a separate project with running stores and data in its landing zone."""
    project = tmp_path_factory.mktemp("project")
    for name in ("dags", "plugins", "feature_repo", "services", "infra", "src", ".venv", "requirements", "mappings"):
        if (ROOT / name).exists():
            (project / name).symlink_to(ROOT / name)
    write_params(project, PARAMS)
    env = {**os.environ, "FRAUD_HOME": str(project / "var"), "FRAUD_PROJECT": str(project)}
    stack = [str(PYTHON), "-m", "fraud.embedded"]
    try:
        subprocess.run([*stack, "up", "--free-ports", "--only", "valkey", "mlflow", "serving"], env=env, check=True)
        lines = (project / "var/stack.env").read_text().splitlines()
        env |= dict(line.split("=", 1) for line in lines)
        fraud(env, "simulate", *WORLD)
        yield {
            name: value for name, value in env.items() if name.startswith(("FRAUD_", "MLFLOW_", "SPARK_", "PYSPARK_"))
        }
    finally:
        subprocess.run([*stack, "down"], env=env, check=True)
        shutil.rmtree(project, ignore_errors=True)


@pytest.fixture(scope="module")
def airflow(world: dict[str, str]) -> Iterator[Any]:
    """A function that runs a DAG and returns its tasks' states."""
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(ROOT / "dags")

    def run(dag_id: str, **conf: Any) -> dict[str, str]:
        finished = bag.dags[dag_id].test(logical_date=None, run_conf=conf)
        return {task.task_id: str(task.state) for task in finished.get_task_instances()}

    with pytest.MonkeyPatch.context() as patch:
        for name, value in world.items():
            patch.setenv(name, value)
        yield run


@pytest.mark.timeout(900)  # some twenty jobs, most of which start a JVM
def test_every_dag_runs_in_the_order_of_the_assets(airflow: Any, world: dict[str, str]) -> None:
    """One test, because each step needs the result of the one before."""
    assert airflow("score_nightly") == {"production_model": "skipped", "score": "skipped", "consistency": "skipped"}
    tasks = ("ingest", "ingest_labels", "delivery")
    for state in ("success", "skipped"):
        assert airflow("ingest_transactions", feed="all") == {**dict.fromkeys(tasks, state), "complete": "success"}
    built = {"build_daily": "success", "build_features": "success", "materialize": "success"}
    assert airflow("build_features") == built
    assert airflow("build_features") == {**built, "build_features": "skipped"}
    trained = {"training_set": "success", "train": "success", "candidate": "success"}
    assert airflow("train_fraud_model") == trained
    without_approval = {"gates": "success", "approval": "skipped", "reject": "skipped"}
    assert airflow("promote_model") == {**without_approval, "promote": "success"}
    # It is Production already. If this counted as a change, retraining on unchanged data would repeat without end.
    assert airflow("promote_model", version="1") == {**without_approval, "promote": "skipped"}
    wait_for_version(world, "1")

    home = Path(world["FRAUD_HOME"])
    sent = fraud(world, "traffic", f"--source={home / 'landing/held_back'}", f"--url={serving_url(world)}")
    assert sent["answered"] == sent["sent"] > 100
    checked = {"ship_predictions": "success", "skew": "success", "request_retraining": "skipped"}
    assert airflow("monitor_skew") == checked
    again = subprocess.run(
        [PYTHON, Path(__file__).with_name("pyfunc_agrees.py")],
        env={**os.environ, **world},
        check=True,
        stdout=subprocess.PIPE,
    )
    agreed = json.loads(again.stdout.splitlines()[-1])
    assert agreed["compared"] >= sent["answered"]
    assert agreed["largest"] <= 1e-6
    # The served transactions were not delivered, so there is no row to compare.
    scored = {"production_model": "success", "score": "success", "consistency": "skipped"}
    assert airflow("score_nightly") == scored
    assert airflow("monitor_drift") == {"drift": "success", "concept_drift": "success", "request_retraining": "skipped"}

    # A simulation that ends today has no expired data.
    assert airflow("apply_retention") == {"apply_retention": "success"}

    # Another seed gives another version that is not better than the one before: it needs an approval with a waiver.
    write_params(Path(world["FRAUD_PROJECT"]), {**PARAMS, "training": {**PARAMS["training"], "seed": 2}})
    assert airflow("train_fraud_model") == {**trained, "candidate": "skipped"}
    shown = fraud(world, "gates", "2")
    assert (shown["champion"], shown["production"], shown["failed_gates"]) == ("1", "1", ["better_than_production"])
    waiver = [
        "--waive=better_than_production",
        "--waiver-reason=a drill of the rollback",
        "--waiver-expires=2999-01-01",
    ]
    fraud(world, "promote", "--version=2", *waiver)
    wait_for_version(world, "2")
    assert airflow("rollback_model") == {"rollback": "success"}
    wait_for_version(world, "1")
    assert [row["action"] for row in fraud(world, "history")["changes"]] == ["promote", "promote", "rollback"]
