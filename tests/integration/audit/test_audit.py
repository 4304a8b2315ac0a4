"""What an auditor asks, against real servers: replay, receipt, reproduce, lineage and compare on one small data set.

The project is a Git repository of its own that holds these very files, so that there is a commit to check out.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import mlflow
import pyarrow as pa
import pytest
import structlog
import yaml
from tests.e2e.project import start_serving

from fraud import declaration_file
from fraud.audit import answers, receipt, replay, version_tree
from fraud.errors import RefusedError
from fraud.job import Context
from fraud.lake import catalog
from fraud.params import Params
from fraud.registry.model_versions import MODEL_NAME
from fraud.settings import Settings
from fraud.training import compare, reproduce

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[3]
PYTHON = ROOT / ".venv/ml/bin/python"
FRAUD = [str(PYTHON), "-c", "from fraud.cli import main; main()"]
PARAMS = {
    "split": {"train_days": 16, "gap_days": 7, "validation_days": 5, "holdout_days": 5},
    "costs": {"alerts_per_1000": 20},
    "training": {"bootstrap": 50, "mlp": {"max_epochs": 1}, "boosting": {"max_iter": 40}},
    "gates": {"min_holdout_rows": 200, "max_calibration_error": 0.1, "max_latency_us": 50_000},
}
WORLD = ("--days=50", "--users=400", "--seed=3", "--fraud-rate=0.04", "--hold-back-days=1")
COUNT = 1_000


def lay(over: dict[str, Any], under: dict[str, Any]) -> dict[str, Any]:
    return {
        **under,
        **{key: lay(value, under[key]) if isinstance(value, dict) else value for key, value in over.items()},
    }


def commit(project: Path, message: str) -> None:
    git = ["git", "-C", str(project), "-c", "user.name=ada", "-c", "user.email=ada@example.org"]
    subprocess.run([*git, "add", "--all"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message", message], check=True)


class World:
    """The project, its environment and jobs as processes of it."""

    def __init__(self, project: Path) -> None:
        self.project, self.home = project, project / "var"
        self.env = {**os.environ, "FRAUD_HOME": str(self.home), "FRAUD_PROJECT": str(project), "FRAUD_ACTOR": "ada",
                    "PYTHONPATH": str(project / "src")}  # fmt: skip

    def embedded(self, *arguments: str) -> None:
        subprocess.run([str(PYTHON), "-m", "fraud.embedded", *arguments], env=self.env, check=True, cwd=self.project)

    def fraud(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        done = subprocess.run([*FRAUD, *arguments, "--json"], env=self.env, check=False, stdout=subprocess.PIPE)
        assert done.returncode == code, done.stdout.decode()
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return result


def wait_for_version(url: str, version: str) -> None:
    """Wait until serving answers with a version: it looks for a promoted one every few seconds. Until then its answers
    are those of the rule."""
    deadline = time.monotonic() + 60
    while (found := httpx.get(f"{url}/ready", timeout=10).json().get("model_version")) != version:
        assert time.monotonic() < deadline, f"serving answers with {found}"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Trained, promoted, served and scored: at least COUNT answers of each kind."""
    project = tmp_path_factory.mktemp("project")
    leave_out = shutil.ignore_patterns("__pycache__", "*.egg-info", ".venv")
    for name in ("src", "services", "requirements", "feature_repo", "infra"):
        shutil.copytree(ROOT / name, project / name, ignore=leave_out)
    for name in ("Makefile", "pyproject.toml", ".gitignore"):
        shutil.copy(ROOT / name, project / name)
    (project / ".venv").symlink_to(ROOT / ".venv")
    params = lay(PARAMS, yaml.safe_load((ROOT / "params.yaml").read_text()))
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    with (project / ".gitignore").open("a") as file:
        file.write("\n.venv\n")
    subprocess.run(["git", "init", "--quiet", str(project)], check=True)
    commit(project, "a small world")
    made = World(project)
    try:
        made.embedded("up", "--free-ports", "--only", "valkey", "mlflow")
        start_serving(made.project, made.home)
        lines = (made.home / "stack.env").read_text().splitlines()
        made.env |= dict(line.split("=", 1) for line in lines)
        made.fraud("simulate", *WORLD)
        for job in (
            "ingest",
            "ingest-labels",
            "build-daily",
            "build-features",
            "materialize",
            "training-set",
            "train",
            "promote",
        ):
            made.fraud(job)
        port = json.loads((made.home / "stack.json").read_text())["ports"]["serving"]
        wait_for_version(f"http://127.0.0.1:{port}", "1")
        for source in ("landing/held_back", "landing/transactions"):
            made.fraud("traffic", f"--source={made.home / source}", f"--url=http://127.0.0.1:{port}",
                       f"--limit={COUNT}", "--rate=0")  # fmt: skip
        made.fraud("ship-predictions")
        made.fraud("score")
        yield made
    finally:
        made.embedded("down")


@pytest.fixture
def context(world: World, monkeypatch: pytest.MonkeyPatch) -> Context:
    """As a job of the world has it, in this process."""
    for name, value in world.env.items():
        if name.startswith(("FRAUD_", "MLFLOW_")):
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(world.project / "src"))
    mlflow.set_tracking_uri(world.env["FRAUD_MLFLOW_URL"])
    declaration = declaration_file.load_of(world.project)
    return Context(Settings.load(), Params.load(world.project / "params.yaml"), declaration, structlog.get_logger())


