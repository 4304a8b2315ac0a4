"""Authentication and limits at the proxy, MLflow and Airflow of the running stack. Needs `make up`."""

import http.client
import json
import subprocess
from pathlib import Path

import pytest

from fraud.secret_file import read_env

ROOT = Path(__file__).resolve().parents[2]
HANDBOOK = {
    "amount": 4999.99, "merchant_category": "electronics", "hour_of_day": 3, "day_of_week": 2,
    "transaction_velocity": 12.0, "distance_from_home": 850.5,
}  # fmt: skip


def port_of(service: str) -> int:
    """The port on 127.0.0.1 where the project `fraud` publishes a service. Skips the test when it does not run."""
    label = [
        "--filter",
        "label=com.docker.compose.project=fraud",
        "--filter",
        f"label=com.docker.compose.service={service}",
    ]
    try:
        found = subprocess.run(
            ["docker", "ps", *label, "--format", "{{.Ports}}"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        found = ""
    if "127.0.0.1:" not in found:
        pytest.skip(f"no deployed {service} runs here: make up")
    return int(found.partition("127.0.0.1:")[2].partition("->")[0])


def request(port: int, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(
            method, path, body or None, {name.replace("_", "-"): value for name, value in headers.items()}
        )
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.fixture
def key() -> str:
    port_of("proxy")  # skips without a running stack
    return f"checkout.{read_env(ROOT / '.env')['SERVING_CHECKOUT_KEY']}"


pytestmark = pytest.mark.deploy


def test_a_caller_with_a_key_gets_an_answer_with_the_version_that_made_it(key: str) -> None:
    status, body = request(port_of("proxy"), "POST", "/predict", json.dumps(HANDBOOK).encode(), X_API_Key=key)
    assert status == 200
    assert json.loads(body)["model_version"]


@pytest.mark.parametrize("wrong", ["", "checkout.guessed", "unknown.guessed"])
def test_a_caller_without_a_valid_key_is_refused(wrong: str) -> None:
    status, _ = request(port_of("proxy"), "POST", "/predict", json.dumps(HANDBOOK).encode(), X_API_Key=wrong)
    assert status == 401


def test_an_oversized_body_is_refused(key: str) -> None:
    assert request(port_of("proxy"), "POST", "/predict", b" " * 20_000, X_API_Key=key)[0] == 413


@pytest.mark.parametrize("path", ["/metrics", "/metrics/"])
def test_metrics_are_not_for_callers(path: str) -> None:
    assert request(port_of("proxy"), "GET", path)[0] == 404


@pytest.mark.parametrize("login", ["", "admin:admin", "admin:password", "admin:password1234"])
def test_mlflow_has_no_default_account(login: str) -> None:
    port = port_of("mlflow")
    found = subprocess.run(
        ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", *(["-u", login] if login else []),
         f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search?max_results=1"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout == "401"


def test_mlflow_answers_only_to_its_own_host_names() -> None:
    assert request(port_of("mlflow"), "GET", "/api/2.0/mlflow/experiments/search", Host="elsewhere.example")[0] == 403


@pytest.mark.parametrize("password", ["admin", "airflow", ""])
def test_airflow_has_no_default_account(password: str) -> None:
    body = json.dumps({"username": "admin", "password": password}).encode()
    status, _ = request(port_of("airflow-api-server"), "POST", "/auth/token", body, Content_Type="application/json")
    assert status in (400, 401, 422)


@pytest.mark.parametrize("path", ["/api/v2/dags", "/api/v2/connections"])
def test_airflow_requires_a_login(path: str) -> None:
    assert request(port_of("airflow-api-server"), "GET", path)[0] == 401
