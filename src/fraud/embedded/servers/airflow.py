"""Airflow in the embedded stack: its components on SQLite, with the LocalExecutor and the stack's login and secrets.

Airflow's scheduler and triggerer each serve the logs of running tasks on all interfaces, and no setting changes the
address. In this stack one server on the loopback interface serves them for both.
"""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import httpx

from fraud.embedded.stack import Stack
from fraud.secret_file import read_env, write_private
from fraud.uris import sqlite_url

REPORTED: Final = ("scheduler", "dag-processor", "triggerer")
"""Components without a port. The API server reports their heartbeats."""
ADMIN: Final = "admin"


def environment(stack: Stack) -> dict[str, str]:
    """The environment of Airflow's components. Writes the password file of the login."""
    home, url = stack.home / "airflow", stack.url("airflow")
    home.mkdir(parents=True, exist_ok=True)
    passwords = home / "passwords.json"
    write_private(passwords, json.dumps({ADMIN: stack.secret["AIRFLOW_ADMIN_PASSWORD"]}) + "\n")
    sections: dict[str, dict[str, object]] = {
        "CORE": {
            "DAGS_FOLDER": stack.project / "dags",
            "PARALLELISM": 4,
            "HOSTNAME_CALLABLE": "fraud_airflow.loopback.hostname",
            "FERNET_KEY": stack.secret["AIRFLOW_FERNET_KEY"],
            "SIMPLE_AUTH_MANAGER_USERS": f"{ADMIN}:admin",
            "SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": passwords,
            "EXECUTION_API_SERVER_URL": f"{url}/execution/",
        },
        "API": {
            "HOST": "127.0.0.1",
            "PORT": stack.ports["airflow"],
            "BASE_URL": url,
            "WORKERS": 1,
            "SECRET_KEY": stack.secret["AIRFLOW_API_SECRET"],
        },
        "API_AUTH": {"JWT_SECRET": stack.secret["AIRFLOW_JWT_SECRET"]},
        "DATABASE": {"SQL_ALCHEMY_CONN": sqlite_url(home / "airflow.db")},
        "LOGGING": {
            "WORKER_LOG_SERVER_PORT": stack.ports["airflow_task_logs"],
            "TRIGGER_LOG_SERVER_PORT": stack.ports["airflow_task_logs"],
        },
    }
    settings = {f"AIRFLOW__{s}__{key}": str(value) for s, keys in sections.items() for key, value in keys.items()}
    always = read_env(stack.project / "services/airflow/airflow.env")
    return stack.environment("airflow") | always | settings | {"AIRFLOW_HOME": str(home)}


def command(stack: Stack, part: str) -> Sequence[str]:
    """The command of a component."""
    if part == "task-logs":
        return [
            stack.program("airflow", "python"), "-m", "uvicorn", "--factory", "--host", "127.0.0.1",
            "--port", str(stack.ports["airflow_task_logs"]), "--no-access-log",
            "airflow.utils.serve_logs.log_server:get_app",
        ]  # fmt: skip
    own_logs = ["--skip-serve-logs"] if part in ("scheduler", "triggerer") else []
    return [stack.program("airflow", "airflow"), part, *own_logs]


def not_ready(stack: Stack, part: str, since: datetime) -> str:
    """Why a component is not ready, "" when it is. A heartbeat before `since` belongs to an earlier process."""
    if part == "task-logs":
        return ""  # its open port is the only check
    try:
        health = httpx.get(f"{stack.url('airflow')}/api/v2/monitor/health", timeout=5).raise_for_status().json()
    except httpx.HTTPError as error:
        return f"the API server does not answer ({type(error).__name__})"
    name = "metadatabase" if part == "api-server" else part.replace("-", "_")
    state: dict[str, Any] = health.get(name) or {}
    if state.get("status") != "healthy":
        return f"{name} is not healthy"
    beat = state.get(f"latest_{name}_heartbeat")
    return "no heartbeat since its start" if beat and datetime.fromisoformat(beat) < since else ""
