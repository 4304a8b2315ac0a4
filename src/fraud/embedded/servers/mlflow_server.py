"""An MLflow tracking server and registry as a local process: SQLite, artifacts through the server, basic auth.

MLflow's command starts the web server as a child process, so it runs in its own session and is ended as a session.
"""

import os
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from fraud.embedded import processes
from fraud.embedded.processes import ServiceFailedError
from fraud.embedded.sockets import free_port
from fraud.uris import sqlite_url

ADMIN: Final = "admin"
_AUTH: Final = """\
[mlflow]
default_permission = READ
database_uri = {database}
admin_username = {admin}
admin_password = {password}
auth_cache_ttl_seconds = 60
"""
_NAME: Final = "mlflow"
_POLL_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class Server:
    """A running server that has answered /health."""

    pid: int
    url: str
    folder: Path
    log: Path
    password: str

    def client_environment(self) -> dict[str, str]:
        """The variables with which MLflow's client logs in."""
        return {
            "MLFLOW_TRACKING_URI": self.url,
            "MLFLOW_TRACKING_USERNAME": ADMIN,
            "MLFLOW_TRACKING_PASSWORD": self.password,
        }


def command(folder: Path, port: int, host: str = "127.0.0.1", artifacts: str = "") -> list[str]:
    """The command, for a caller that supervises the process. It needs `environment`.

    `artifacts` is a path or URI for uploaded artifacts; the default is below `folder`.
    """
    folder = folder.resolve()
    return [
        sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1",
        "--app-name", "basic-auth", "--backend-store-uri", sqlite_url(folder / "mlflow.db"),
        "--serve-artifacts", "--artifacts-destination", artifacts or f"{folder}/artifacts",
        "--allowed-hosts", f"127.0.0.1:{port},localhost:{port}",
        "--cors-allowed-origins", f"http://127.0.0.1:{port},http://localhost:{port}",
    ]  # fmt: skip


def environment(folder: Path, admin_password: str, session_secret: str) -> dict[str, str]:
    """The server's own variables. Writes the auth configuration (mode 600) below `folder`.

    The password is used only at the first start on an empty folder. Later the server reads it from its database.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "auth.ini"
    temporary = folder / f".auth.ini.{secrets.token_hex(4)}"
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(
            _AUTH.format(
                database=sqlite_url(folder / "auth.db").replace("%", "%%"),
                admin=ADMIN,
                password=admin_password.replace("%", "%%"),
            )
        )
    temporary.replace(config)
    return {
        "MLFLOW_AUTH_CONFIG_PATH": str(config),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": session_secret,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # saves eight processes and half a gigabyte
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }


def start(
    folder: Path, admin_password: str, *, port: int = 0, deadline_s: float = 120.0, artifacts: str = ""
) -> Server:
    """Start a server on `folder` and wait until it is healthy. Port 0: any free port. Raises ServiceFailedError."""
    folder = folder.resolve()
    port = port or free_port()
    env = _own_environment() | environment(folder, admin_password, secrets.token_urlsafe(24))
    log = folder / "mlflow.log"
    process = processes.start(_NAME, command(folder, port, artifacts=artifacts), env, folder, log)
    server = Server(process.pid, f"http://127.0.0.1:{port}", folder, log, admin_password)
    deadline = time.monotonic() + deadline_s
    while not _healthy(server.url):
        alive = processes.is_running(process)
        if not alive or time.monotonic() > deadline:
            stop(server)
            why = f"no answer after {deadline_s:.0f} s" if alive else "ended during its start"
            raise ServiceFailedError(_NAME, why, log)
        time.sleep(_POLL_SECONDS)
    return server


def stop(server: Server) -> None:
    """End the server with its children. Does nothing when it has ended already."""
    processes.stop(_NAME, server.folder)


@contextmanager
def running(folder: Path, artifacts: str = "") -> Iterator[Server]:
    """A server with a random password for the duration of a `with` block."""
    server = start(folder, secrets.token_urlsafe(16), artifacts=artifacts)
    try:
        yield server
    finally:
        stop(server)


def _own_environment() -> dict[str, str]:
    """This process's environment without the variables of MLflow's client."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}


def _healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2, trust_env=False).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False
