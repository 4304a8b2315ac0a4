"""Airflow's part of the embedded stack: four components on SQLite with the LocalExecutor, login and secrets ours."""

import json
from typing import Final

import httpx

from fraud.embedded.stack import Stack
from fraud.secret_file import read_env, write_private
from fraud.uris import sqlite_url

COMPONENTS: Final = ("api-server", "scheduler", "dag-processor", "triggerer")
ADMIN: Final = "admin"


def environment(stack: Stack) -> dict[str, str]:
    """What Airflow's components get besides the platform's own variables. Writes the file with our password."""
    home, url = stack.home / "airflow", stack.url("airflow")
    home.mkdir(parents=True, exist_ok=True)
    passwords = home / "passwords.json"
    write_private(passwords, json.dumps({ADMIN: stack.secret["AIRFLOW_ADMIN_PASSWORD"]}) + "\n")
    sections: dict[str, dict[str, object]] = {
        "CORE": {
            "DAGS_FOLDER": stack.project / "dags",
            "PARALLELISM": 4,
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
            "TRIGGER_LOG_SERVER_PORT": stack.ports["airflow_trigger_logs"],
        },
    }
    settings = {f"AIRFLOW__{s}__{key}": str(value) for s, keys in sections.items() for key, value in keys.items()}
    always = read_env(stack.project / "services/airflow/airflow.env")
    return stack.environment("airflow") | always | settings | {"AIRFLOW_HOME": str(home)}


def not_ready(stack: Stack) -> str:
    """Why Airflow cannot run a DAG yet; "" when every component reports itself healthy."""
    try:
        health = httpx.get(f"{stack.url('airflow')}/api/v2/monitor/health", timeout=5).raise_for_status().json()
    except httpx.HTTPError as error:
        return f"api-server: {type(error).__name__}"
    waiting = [part for part, state in health.items() if (state or {}).get("status") != "healthy"]
    return f"not healthy: {', '.join(waiting)}" if waiting else ""
