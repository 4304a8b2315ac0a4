"""Commands of the Makefile: the source of torch, and values with arbitrary characters."""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
AWKWARD = 'it\'s $5 "off" $(HOME) `id` 50%; a\\b & c.csv'


def make(*arguments: str, **variables: str) -> str:
    """Standard output of make. Of the variables that the Makefile reads, only the given ones are set."""
    ours = {"PIP_FIND_LINKS", "TORCH_INDEX", "SOURCE", "MAPPING", "MAKEFLAGS", "MFLAGS", "MAKELEVEL"}
    env = {name: value for name, value in os.environ.items() if name not in ours}
    done = subprocess.run(
        ["make", "--no-print-directory", *arguments], cwd=ROOT, env={**env, **variables}, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def torch_line(**variables: str) -> str:
    """The command that would install torch."""
    lines = make("--dry-run", "--always-make", ".venv/ml/.ready", **variables).splitlines()
    (found,) = (line for line in lines if "requirements/torch.txt" in line)
    return found


@pytest.mark.skipif(
    (platform.system(), platform.machine()) != ("Linux", "x86_64"), reason="elsewhere the public wheel is a CPU build"
)
def test_without_a_variable_torch_comes_from_uvs_cpu_index_checked_by_hash() -> None:
    line = torch_line()
    assert "uv pip install" in line
    assert "--torch-backend=cpu" in line
    assert "--require-hashes" in line
    assert "--no-deps" in line
    # The pin that the sed command of that line writes.
    program = re.findall(r"sed '([^']*)'", line)[0]
    lock = subprocess.run(
        ["sed", program, "requirements/torch.txt"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    (pin,) = re.findall(r"^torch==(\S+) \\$", lock, re.MULTILINE)
    assert re.fullmatch(r"\d+\.\d+\.\d+\+cpu", pin)
    assert lock.count("--hash=sha256:") == (ROOT / "requirements/torch.txt").read_text().count("--hash=sha256:")


def test_a_folder_comes_before_an_index_and_both_before_the_backend() -> None:
    folder = torch_line(PIP_FIND_LINKS="/wheels", TORCH_INDEX="http://index.invalid/cpu")
    assert "pip --python" in folder
    assert "--no-index" in folder
    assert "index.invalid" not in folder
    index = torch_line(TORCH_INDEX="http://index.invalid/cpu")
    assert "--index-url http://index.invalid/cpu" in index
    for line in (folder, index):
        assert "--require-hashes" in line
        assert "torch-backend" not in line


def test_the_airflow_image_installs_torch_in_the_same_order() -> None:
    dockerfile = (ROOT / "services/airflow/Dockerfile").read_text()
    places = ["--no-index --find-links /context/build/wheels", '--index-url "$TORCH_INDEX"', "--torch-backend=cpu"]
    positions = [dockerfile.index(place) for place in places]
    assert positions == sorted(positions)
    assert "sed 's/^torch==[0-9.]*/&+cpu/' /tmp/torch.txt" in dockerfile


@pytest.mark.parametrize("given", ["command line", "environment"])
def test_a_source_is_passed_to_the_demo_unchanged(tmp_path: Path, given: str) -> None:
    program = tmp_path / "arguments"
    program.write_text(f"#!{sys.executable}\nimport sys\nprint(ascii(sys.argv[1:]))\n")
    program.chmod(0o755)
    arguments = ["--old-file=setup", "--old-file=system", "demo", f"EMBEDDED={program}"]
    values = {"SOURCE": AWKWARD, "MAPPING": "a 'b'.yaml"}
    printed = (
        make(*arguments, *(f"{name}={value}" for name, value in values.items()))
        if given == "command line"
        else make(*arguments, **values)
    )
    assert printed == ascii(["demo", "--source", AWKWARD, "--mapping", "a 'b'.yaml"]) + "\n"


def test_clean_removes_only_the_given_folder(tmp_path: Path) -> None:
    (line,) = (line for line in make("--dry-run", "clean").splitlines() if line.startswith("rm -rf"))
    home, neighbour = tmp_path / "a b", tmp_path / "a"
    home.mkdir()
    neighbour.mkdir()
    subprocess.run(["sh", "-c", line], cwd=tmp_path, env={"FRAUD_HOME": str(home), "PATH": os.defpath}, check=True)
    assert not home.exists()
    assert neighbour.exists()
