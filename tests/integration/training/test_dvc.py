"""dvc.yaml: its commands are jobs that exist; in a clone with a tiny world, `dvc repro` reruns what changed alone."""

import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import pytest
import yaml
from dvc.repo import Repo

from fraud.embedded.servers import mlflow_server
from fraud.job_list import JOBS
from fraud.training import model_inputs
from fraud.training.dvc import pipeline

ROOT = Path(__file__).resolve().parents[3]
BIN = Path(sys.executable).parent
STAGES = ["simulate", "ingest", "build_features", "training_set", "train", "evaluate"]


def commands() -> list[str]:
    """Every command as DVC will run it, variables filled in."""
    with Repo(str(ROOT)) as repo:
        return [
            line for stage in repo.index.stages for line in ([stage.cmd] if isinstance(stage.cmd, str) else stage.cmd)
        ]


def test_every_command_is_a_job_with_flags_it_has() -> None:
    names = []
    for command in commands():
        if command.startswith("mkdir -p "):
            continue
        words = shlex.split(re.sub(r"\$\(.*?\)", "1", command))
        words = words[words.index("fraud") + 1 :]
        name, flags = words[0], [word.removeprefix("--") for word in words[1:] if word.startswith("--")]
        module = importlib.import_module(JOBS[name].module)
        assert name in JOBS
        assert {flag.replace("-", "_") for flag in flags} <= module.Config.model_fields.keys()
        names.append(name)
    assert names == [
        "simulate", "ingest", "ingest-labels", "build-daily", "build-features", "training-set", "train", "evaluate",
    ]  # fmt: skip


def test_the_stages_depend_on_the_code_of_their_jobs() -> None:
    text = (ROOT / "dvc.yaml").read_text()
    current = pipeline.with_code(text, ROOT / "src/fraud")
    assert text == current, "python -m fraud.training.dvc.pipeline writes dvc.yaml"
    stages = yaml.safe_load(text)["stages"]
    assert list(stages) == STAGES
    files = {name: {d for d in stage["deps"] if "${" not in d} for name, stage in stages.items()}
    assert {d for found in files.values() for d in found if not (ROOT / d).exists()} == set()
    assert {"src/fraud/stats/costs.py", "src/fraud/scoring/onnx_session.py"} <= files["train"]
    assert not files["train"] & {"src/fraud/training/evaluate.py", "src/fraud/stats/gates.py"}
    assert {"src/fraud/stats/gates.py", "src/fraud/training/gate_report.html.j2"} <= files["evaluate"]
    assert tuple(stages["train"]["params"]) == model_inputs.TRAINING_PARAMS


def test_a_push_that_changes_the_code_of_a_stage_starts_the_workflow() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/retrain.yml").read_text())
    triggers = workflow[True]  # YAML 1.1 reads the key `on` as true
    patterns = [path for path in triggers["push"]["paths"] if path.startswith("src/")]
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].values()
    files = {d for stage in stages for d in stage["deps"] if d.startswith("src/")}
    started = {pattern: {file for file in files if _matches(file, pattern)} for pattern in patterns}
    assert set().union(*started.values()) == files
    assert [pattern for pattern, found in started.items() if not found] == []


def _matches(file: str, pattern: str) -> bool:
    """GitHub's path patterns, as far as this workflow uses them: `*` stops at a slash, a final `**` does not."""
    if pattern.endswith("/**"):
        return file.startswith(pattern.removesuffix("**"))
    return PurePath(file).match(pattern) and file.count("/") == pattern.count("/")


SMALL: Mapping[str, Any] = {
    "training": {"bootstrap": 50, "boosting": {"max_iter": 40}, "mlp": {"max_epochs": 1}},
    "split": {"train_days": 30, "gap_days": 3, "validation_days": 10, "holdout_days": 10},
    "gates": {"max_latency_us": 50000.0},
}


class Clone:
    """The project's committed and uncommitted files in a Git repository of its own, with a small world."""

    def __init__(self, folder: Path, server: mlflow_server.Server) -> None:
        self.folder = folder
        listed = subprocess.run(
            ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        for name in listed.stdout.split("\0"):
            if name.startswith(
                (".dvc", "dvc.yaml", "params.yaml", "src/", "feature_repo/", "requirements/", "pyproject")
            ):
                if not (ROOT / name).is_file():
                    continue
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, folder / name)
        (folder / ".gitignore").write_text("var/\n__pycache__/\n")
        (folder / "dvc.yaml").write_text(
            (folder / "dvc.yaml").read_text().replace("days: 150, users: 1500", "days: 75, users: 200")
        )
        self.edit_params(SMALL)
        self.environment = {
            **os.environ, **server.client_environment(), "FRAUD_MLFLOW_URL": server.url, "FRAUD_PROJECT": str(folder),
            "FRAUD_HOME": str(folder / "var"), "PYTHONPATH": str(folder / "src"), "PYTHONDONTWRITEBYTECODE": "1",
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "GIT_CONFIG_GLOBAL": os.devnull,
        }  # fmt: skip
        self.run("git", "init", "--quiet")
        self.commit("start")

    def run(self, *command: str) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def commit(self, message: str) -> None:
        self.run("git", "add", "--all")
        self.run(
            "git",
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@example.org",
            "commit",
            "--quiet",
            "--allow-empty",
            "-m",
            message,
        )

    def edit_params(self, changes: Mapping[str, Any]) -> None:
        path = self.folder / "params.yaml"
        path.write_text(yaml.safe_dump(_merged(yaml.safe_load(path.read_text()), changes), sort_keys=False))

    def repro(self) -> list[str]:
        """The stages that ran."""
        return re.findall(r"^Running stage '(\w+)'", self.run("dvc", "repro"), re.MULTILINE)


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(base)
    for key, value in changes.items():
        found[key] = _merged(found[key], value) if isinstance(value, Mapping) else value
    return found


@pytest.mark.long
@pytest.mark.timeout(900)
def test_repro_reruns_what_changed_alone(tmp_path: Path) -> None:
    with mlflow_server.running(tmp_path / "mlflow") as server:
        folder = tmp_path / "clone"
        folder.mkdir()
        clone = Clone(folder, server)
        assert clone.repro() == STAGES
        clone.commit("first")
        assert clone.repro() == []

        with (folder / "src/fraud/stats/gates.py").open("a") as file:
            file.write("# a remark\n")
        assert clone.repro() == ["evaluate"]
        clone.commit("evaluation code")

        clone.edit_params({"training": {"logistic": {"c": 0.5}}})
        assert clone.repro() == ["train", "evaluate"]
        clone.commit("a parameter of training")

        clone.edit_params({"labels": {"maturity_days": 8}})
        assert clone.repro() == ["training_set", "train", "evaluate"]

        difference = json.loads(clone.run("dvc", "metrics", "diff", "HEAD~1", "HEAD", "--json"))
        [figures] = difference.values()
        assert "diff" in figures["levels.1-logistic.average_precision"]
        clone.run("dvc", "plots", "diff", "HEAD~1", "HEAD", "--out", "var/plots")
        assert "Precision over recall" in (folder / "var/plots/index.html").read_text()

        clone.commit("another training set")
        clone.run("dvc", "push")
        model = folder / "var/pipeline/model/model.onnx"
        before = model.read_bytes()
        shutil.rmtree(folder / "var/pipeline")
        shutil.rmtree(folder / ".dvc/cache")
        clone.run("dvc", "pull")
        assert model.read_bytes() == before
        assert clone.repro() == []
        assert clone.run("git", "status", "--porcelain") == ""
