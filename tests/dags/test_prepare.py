"""The preparation of Airflow's components: migrated database, pools, administrator, removal of old history."""

import os
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(900)  # migrations and nine commands of Airflow, each of which imports it
def test_it_creates_pools_and_an_administrator_and_removes_old_rows_and_task_logs_only(tmp_path: Path) -> None:
    env = dict(os.environ) | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{tmp_path}/airflow.db",
        "AIRFLOW__CORE__AUTH_MANAGER": "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager",
        "AIRFLOW_ADMIN_USER": "admin", "AIRFLOW_ADMIN_PASSWORD": "only-for-this-test", "AIRFLOW_HISTORY_DAYS": "30",
    }  # fmt: skip
    subprocess.run(["airflow", "db", "migrate"], env=env, check=True, capture_output=True)
    now = datetime.now(UTC)
    ages = {"old": now - timedelta(days=31), "young": now - timedelta(days=29)}
    logs = tmp_path / "logs"
    with sqlite3.connect(tmp_path / "airflow.db") as database:
        for name, at in ages.items():
            database.execute("INSERT INTO log (dttm, event) VALUES (?, ?)", (at.isoformat(" "), name))
            log = logs / f"dag_id={name}/attempt=1.log"
            log.parent.mkdir(parents=True)
            log.write_text("a line\n")
            for path in (log, log.parent):
                os.utime(path, (at.timestamp(), at.timestamp()))
    prepared = subprocess.run(
        ["sh", str(ROOT / "services/airflow/prepare.sh")], env=env, check=False, capture_output=True, text=True
    )
    assert prepared.returncode == 0, prepared.stderr[-2000:]
    with sqlite3.connect(tmp_path / "airflow.db") as database:
        events = {event for (event,) in database.execute("SELECT event FROM log")}
        users = {name for (name,) in database.execute("SELECT username FROM ab_user")}
        pools = dict(database.execute("SELECT pool, slots FROM slot_pool WHERE pool != 'default_pool'"))
    assert "young" in events
    assert "old" not in events
    assert users == {"admin"}
    assert pools == {"scoring": 1, "retraining": 1}
    assert [path.parent.name for path in logs.rglob("*.log")] == ["dag_id=young"]
