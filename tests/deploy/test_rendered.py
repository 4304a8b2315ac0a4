"""The output of `docker compose config` for docker-compose.yml and an environment. No engine or stack needed."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docker-compose.yml"
SECRETS = set(re.findall(r"\$\{([A-Z0-9_]+):\?", FILE.read_text()))


def has_compose() -> bool:
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0


pytestmark = [pytest.mark.deploy, pytest.mark.skipif(not has_compose(), reason="needs the docker compose plugin")]


def render(tmp_path: Path, profiles: str, **environment: str) -> subprocess.CompletedProcess[str]:
    empty = tmp_path / "env"
    empty.touch()
    return subprocess.run(
        [
            "docker", "compose", "--env-file", str(empty), *(f"--profile={name}" for name in profiles.split()),
            "config", "--format", "json",
        ],
        cwd=ROOT, env={"PATH": os.environ["PATH"], "HOME": os.environ["HOME"]} | environment,
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def services(tmp_path: Path, **environment: str) -> dict[str, Any]:
    secrets = {name: f"a-value-for-{name}" for name in SECRETS}
    done = render(tmp_path, "full streaming", **(secrets | environment))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["services"]
    return found


@pytest.mark.parametrize("profile", ["serving", "monitoring", "full", "streaming", "full streaming"])
def test_the_file_is_accepted_without_a_warning(tmp_path: Path, profile: str) -> None:
    done = render(tmp_path, profile, **dict.fromkeys(SECRETS, "a-value"))
    assert (done.returncode, done.stderr) == (0, "")


def test_a_secret_that_is_missing_is_named_and_nothing_is_rendered(tmp_path: Path) -> None:
    done = render(tmp_path, "full", **dict.fromkeys(SECRETS - {"VALKEY_PASSWORD"}, "a-value"))
    assert done.returncode
    assert "VALKEY_PASSWORD" in done.stderr


def test_every_required_secret_is_used(tmp_path: Path) -> None:
    rendered = json.dumps(services(tmp_path))
    assert all(f"a-value-for-{name}" in rendered for name in SECRETS)


@pytest.mark.parametrize("executor", ["CeleryExecutor", "KubernetesExecutor"])
def test_one_setting_moves_every_component_of_airflow_to_another_executor(tmp_path: Path, executor: str) -> None:
    found = services(tmp_path, AIRFLOW_EXECUTOR=executor)
    executors = {name: s["environment"]["AIRFLOW__CORE__EXECUTOR"] for name, s in found.items() if "airflow-" in name}
    assert executors == dict.fromkeys(
        (f"airflow-{part}" for part in ("prepare", "api-server", "scheduler", "dag-processor", "triggerer")), executor
    )


def test_the_settings_of_engine_and_repository_are_passed_to_the_jobs(tmp_path: Path) -> None:
    given = {
        "FRAUD_FEATURE_ENGINE": "spark", "FRAUD_SPARK_MASTER": "spark://m:7077", "FRAUD_SPARK_WORKERS": "image",
        "FRAUD_REPOSITORY": "https://r/f",
    }  # fmt: skip
    environment = services(tmp_path, **given)["airflow-scheduler"]["environment"]
    assert {name: environment[name] for name in given} == given
    assert services(tmp_path)["airflow-scheduler"]["environment"]["FRAUD_FEATURE_ENGINE"] == "one-machine"


def test_retention_settings_are_passed_to_the_jobs_and_airflow(tmp_path: Path) -> None:
    terms = [f"FRAUD_{name}_DAYS" for name in ("PREDICTION_RETENTION", "TRANSACTION", "VERSION", "LANDING", "REPORT")]
    given = {name: str(900 + n) for n, name in enumerate(terms)} | {"AIRFLOW_HISTORY_DAYS": "30"}
    found = services(tmp_path, **given)
    assert {name: found["airflow-scheduler"]["environment"][name] for name in terms} == {n: given[n] for n in terms}
    assert found["airflow-prepare"]["environment"]["AIRFLOW_HISTORY_DAYS"] == "30"
    assert {services(tmp_path)["airflow-scheduler"]["environment"][name] for name in terms} == {""}


def on_a_host(tmp_path: Path, file: str, **environment: str) -> dict[str, Any]:
    """The services with an override for one of several hosts."""
    files = f"{FILE.name}:infra/hosts/{file}"
    return services(tmp_path, COMPOSE_FILE=files, BIND_ADDRESS="10.0.0.5", **environment)


def published(service: dict[str, Any]) -> set[str]:
    return {f"{port['host_ip']}:{port['published']}" for port in service["ports"]}


def test_the_host_of_the_stores_publishes_them_on_its_address(tmp_path: Path) -> None:
    found = on_a_host(tmp_path, "stores.yml")
    assert published(found["valkey"]) == {"10.0.0.5:6379"}
    assert "10.0.0.5:5000" in found["mlflow"]["environment"]["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")


def test_a_replica_on_a_host_of_its_own_uses_the_given_stores_and_ships_its_log(tmp_path: Path) -> None:
    lake = {"FRAUD_LAKE_URI": "s3://b/lake", "FRAUD_JOB_RUNS_URI": "s3://b/runs"}
    lake |= dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"), "x")
    stores = {"SERVING_REDIS_URL": "redis://:p@10.0.0.1:6379/0", "SERVING_MLFLOW_URL": "http://10.0.0.1:5000"}
    found = on_a_host(tmp_path, "serving.yml", **lake, **stores)
    replica, ship = found["serving-a"], found["ship-predictions"]
    assert {name: replica["environment"][name] for name in stores} == stores
    assert published(replica) == {"10.0.0.5:8000", "10.0.0.5:9100"}
    assert (replica["read_only"], replica["cap_drop"], [*replica["networks"]]) == (True, ["ALL"], ["public"])
    assert ship["command"] == ["fraud", "ship-predictions"]
    assert {name: ship["environment"][name] for name in lake} == lake
    assert not [name for name in ship["environment"] if "PASSWORD" in name or name.endswith("_DB")]
    log = next(volume for volume in ship["volumes"] if volume["source"] == "predictions")
    assert log["target"] == ship["environment"]["FRAUD_PREDICTION_LOG"]
    assert not log.get("read_only")


def test_a_proxy_on_a_host_of_its_own_balances_over_the_given_replicas(tmp_path: Path) -> None:
    proxy = on_a_host(tmp_path, "proxy.yml", REPLICA_A="10.0.0.2:8000", REPLICA_B="", REPLICA_C="10.0.0.3:8000")[
        "proxy"
    ]
    given = {name: value for name, value in proxy["environment"].items() if name.startswith("REPLICA_") and value}
    assert given == {"REPLICA_A": "10.0.0.2:8000", "REPLICA_C": "10.0.0.3:8000"}
    assert published(proxy) == {"10.0.0.5:8000", "127.0.0.1:8404"}
