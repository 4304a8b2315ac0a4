"""A commit's files and an environment for them."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import structlog

from fraud.errors import FraudError, RefusedError, UnavailableError
from fraud.training import checkout

LOG = structlog.get_logger()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A project with one commit and an uncommitted change."""
    project = tmp_path / "project"
    (project / "src").mkdir(parents=True)
    (project / "src/a.py").write_text("A = 1\n")
    git = ["git", "-C", str(project), "-c", "user.name=ada", "-c", "user.email=ada@example.org"]
    subprocess.run(["git", "init", "--quiet", str(project)], check=True)
    subprocess.run([*git, "add", "--all"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--message", "first"], check=True)
    (project / "src/a.py").write_text("A = 2\n")
    return project


def test_a_checkout_has_what_was_committed_and_changed_files_are_listed(repository: Path, tmp_path: Path) -> None:
    checkout.clone(str(repository), "HEAD", tmp_path / "clean")
    assert (tmp_path / "clean/src/a.py").read_text() == "A = 1\n"
    assert checkout.changed_files(repository, "HEAD") == ["src/a.py"]


def test_a_commit_that_is_not_there_is_refused(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="cannot be checked out"):
        checkout.clone(str(repository), "c0ffee" + "0" * 34, tmp_path / "clean")


def locks(project: Path, *pins: str) -> Path:
    (project / "requirements").mkdir(parents=True)
    (project / "requirements/ml.txt").write_text("".join(f"{pin} \\\n    --hash=sha256:{'0' * 64}\n" for pin in pins))
    (project / "requirements/torch.txt").write_text("")
    return project


def test_the_current_environment_is_used_when_it_has_what_the_locks_name(tmp_path: Path) -> None:
    project = locks(tmp_path, f"numpy=={metadata.version('numpy')}", f"coverage[toml]=={metadata.version('pytest')}")
    with pytest.raises(UnavailableError, match="cannot be built"):
        checkout.environment(project, LOG)  # there is no Makefile to build coverage with
    exact = locks(tmp_path / "exact", f"numpy=={metadata.version('numpy')}", f"pytest=={metadata.version('pytest')}")
    assert checkout.environment(exact, LOG) == Path(sys.executable)


def test_another_version_is_built_by_the_checkout_s_own_recipe(tmp_path: Path) -> None:
    project = locks(tmp_path, "numpy==0.0.1")
    (project / "Makefile").write_text(".venv/ml/.ready:\n\t@mkdir -p .venv/ml && touch $@\n")
    assert checkout.environment(project, LOG) == project / ".venv/ml/bin/python"


def test_a_job_runs_on_the_checkout_s_code_with_nothing_of_our_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRAUD_HOME", "/ours")
    package = tmp_path / "src/fraud"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "cli.py").write_text(
        "import json, os, sys\n"
        "def main():\n"
        "    print('a library talks')\n"
        "    print(json.dumps({'arguments': sys.argv[1:], 'home': os.environ.get('FRAUD_HOME'), 'message': 'no'}))\n"
        "    sys.exit(3 if 'fail' in sys.argv else 0)\n"
    )
    python, source = Path(sys.executable), tmp_path / "src"
    result = checkout.run_job(python, source, tmp_path, ["train"], {}, LOG)
    assert result == {"arguments": ["train", "--json"], "home": None, "message": "no"}
    with pytest.raises(FraudError, match="fraud fail of the checkout failed"):
        checkout.run_job(python, source, tmp_path, ["fail"], {}, LOG)
