"""A separate Airflow for these tests. Airflow reads its settings when it is imported, so they are set before."""

import atexit
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_HOME = tempfile.mkdtemp(prefix="fraud-airflow-")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
_ALWAYS = (line.partition("=") for line in (ROOT / "services/airflow/airflow.env").read_text().splitlines())
os.environ.update({name: value for name, equals, value in _ALWAYS if equals and not name.startswith("#")})
os.environ.update(
    {
        "AIRFLOW_HOME": _HOME,
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": f"{_HOME}/passwords.json",
        "AIRFLOW__API__BASE_URL": "http://airflow.test",
        "AIRFLOW__API__SECRET_KEY": "only-for-tests",
        "AIRFLOW__API_AUTH__JWT_SECRET": "only-for-tests-and-long-enough-for-hs512-" * 2,
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{_HOME}/airflow.db",
    }
)


def pytest_configure(config: pytest.Config) -> None:
    """Warnings of Airflow's own dependencies, in this environment alone."""
    for warning in (
        # svcs, which the API server imports, imports Starlette's test client. Gone with a newer svcs.
        "ignore:Using `httpx` with `starlette.testclient`",
    ):
        config.addinivalue_line("filterwarnings", warning)


@pytest.fixture
def reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that reports are served from."""
    folder = tmp_path / "reports"
    folder.mkdir()
    monkeypatch.setenv("FRAUD_REPORTS_URI", f"file://{folder}")
    return folder


@pytest.fixture(scope="session")
def database() -> Path:
    """A migrated database without rows of tests, to be copied for a separate Airflow."""
    airflow = Path(sys.executable).with_name("airflow")
    subprocess.run([airflow, "db", "migrate"], check=True, capture_output=True)
    empty = Path(_HOME, "empty.db")
    with closing(sqlite3.connect(f"{_HOME}/airflow.db")) as migrated, closing(sqlite3.connect(empty)) as copy:
        migrated.backup(copy)
    return empty


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path that the operator runs as `fraud`. A test writes a Python program there."""
    path = tmp_path / "fraud"
    monkeypatch.setenv("FRAUD_COMMAND", str(path))
    return path
