"""The page Status, over HTTP: what it shows, who may open it, and what it does when the command fails or hangs."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from airflow.api_fastapi.app import create_app
from fastapi.testclient import TestClient

from fraud_airflow import session, status_page
from fraud_airflow.status_page import NoStatusError, status

FOUND = {
    "ok": False,
    "problems": [
        {"text": "alert <b>A</b> fires", "hint": "", "runbook": "http://docs/runbooks/SkewFound.md"},
        {"text": "the last run of fraud score failed", "hint": "look", "runbook": "docs/runbooks/JobFailed.md"},
        {"text": "odd", "hint": "", "runbook": "javascript:alert(1)"},
    ],
    "changes": ["1 h ago: version 2 replaced version 1"],
    "facts": {
        "now": "2026-03-05T12:00:00Z",
        "sources": [{"name": "lake", "problem": ""}, {"name": "Prometheus", "problem": "refused"}],
    },
    "tables": {"serving": [{"version": "2", "traffic": "100%"}]},
}
HEALTHY = FOUND | {"ok": True, "problems": [], "changes": []}


def program(path: Path, code: str) -> None:
    """Write the program that runs as `fraud`."""
    path.write_text(f"#!{sys.executable}\nimport json, os, sys\n{code}\n")
    path.chmod(0o755)


def printing(found: dict[str, Any], exit_code: int) -> str:
    return f"print({json.dumps(found)!r})\nsys.exit({exit_code})"


@pytest.fixture(scope="module")
def client(database: Path) -> Any:
    return TestClient(create_app(apps="core"), base_url="http://airflow.test")


@pytest.fixture
def token(client: Any) -> str:
    password = json.loads(Path(os.environ["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"]).read_text())["admin"]
    answer = client.post("/auth/token", json={"username": "admin", "password": password})
    return str(answer.json()["access_token"])


def test_without_a_login_the_command_is_not_run(client: Any, stand_in: Path, tmp_path: Path) -> None:
    program(stand_in, f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert client.get("/fraud/status").status_code == 401
    assert client.get("/fraud/status", headers={"Authorization": "Bearer x.y.z"}).status_code == 403
    assert not (tmp_path / "ran").exists()


def test_problems_facts_and_changes_are_shown_as_text_with_links_to_runbooks(
    client: Any, stand_in: Path, token: str
) -> None:
    program(stand_in, printing(FOUND, 1))
    answer = client.get("/fraud/status", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 200
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"
    for text in (
        ">3 problems<", "alert &lt;b&gt;A&lt;/b&gt; fires", "<td>100%</td>", "version 2 replaced version 1",
        "lake, Prometheus (no answer)", "2026-03-05 12:00:00 UTC", "<td>javascript:alert(1)</td>",
        '<a href="http://docs/runbooks/SkewFound.md">SkewFound</a>',
        '<a href="http://airflow.test/fraud/docs/runbooks/JobFailed.md">JobFailed</a>',
    ):  # fmt: skip
        assert text in answer.text


def test_a_platform_without_a_problem(client: Any, stand_in: Path, token: str) -> None:
    program(stand_in, printing(HEALTHY, 0))
    text = client.get("/fraud/status", headers={"Authorization": f"Bearer {token}"}).text
    assert "No problem was found" in text
    assert "<p>None</p>" in text


@pytest.mark.parametrize("sent", ["header", "cookie"])
def test_the_command_gets_the_users_token_in_its_environment(
    client: Any, stand_in: Path, token: str, tmp_path: Path, sent: str
) -> None:
    seen = tmp_path / "seen"
    record = f"open({str(seen)!r}, 'w').write(json.dumps([os.environ['FRAUD_AIRFLOW_TOKEN'], sys.argv[1:]]))\n"
    program(stand_in, record + printing(HEALTHY, 0))
    if sent == "header":
        answer = client.get("/fraud/status", headers={"Authorization": f"Bearer {token}"})
    else:
        answer = client.get("/fraud/status", headers={"Cookie": f"_token={token}"})
    assert answer.status_code == 200
    assert json.loads(seen.read_text()) == [token, ["status", "--json", "--deadline=10"]]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("print(json.dumps({'message': 'FRAUD_HOME is wrong'})); sys.exit(2)", "code 2: FRAUD_HOME is wrong"),
        ("print('[]'); print('a\\nTypeError: b', file=sys.stderr); sys.exit(1)", "code 1: TypeError: b"),
        ("sys.exit(0)", "code 0: no message"),
    ],
)
def test_a_command_that_fails_is_reported_with_its_reason(
    client: Any, stand_in: Path, token: str, code: str, reason: str
) -> None:
    program(stand_in, code)
    answer = client.get("/fraud/status", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 503
    assert f"fraud status ended with {reason}" in answer.text


def test_a_command_that_is_missing_is_reported(stand_in: Path) -> None:
    with pytest.raises(NoStatusError, match="cannot be run: No such file"):
        status("")


def test_a_command_that_hangs_is_ended_with_its_children(stand_in: Path, tmp_path: Path) -> None:
    group = tmp_path / "session"
    program(
        stand_in,
        f"import subprocess, time\nopen({str(group)!r}, 'w').write(str(os.getpid()))\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\ntime.sleep(600)",
    )
    with pytest.raises(NoStatusError, match="did not end within 5 s"):
        status("", seconds=5.0)
    assert session.members(int(group.read_text())) == []


def test_a_second_request_waits_for_the_first_and_not_longer_than_the_deadline(stand_in: Path) -> None:
    program(stand_in, printing(HEALTHY, 0))
    with status_page._ONE_AT_A_TIME, pytest.raises(NoStatusError, match="other requests"):
        status("", seconds=0.1)
    assert status("")["ok"]
