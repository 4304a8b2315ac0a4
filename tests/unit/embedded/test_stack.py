"""Secrets and ports: generated once, kept, private."""

import stat
from pathlib import Path

from fraud.embedded.stack import PREFERRED_PORTS, SECRETS, Stack
from fraud.secret_file import ensure_secrets, read_env
from fraud.settings import Settings


def opened(tmp_path: Path) -> Stack:
    return Stack.open(Settings(home=tmp_path / "var", project=tmp_path))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_secrets_are_generated_once_into_a_private_file(tmp_path: Path) -> None:
    first = ensure_secrets(tmp_path / ".env", SECRETS)
    assert mode(tmp_path / ".env") == 0o600
    assert len(set(first.values())) == len(first) == 7
    assert min(map(len, first.values())) >= 32
    assert ensure_secrets(tmp_path / ".env", SECRETS) == first


def test_values_in_the_file_are_kept_and_missing_ones_are_generated(tmp_path: Path) -> None:
    env = tmp_path / ".env"
    env.write_text("# mine\nMLFLOW_ADMIN_PASSWORD=chosen by hand\nVALKEY_PASSWORD=\nOTHER=1\n")
    env.chmod(0o644)
    secret = ensure_secrets(env, SECRETS)
    assert secret["MLFLOW_ADMIN_PASSWORD"] == "chosen by hand"
    assert len(secret["VALKEY_PASSWORD"]) == 32
    assert env.read_text().startswith("# mine\nMLFLOW_ADMIN_PASSWORD=chosen by hand\nOTHER=1\n")
    assert read_env(env) == secret
    assert mode(env) == 0o600


def test_ports_and_mark_survive_a_restart(tmp_path: Path) -> None:
    first, second = opened(tmp_path), opened(tmp_path)
    assert first.ports == second.ports
    assert set(first.ports) == set(PREFERRED_PORTS)
    assert first.mark == second.mark
    assert mode(tmp_path / "var/stack.json") == 0o600


def test_a_second_stack_uses_free_ports_and_keeps_them(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "var", project=tmp_path)
    stack = Stack.open(settings, usual_ports=False)
    assert not set(stack.ports.values()) & set(PREFERRED_PORTS.values())
    assert Stack.open(settings, usual_ports=False).ports == stack.ports


def test_a_stack_keeps_a_changed_port(tmp_path: Path) -> None:
    first = opened(tmp_path)
    moved = first.with_new_ports(["airflow"])
    assert moved.ports["airflow"] != first.ports["airflow"]
    assert {**moved.ports, "airflow": 0} == {**first.ports, "airflow": 0}
    assert opened(tmp_path) == moved


def test_jobs_get_no_secret_of_airflow(tmp_path: Path) -> None:
    stack = opened(tmp_path)
    env = stack.environment("ml")
    ours = {stack.secret[name] for name in stack.secret if name.startswith("AIRFLOW")}
    assert not ours & set(env.values())
    assert stack.secret["VALKEY_PASSWORD"] in env["FRAUD_REDIS_URL"]
    path = stack.write_shell_environment()
    assert mode(path) == 0o600
    login = {"FRAUD_AIRFLOW_USERNAME": "admin", "FRAUD_AIRFLOW_PASSWORD": stack.secret["AIRFLOW_ADMIN_PASSWORD"]}
    assert read_env(path) == stack.platform_environment() | login


def test_streaming_is_kept_until_it_is_switched_off(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "var", project=tmp_path)
    assert not Stack.open(settings).stream
    assert "FRAUD_KAFKA_BROKERS" not in Stack.open(settings).platform_environment()
    on = Stack.open(settings, stream=True)
    assert on.platform_environment()["FRAUD_KAFKA_BROKERS"] == f"127.0.0.1:{on.ports['kafka']}"
    assert Stack.open(settings) == on
    assert Stack.open(settings).with_new_ports(["kafka"]).stream
    assert not Stack.open(settings, stream=False).stream
    assert not Stack.open(settings).stream
