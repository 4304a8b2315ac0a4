"""Fingerprints: equal inputs, equal hash, wherever they lie; any change of an input shows."""

import shutil
import subprocess
from pathlib import Path

import pytest

from fraud.lake import git
from fraud.lake.dataset import DataObject, Manifest
from fraud.params import Params
from fraud.training import model_inputs

ROOT = Path(__file__).resolve().parents[3]
PARAMS = Params.load(ROOT / "params.yaml")


def manifest(content: str = "1") -> Manifest:
    whole = DataObject(name="a.parquet", rows=1, bytes=1, sha256=content * 64)
    return Manifest(dataset="training_sets", partition="s", rows=1, objects=(whole,), made_from={})


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "requirements", tmp_path / "one/requirements")
    return tmp_path / "one"


def fingerprint(project: Path, params: Params = PARAMS, content: str = "1") -> str:
    return model_inputs.fingerprint(model_inputs.inputs(manifest(content), params, project))


def test_the_folder_and_its_git_state_do_not_matter(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project, tmp_path / "two")
    (tmp_path / "two/COMMIT").write_text("c0ffee\n")
    assert fingerprint(project) == fingerprint(tmp_path / "two")
    assert git.commit_of(tmp_path / "two") == {"git_commit": "c0ffee", "git_dirty": "false"}
    (tmp_path / "two/COMMIT").write_text("c0ffee-dirty\n")
    assert git.commit_of(tmp_path / "two") == {"git_commit": "c0ffee", "git_dirty": "true"}


def test_data_parameters_and_locks_matter_and_bounds_of_gates_do_not(project: Path) -> None:
    before = fingerprint(project)
    assert fingerprint(project, content="2") != before
    seeded = PARAMS.model_copy(update={"training": PARAMS.training.model_copy(update={"seed": 1})})
    assert fingerprint(project, seeded) != before
    stricter = PARAMS.model_copy(update={"gates": PARAMS.gates.model_copy(update={"max_latency_us": 1.0})})
    assert fingerprint(project, stricter) == before
    (project / "requirements/ml.txt").write_text("another lock\n")
    assert fingerprint(project) != before


def test_a_tag_is_set_once_and_never_moved(tmp_path: Path) -> None:
    command = ["git", "-C", str(tmp_path), "-c", "user.name=ada", "-c", "user.email=ada@example.org"]
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    commits = []
    for message in ("first", "second"):
        subprocess.run([*command, "commit", "--quiet", "--allow-empty", "--message", message], check=True)
        commits.append(git.commit_of(tmp_path)["git_commit"])
    subprocess.run([*command, "tag", "--annotate", "--message", "one", "model-v1", commits[0]], check=True)
    assert git.tag(tmp_path, "model-v1", commits[0], "one") == ""
    assert git.tag(tmp_path, "model-v1", commits[1], "one") == f"tag model-v1 names {commits[0]} already"
    assert "fatal" in git.tag(tmp_path, "model-v2", "unknown", "two")


def test_outside_of_git_the_commit_is_unknown(tmp_path: Path) -> None:
    assert git.commit_of(tmp_path) == {"git_commit": "unknown", "git_dirty": "unknown"}