def test_a_thousand_answers_of_each_kind_come_out_equal_to_the_bit(context: Context) -> None:
    found = replay.run(replay.Config(newest=COUNT), context)
    print(found.as_text().splitlines()[-2:], found.as_recorded)
    assert found.equal == {"nightly": COUNT, "served": COUNT}
    assert found.recomputed == {"nightly": COUNT, "served": COUNT}
    assert (found.different, found.as_recorded) == ({}, {})


def test_a_thousand_receipts_of_each_kind_hold(context: Context) -> None:
    receipts = receipt.follow(answers.newest(context, COUNT), context)
    kinds = [one.kind for one in receipts]
    print(f"receipts: {kinds.count('served')} served, {kinds.count('nightly')} nightly")
    assert (kinds.count("served"), kinds.count("nightly")) == (COUNT, COUNT)
    assert {(one.problems, one.approved_by, one.git_dirty, one.gates) for one in receipts} == {
        ((), "ada", "false", "passed")
    }


def test_a_record_that_was_changed_afterwards_differs_in_replay(context: Context) -> None:
    lake = catalog.PREDICTIONS.at(context.settings.lake_uri)
    [day] = lake.partitions()[-1:]
    whole = lake.read(day)
    rows = whole.slice(0, 2).to_pylist()
    rows[0]["fraud_probability"] += 1e-9
    rows[1]["avg_amount_7d"] = 1.0
    lake.publish(day, pa.concat_tables([pa.Table.from_pylist(rows, schema=whole.schema), whole.slice(2)]))
    try:
        with pytest.raises(RefusedError, match="2 of 2 answers differ from their records") as refused:
            replay.run(replay.Config(ids=(rows[0]["prediction_id"], rows[1]["prediction_id"])), context)
    finally:
        lake.publish(day, whole)
    assert "fraud_probability" in refused.value.got
    assert "avg_amount_7d" in refused.value.got


def test_the_version_is_made_again_to_the_byte_from_the_lake_and_from_the_dvc_remote(
    world: World, context: Context
) -> None:
    (world.project / "params.yaml").write_text("not: what was committed\n")
    found = reproduce.run(reproduce.Config(version="production"), context)
    print(found.as_text())
    assert (found.equal, found.data, found.environment) == (True, "lake", "the current one")
    assert all(one.equal for one in (*found.inputs, *found.outputs))
    tags = mlflow.MlflowClient().get_model_version(MODEL_NAME, found.version).tags
    assert tags["reproduced"] == "equal"

    snapshot = world.home / "lake/training_sets" / f"snapshot={tags['snapshot']}"
    snapshot.rename(world.home / "aside")
    again = reproduce.run(reproduce.Config(version=found.version), context)
    assert (again.equal, again.data) == (True, "DVC remote")
    (world.home / "aside").rename(snapshot)


def test_with_a_changed_parameter_it_names_the_input(world: World) -> None:
    params = yaml.safe_load(subprocess.check_output(["git", "-C", str(world.project), "show", "HEAD:params.yaml"]))
    changed = lay({"split": {"train_days": 15}}, params)  # every level is fitted on them
    (world.project / "params.yaml").write_text(yaml.safe_dump(changed))
    refused = world.fraud("reproduce", "1", "--here", code=3)
    print(refused["got"])
    assert refused["message"] == "retraining version 1 gave another model"
    assert "split.train_days: 16 -> 15" in refused["got"]
    assert refused["hint"] == "these inputs differ: params"
    (world.project / "params.yaml").write_text(yaml.safe_dump(params))


def test_a_version_of_uncommitted_files_is_refused_before_anything_is_done(context: Context) -> None:
    client = mlflow.MlflowClient()
    client.set_model_version_tag(MODEL_NAME, "1", "git_dirty", "true")
    with pytest.raises(RefusedError, match="uncommitted files"):
        reproduce.run(reproduce.Config(version="1"), context)
    client.set_model_version_tag(MODEL_NAME, "1", "git_commit", "unknown")
    with pytest.raises(RefusedError, match="outside of a Git repository"):
        reproduce.run(reproduce.Config(version="1"), context)


def test_the_tree_names_every_link_and_two_versions_share_a_page(world: World, context: Context) -> None:
    changed = lay({"training": {"seed": 5}}, yaml.safe_load((world.project / "params.yaml").read_text()))
    (world.project / "params.yaml").write_text(yaml.safe_dump(changed))
    world.fraud("train")
    tree = version_tree.run(version_tree.Config(version="production"), context).as_text()
    for text in ("fraud-detector version 1 (production)", "model_sha256", "dvc_data_md5", "gates passed", "by ada",
                 "history verified", "nightly scores"):  # fmt: skip
        assert text in tree, text
    found = compare.run(compare.Config(first="1", second="2"), context)
    assert set(found.measures) >= {"average_precision", "auc", "saved_per_1000"}
    assert "seed" in found.inputs
    page = Path(found.report_uri.removeprefix("file://")).read_text()
    assert all(text in page for text in ("Precision over recall", "ROC", "Calibration", "Money saved", "may be noise"))
    assert "<script" not in page
    assert 'src="http' not in page
    card = mlflow.artifacts.load_text(f"runs:/{mlflow.MlflowClient().get_model_version(MODEL_NAME, '2').run_id}/"
                                      "report/model_card.md")  # fmt: skip
    for section in ("Intended use", "Data", "Metrics", "Slices", "Gates", "Limits", "Inputs"):
        assert f"## {section}\n" in card
