"""Folders, ports, secrets and the shared environment of one embedded stack.

Secrets are generated once into `.env` (mode 600, ignored by git). Ports are chosen once and kept in
`<home>/stack.json`, so that URLs stay the same after a restart.
"""

import json
import os
import secrets
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

from fraud.embedded import processes, sockets
from fraud.secret_file import ensure_secrets, write_private
from fraud.settings import Settings

PREFERRED_PORTS: Final[Mapping[str, int]] = {
    "airflow": 8080, "mlflow": 5000, "serving": 8000, "prometheus": 9090, "valkey": 6379,
    "platform_metrics": 9108, "alertmanager": 9093, "airflow_task_logs": 8793, "kafka": 9092, "stream": 9100,
}  # fmt: skip
STREAM_PORTS: Final = frozenset({"kafka", "stream"})
"""Ports of the services that run only in a stack with streaming."""
SECRETS: Final = (
    "AIRFLOW_ADMIN_PASSWORD", "AIRFLOW_JWT_SECRET", "AIRFLOW_API_SECRET", "AIRFLOW_FERNET_KEY",
    "MLFLOW_ADMIN_PASSWORD", "MLFLOW_FLASK_SECRET", "VALKEY_PASSWORD",
)  # fmt: skip
# Variables that a service inherits from the shell that starts it.
_INHERITED: Final = ("HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR", "JAVA_HOME", "SSL_CERT_FILE")


def _write_state(home: Path, ports: Mapping[str, int], mark: str, stream: bool) -> None:
    state = {"ports": dict(ports), "mark": mark, "stream": stream}
    write_private(home / "stack.json", json.dumps(state, indent=1) + "\n")


@dataclass(frozen=True, slots=True)
class Stack:
    """One embedded stack. `mark` identifies it in the environment of its processes."""

    home: Path
    project: Path
    ports: Mapping[str, int]
    mark: str
    secret: Mapping[str, str]
    stream: bool = False
    """Whether a Kafka broker and a consumer of its topic run."""

    @classmethod
    def open(cls, settings: Settings, *, usual_ports: bool = True, stream: bool | None = None) -> Self:
        """Load the stack below `settings.home`, or create it.

        Without `usual_ports` a new stack gets free ports: two stacks that start at once would share the default ones.
        `stream` is kept for later commands; None: as before, at first without streaming.
        """
        home = settings.home
        home.mkdir(parents=True, exist_ok=True)
        path = home / "stack.json"
        fresh: dict[str, Any] = {"ports": {}, "mark": secrets.token_hex(8)}
        state = json.loads(path.read_text()) if path.is_file() else fresh
        ports = {
            name: state["ports"].get(name, preferred if usual_ports else sockets.free_port())
            for name, preferred in PREFERRED_PORTS.items()
        }
        streams = bool(state.get("stream")) if stream is None else stream
        if ports != state["ports"] or streams != bool(state.get("stream")):
            _write_state(home, ports, state["mark"], streams)
        secret = ensure_secrets(settings.project / ".env", SECRETS)
        return cls(home, settings.project, ports, state["mark"], secret, streams)

    def with_new_ports(self, names: Iterable[str]) -> Self:
        """The same stack with other free ports for these services. Writes `stack.json`."""
        ports = {**self.ports, **{name: sockets.free_port() for name in names}}
        _write_state(self.home, ports, self.mark, self.stream)
        return replace(self, ports=ports)

    @property
    def run(self) -> Path:
        return self.home / "run"

    def log(self, name: str) -> Path:
        return self.home / "logs" / f"{name}.log"

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def program(self, environment: str, name: str) -> str:
        """An executable of one of the three environments."""
        return str(self.project / ".venv" / environment / "bin" / name)

    def environment(self, environment: str) -> dict[str, str]:
        """The environment of every process of the stack. It contains no secret of Airflow."""
        path = os.pathsep.join([str(self.project / ".venv" / environment / "bin"), os.environ.get("PATH", os.defpath)])
        inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        return inherited | {"PATH": path, processes.MARK: self.mark} | self.platform_environment()

    def platform_environment(self) -> dict[str, str]:
        """The variables with which `fraud` connects to this stack."""
        from fraud.embedded.servers import alertmanager, prometheus  # noqa: PLC0415 - they import this module

        optional = {"FRAUD_KAFKA_BROKERS": f"127.0.0.1:{self.ports['kafka']}"} if self.stream else {}
        for name, server in (("prometheus", prometheus), ("alertmanager", alertmanager)):
            if server.binary():
                optional[f"FRAUD_{name.upper()}_URL"] = self.url(name)
        return optional | {
            "FRAUD_HOME": str(self.home),
            "FRAUD_PROJECT": str(self.project),
            "FRAUD_COMMAND": self.program("ml", "fraud"),
            "FRAUD_MLFLOW_URL": self.url("mlflow"),
            "FRAUD_AIRFLOW_URL": self.url("airflow"),
            "FRAUD_DOCS_URL": f"{self.url('airflow')}/fraud/docs",
            "FRAUD_SERVING_URL": self.url("serving"),
            "FRAUD_REDIS_URL": f"redis://:{self.secret['VALKEY_PASSWORD']}@127.0.0.1:{self.ports['valkey']}/0",
            "MLFLOW_TRACKING_URI": self.url("mlflow"),
            "MLFLOW_TRACKING_USERNAME": "admin",
            "MLFLOW_TRACKING_PASSWORD": self.secret["MLFLOW_ADMIN_PASSWORD"],
            "PYSPARK_PYTHON": self.program("ml", "python"),
            "SPARK_LOCAL_IP": "127.0.0.1",
        }

    def write_shell_environment(self) -> Path:
        """Write `<home>/stack.env`, for shells that run `fraud` on this stack. It has a login of Airflow, too."""
        from fraud.embedded.servers import airflow  # noqa: PLC0415 - it imports this module

        path = self.home / "stack.env"
        password = self.secret["AIRFLOW_ADMIN_PASSWORD"]
        login = {"FRAUD_AIRFLOW_USERNAME": airflow.ADMIN, "FRAUD_AIRFLOW_PASSWORD": password}
        variables = self.platform_environment() | login
        write_private(path, "".join(f"{name}={shlex.quote(value)}\n" for name, value in variables.items()))
        return path
