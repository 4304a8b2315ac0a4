"""A separate Airflow on SQLite: its components as processes, the DAGs of this checkout, a stand-in for `fraud`."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from .browser import Browser, until

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = secrets.token_hex(8)


def _free_port() -> int:
    """As fraud.embedded.sockets: the kernel chooses the port for no other process before Airflow has started."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()):
        listener.accept()[0].close()
        port: int = listener.getsockname()[1]
        return port


@dataclass(frozen=True)
class Airflow:
    """`home` holds its database and logs; `fraud` is the program that its tasks run."""

    url: str
    home: Path
    fraud: Path

    @property
    def api(self) -> httpx.Client:
        """A client with an administrator's token."""
        login = {"username": "admin", "password": PASSWORD}
        token = httpx.post(f"{self.url}/auth/token", json=login, timeout=30).raise_for_status().json()["access_token"]
        return httpx.Client(base_url=f"{self.url}/api/v2", headers={"Authorization": f"Bearer {token}"}, timeout=30)

    def login(self, browser: Browser) -> None:
        """Log in as a person does."""
        browser.open(f"{self.url}/auth/login")
        browser.type("//input[@name='username']", "admin")
        browser.type("//input[@name='password']", PASSWORD)
        browser.click("//button[@type='submit']")
        until(lambda: "/auth/" not in browser.url, "the login is accepted")


@contextmanager
def airflow(home: Path, database: Path, components: Sequence[str]) -> Iterator[Airflow]:
    """Start the components on a copy of a migrated database and wait until they are ready; end them afterwards."""
    port, *log_ports = (_free_port() for _ in range(3))
    url, program = f"http://127.0.0.1:{port}", str(Path(sys.executable).with_name("airflow"))
    shutil.copy(database, home / "airflow.db")
    (home / "passwords.json").write_text(json.dumps({"admin": PASSWORD}))
    env = os.environ | {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / "passwords.json"),
        "AIRFLOW__CORE__PARALLELISM": "2",
        # Only the runs that a test starts, also when the time of a schedule passes meanwhile: its run would call the
        # test's stand-in.
        "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "False",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(log_ports[0]),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(log_ports[1]),
        "FRAUD_COMMAND": str(home / "fraud"),
        "FRAUD_HOME": str(home / "var"),
    }
    subprocess.run([program, "dags", "reserialize"], env=env, check=True, capture_output=True)
    started = []
    try:
        for component in components:
            with (home / f"{component}.log").open("w") as log:
                started.append(
                    subprocess.Popen([program, component], env=env, stdout=log, stderr=log, start_new_session=True)
                )
        until(lambda: _healthy(url, components), f"Airflow answers; its logs are in {home}", 300)
        yield Airflow(url, home, home / "fraud")
    finally:
        from fraud_airflow import session

        for process in started:
            session.end(process.pid)
            process.wait()


def _healthy(url: str, components: Sequence[str]) -> bool:
    try:
        answer = httpx.get(f"{url}/api/v2/monitor/health", timeout=5)
    except httpx.TransportError:
        return False
    if not answer.is_success:
        return False
    health: dict[str, Any] = answer.json()
    return all((health[name.replace("-", "_")] or {}).get("status") == "healthy" for name in components[1:])
