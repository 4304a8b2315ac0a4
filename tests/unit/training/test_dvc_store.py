"""Folders in a DVC remote: what we push `dvc pull` brings back, what `dvc push` pushed we bring back."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from fraud.errors import RefusedError, UnavailableError
from fraud.lake import catalog
from fraud.training.dvc import data_versions

DVC = Path(sys.executable).with_name("dvc")


def test_the_md5_is_that_of_dvcs_listing(folder: Path, tmp_path: Path) -> None:
    stored = data_versions.push(f"file://{tmp_path}/remote", folder)
    files = {"a.txt": b"a\n", "inner/b.txt": b"b\n"}
    listing = [{"md5": hashlib.md5(data).hexdigest(), "relpath": name} for name, data in files.items()]  # noqa: S324
    assert stored.md5 == hashlib.md5(json.dumps(listing).encode()).hexdigest() + ".dir"  # noqa: S324
    assert (stored.files, stored.bytes) == (2, 4)
    assert data_versions.push(f"file://{tmp_path}/remote", folder) == stored
    assert (folder / "a.txt").read_text() == "a\n"


def dvc(project: Path, *arguments: str) -> None:
    subprocess.run([DVC, *arguments, "--quiet"], cwd=project, check=True, capture_output=True)


def test_dvc_pull_restores_what_is_kept_and_dvc_gc_removes_the_rest(folder: Path, tmp_path: Path) -> None:
    remote, project = f"file://{tmp_path}/remote", tmp_path / "kept"
    kept = data_versions.push(remote, folder).md5
    (folder / "a.txt").write_text("another\n")
    old = data_versions.push(remote, folder).md5
    data_versions.write_pointers(project, remote, {"models/1": old})
    data_versions.write_pointers(project, remote, {"models/2": kept})
    dvc(project, "gc", "--workspace", "--cloud", "--force")
    with pytest.raises(RefusedError, match="has no"):
        data_versions.pull(remote, old, tmp_path / "back")
    dvc(project, "pull")
    assert (project / "models/2/a.txt").read_text() == "a\n"
    assert (project / "models/2/inner/b.txt").read_text() == "b\n"
    assert not (project / "models/1").exists()


def test_a_partition_comes_back_as_a_partition(tmp_path: Path) -> None:
    dataset = catalog.TRAINING_SETS.at(f"file://{tmp_path}/lake")
    table = pa.table({"x": [1, 2, 3]})
    partition = dataset.publish("s1", table, {"cut_off": "2026-03-01"})
    remote = f"file://{tmp_path}/remote"
    stored = data_versions.push_partition(remote, dataset, partition)
    other = catalog.TRAINING_SETS.at(f"file://{tmp_path}/other")
    data_versions.pull_partition(remote, stored.md5, other)
    other.verify("s1")
    assert other.read("s1").equals(table)
    assert other.partition("s1") == partition


@pytest.mark.parametrize("broken", ["listing", "file"])
def test_a_changed_object_is_refused(folder: Path, tmp_path: Path, broken: str) -> None:
    remote = tmp_path / "remote"
    stored = data_versions.push(f"file://{remote}", folder)
    listing = remote / "files/md5" / stored.md5[:2] / stored.md5[2:]
    a = hashlib.md5(b"a\n").hexdigest()  # noqa: S324
    path = listing if broken == "listing" else remote / "files/md5" / a[:2] / a[2:]
    path.chmod(0o644)
    path.write_text(listing.read_text().replace("a.txt", "../a.txt") if broken == "listing" else "z\n")
    with pytest.raises(RefusedError, match="were changed"):
        data_versions.pull(f"file://{remote}", stored.md5, tmp_path / "back")
    assert not (tmp_path / "a.txt").exists()


def test_a_missing_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="has no"):
        data_versions.pull(f"file://{tmp_path}/remote", "0" * 32 + ".dir", tmp_path / "back")
    (tmp_path / "taken").write_text("a file where the remote should be")
    with pytest.raises(UnavailableError):
        data_versions.push(f"file://{tmp_path}/taken", folder)
