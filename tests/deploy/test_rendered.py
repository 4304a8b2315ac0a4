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
    given = {"FRAUD_FEATURE_ENGINE": "spark", "FRAUD_SPARK_MASTER": "spark://m:7077", "FRAUD_REPOSITORY": "https://r/f"}
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
