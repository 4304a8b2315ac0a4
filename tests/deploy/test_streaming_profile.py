"""The compose profile `streaming` as processes: the environments, commands and health checks of docker-compose.yml.

No image is needed. The processes run in a network namespace of their own, in which the names and ports of the compose
file hold, and in a mount namespace with empty volumes. kafka_standin.py stands in for the container `kafka`. The model
is a local copy, so that `mlflow` is not needed. docs/streaming.md states what this does not prove.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from fraud import secret_file
from fraud.embedded.servers import kafka, valkey

ROOT: Final = Path(__file__).resolve().parents[2]
SERVING: Final = ROOT / ".venv/serving/bin"
TESTS: Final = Path(__file__).parent
BROKER_PORT: Final = 19_092
VARIABLE: Final = re.compile(r"\$\$|\$\{([A-Z0-9_]+)(?:(:?[-?])([^}]*))?\}")
WAIT_S: Final = 60


def namespaces() -> bool:
    """Whether this user may create a network and a mount namespace."""
    tools = [shutil.which(name) for name in ("unshare", "nsenter", "mount", "ip")]
    return (
        all(tools) and subprocess.run(["unshare", "-n", "-m", "true"], capture_output=True, check=False).returncode == 0
    )


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not namespaces(), reason="needs root, unshare, nsenter, mount and ip: names and ports are fixed"
    ),
]


def interpolated(value: Any, given: Mapping[str, str]) -> Any:  # noqa: ANN401 - YAML
    """Replace variables as Compose does. A required one that is missing raises KeyError."""

    def of(match: re.Match[str]) -> str:
        name, kind, default = match.groups()
        if name is None:
            return "$"
        if kind and "-" in kind and not (given.get(name) if ":" in kind else name in given):
            return str(default)
        return given[name]

    if isinstance(value, str):
        return VARIABLE.sub(of, value)
    if isinstance(value, dict):
        return {key: interpolated(of_key, given) for key, of_key in value.items()}
    return [interpolated(item, given) for item in value] if isinstance(value, list) else value


def image_environment() -> dict[str, str]:
    """What the image of serving sets, without its PATH."""
    text = (ROOT / "services/serving/Dockerfile").read_text().rpartition("\nFROM ")[2].replace("\\\n", " ")
    (line,) = re.findall(r"^ENV (.*)$", text, re.MULTILINE)
    return {name: value for name, value in re.findall(r"(\S+?)=(\S+)", line) if name != "PATH"}


class Stack:
    """The processes of the profile."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self._stack = folder, stack
        file, secrets = ROOT / "docker-compose.yml", folder / ".env"
        made = [sys.executable, "-m", "fraud.secret_file", str(secrets), str(file)]  # make secrets
        subprocess.run(made, check=True, env={"PYTHONPATH": str(ROOT / "src"), "PATH": os.environ["PATH"]})
        self.secrets = secret_file.read_env(secrets)
        # Inside the namespace nothing maps the port of the host to that of the container.
        given = {**self.secrets, "KAFKA_PORT": "9095", "KAFKA_PARTITIONS": "4"}
        self.services: dict[str, dict[str, Any]] = interpolated(yaml.safe_load(file.read_text())["services"], given)
        hosts = folder / "hosts"
        hosts.write_text("".join(f"127.0.0.1 {name}\n" for name in ("localhost", *self.services)))
        script = (
            f"ip link set lo up && mount --bind {hosts} /etc/hosts && mount -t tmpfs none /var/lib && echo ready && cat"
        )
        # It ends when its standard input is closed.
        self._holder = stack.enter_context(
            subprocess.Popen(["unshare", "-n", "-m", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"ready\n", "the namespaces were not prepared"

    def _popen(self, command: Sequence[str], environment: Mapping[str, str], name: str) -> None:
        """Start a process in the namespaces."""
        log = self._stack.enter_context((self.folder / f"{name}.log").open("ab"))
        process = subprocess.Popen(
            [*self._enter(), *command], env={"PATH": os.environ["PATH"], **environment}, stdout=log, stderr=log
        )
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)

    def _enter(self) -> tuple[str, ...]:
        return ("nsenter", "--target", str(self._holder.pid), "--net", "--mount")

    def run(
        self, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command in the namespaces to its end."""
        return subprocess.run(
            [*self._enter(), *command], env={"PATH": os.environ["PATH"], **(environment or {})}, capture_output=True,
            text=True, timeout=2 * WAIT_S, check=False,
        )  # fmt: skip

    def service(self, name: str) -> tuple[list[str], dict[str, str]]:
        """Command and environment of a service whose image is serving's. A mounted file is named by its source."""
        service = self.services[name]
        environment = image_environment() | {key: str(value) for key, value in service["environment"].items()}
        # PATH and PYTHONPATH are the image's content: its Python with the platform's packages.
        environment |= {
            "PATH": f"{SERVING}:{os.environ['PATH']}",
            "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'services/serving/src'}",
        }
        mounted = dict(volume.split(":")[1::-1] for volume in service.get("volumes", ()))
        return [str(ROOT / mounted[part]) if part in mounted else part for part in service["command"]], environment

    def start(self, name: str) -> None:
        self._popen(*self.service(name), name)

    def healthy(self, name: str) -> None:
        """Run the health check until it succeeds."""
        kind, *command = self.services[name]["healthcheck"]["test"]
        assert kind == "CMD"
        environment = {"PATH": f"{SERVING}:{os.environ['PATH']}"}
        script = 'for _ in $(seq 120); do "$@" 2>/dev/null && exit 0; sleep 0.5; done; exit 1'
        assert self.run(["bash", "-c", script, "-", *command], environment).returncode == 0, self.log(name)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def start_kafka(self) -> None:
        address, advertised = f"tcp://127.0.0.1:{BROKER_PORT}", "tcp://standin.invalid:1"
        self._popen(
            [
                str(kafka.binary()), "broker", "--listener-url", address, "--advertised-listener-url", advertised,
                "--storage-engine", kafka.Storage().url, "--silent",
            ],
            {}, "broker",
        )  # fmt: skip
        service = self.services["kafka"]
        (listeners,) = re.findall(r'advertised\.listeners=([^"]+)"', service["command"][0])
        listeners = listeners.replace("$HOST_PORT", str(service["environment"]["HOST_PORT"]))
        sources = dict(volume.split(":")[1::-1] for volume in service["volumes"])
        properties = ROOT / sources["/etc/fraud/server.properties"]
        arguments = [str(properties), listeners, str(BROKER_PORT), str(self.folder / "access.log")]
        self._popen([sys.executable, str(TESTS / "kafka_standin.py"), *arguments], {}, "kafka")

    def start_valkey(self) -> None:
        command = [str(valkey.binary()), "--requirepass", self.secrets["VALKEY_PASSWORD"], "--save", ""]
        self._popen(command, {}, "valkey")

    def put_model(self) -> None:
        """A verified local copy in the volume `stream-models`."""
        folder = image_environment()["SERVING_MODEL_CACHE"]
        made = (
            "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import serving_model; "
            "serving_model.TREES, serving_model.ROWS = 20, 5_000; "
            "serving_model.write(Path(sys.argv[2]), serving_model.SHIPPED)"
        )
        cache = self.folder / "model"
        environment = {"PYTHONPATH": str(ROOT / "src"), "PATH": os.environ["PATH"]}
        subprocess.run([sys.executable, "-c", made, str(ROOT / "tests/bench"), str(cache)], check=True, env=environment)
        script = f"mkdir -p {folder} && cp -r {cache}/. {folder}"
        assert self.run(["sh", "-c", script]).returncode == 0

    def client(self, user: str, password: str, *arguments: str) -> str:
        done = self.run([str(SERVING / "python"), str(TESTS / "streaming_client.py"), user, password, *arguments])
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def access(self) -> list[str]:
        """What the stand-in noted: logins, refused requests."""
        return (self.folder / "access.log").read_text().splitlines()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with ExitStack() as exit_stack:
        made = Stack(tmp_path_factory.mktemp("streaming"), exit_stack)
        made.start_valkey()
        made.put_model()
        made.start_kafka()
        made.healthy("kafka")
        yield made


def transaction() -> dict[str, Any]:
    return {
        "transaction_id": "t1", "user_id": "u1", "merchant_id": "m1", "amount": 12.5, "merchant_category": "travel",
        "event_timestamp": (datetime.now(UTC) - timedelta(minutes=1)).isoformat(), "distance_from_home": 3.0,
        "device_id": "d1", "country": "country-01", "card_present": True,
    }  # fmt: skip


def test_the_topics_are_prepared_and_a_transaction_is_decided_with_the_generated_passwords(stack: Stack) -> None:
    first = stack.run(*stack.service("kafka-topics"))
    assert (first.returncode, first.stderr) == (0, "")
    assert "users: stream, jobs, checkout" in first.stdout
    assert "5 created" in first.stdout
    again = stack.run(*stack.service("kafka-topics"))
    assert (again.returncode, again.stderr) == (0, "")
    assert "0 created" in again.stdout
    stack.start("serving-stream")
    stack.healthy("serving-stream")

    decision = json.loads(
        stack.client("checkout", stack.secrets["KAFKA_CHECKOUT_PASSWORD"], "decide", json.dumps(transaction()))
    )

    assert (decision["transaction_id"], decision["degraded"], decision["model_version"]) == ("t1", False, "1")
    assert set(stack.access()) == {"login of stream: accepted", "login of checkout: accepted"}


def test_a_wrong_password_and_a_missing_right_are_refused(stack: Stack) -> None:
    assert stack.client("checkout", "a-wrong-password", "try", "transactions").startswith("not delivered")
    assert "login of checkout: wrong password" in stack.access()
    right = stack.secrets["KAFKA_CHECKOUT_PASSWORD"]
    assert stack.client("checkout", right, "write", "labels") == "delivered"
    assert stack.client("checkout", right, "try", "transactions.rejected").startswith("not delivered")
    assert any(line.startswith("refused checkout: ") and "transactions.rejected" in line for line in stack.access())
