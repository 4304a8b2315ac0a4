"""Fingerprints: equal inputs, equal hash, wherever they lie; any change of an input shows."""

import shutil
import subprocess
from pathlib import Path

import pytest

from fraud import declaration_file
from fraud.core.declaration import Declaration
from fraud.errors import BadConfigError
from fraud.lake import git
from fraud.lake.objects import DataObject
from fraud.lake.records import Partition
from fraud.params import Params
from fraud.training import model_inputs
from fraud.training.import_closure import closure

ROOT = Path(__file__).resolve().parents[3]
PARAMS = Params.load(ROOT / "params.yaml")
THREE = declaration_file.load(ROOT / "tests/declarations/three.yaml")

DECIDING = {
    "core/contract.py", "core/declaration.py", "core/plan.py", "core/rule.py", "core/vector.py",
    "features/engines/arrow_vector.py",
    "lake/dataset.py", "params.py", "registry/model_folder.py", "registry/training_runs.py",
    "scoring/onnx_session.py", "stats/comparison.py", "stats/costs.py", "stats/metrics.py", "stats/split.py",
    "training/ladder/bins.py", "training/ladder/boosting.py", "training/ladder/logistic.py", "training/ladder/mlp.py",
    "training/ladder/rule.py", "training/ladder/search.py", "training/train.py", "training/training_data.py",
}  # fmt: skip
NOT_DECIDING = {
    "cli.py", "features/build_features.py", "monitoring/drift.py", "printing.py",
    "stats/gates.py", "training/evaluate.py", "training/gate_report.html.j2", "training/gate_report.py",
    "training/plots.py",
}  # fmt: skip


def snapshot(content: str = "1") -> Partition:
    whole = DataObject(name="a.parquet", rows=1, bytes=1, sha256=content * 64, columns=())
    return Partition(name="s", objects=(whole,))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "requirements", tmp_path / "one/requirements")
    return tmp_path / "one"


def fingerprint(project: Path, params: Params = PARAMS, content: str = "1", declaration: Declaration = THREE) -> str:
    return model_inputs.fingerprint(model_inputs.inputs(snapshot(content), params, project, declaration))


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


def test_a_project_without_lock_files_is_refused(project: Path) -> None:
    shutil.rmtree(project / "requirements")
    with pytest.raises(BadConfigError, match="lock files are missing"):
        fingerprint(project)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "src/fraud", tmp_path / "fraud", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "fraud"


def test_one_byte_of_any_file_that_training_needs_changes_the_code_hash(package: Path) -> None:
    before = model_inputs.code_sha256(package)
    files = closure(package, ["fraud.training.train"], model_inputs.LEFT_OUT)
    assert {str(file.relative_to(package)) for file in files} >= DECIDING
    for file in files:
        content = file.read_bytes()
        file.write_bytes(content + b"\n")
        assert model_inputs.code_sha256(package) != before, file
        file.write_bytes(content)
    assert model_inputs.code_sha256(package) == before


def test_no_file_outside_of_the_closure_changes_the_code_hash(package: Path) -> None:
    before = model_inputs.code_sha256(package)
    covered = set(closure(package, ["fraud.training.train"], model_inputs.LEFT_OUT))
    others = {file for file in package.rglob("*") if file.is_file()} - covered
    assert {str(file.relative_to(package)) for file in others} >= NOT_DECIDING
    for file in others:
        file.write_bytes(file.read_bytes() + b"\n")
    assert model_inputs.code_sha256(package) == before


def test_a_new_import_of_the_training_job_changes_the_closure(package: Path) -> None:
    (package / "stats/new.py").write_text("LIMIT = 1\n")
    with (package / "training/ladder/boosting.py").open("a") as file:
        file.write("\n\ndef limit() -> int:\n    from fraud.stats.new import LIMIT\n\n    return LIMIT\n")
    before = model_inputs.code_sha256(package)
    (package / "stats/new.py").write_text("LIMIT = 2\n")
    assert model_inputs.code_sha256(package) != before


def test_what_is_left_out_is_imported_by_the_training_job(package: Path) -> None:
    files = set(closure(package, ["fraud.training.train"]))
    for module in model_inputs.LEFT_OUT:
        assert package.joinpath(*module.split(".")[1:]).with_suffix(".py") in files, module


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
