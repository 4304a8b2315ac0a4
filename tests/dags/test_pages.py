"""Our pages in Airflow's own web application, asked over HTTP by strangers and by people who logged in."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from airflow.api_fastapi.app import create_app
from fastapi.testclient import TestClient

from fraud_airflow.reports import NoSuchReportError, Reports

PAGES = ("/fraud/version", "/fraud/reports/", "/fraud/reports/drift/2026-01-02.html", "/fraud/reports/none.html")


@pytest.fixture(scope="module")
def client(database: None) -> Any:
    return TestClient(create_app(apps="core"), base_url="http://airflow.test")


@pytest.fixture
def login(client: Any) -> dict[str, str]:
    password = json.loads(Path(os.environ["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"]).read_text())["admin"]
    answer = client.post("/auth/token", json={"username": "admin", "password": password})
    return {"Authorization": f"Bearer {answer.json()['access_token']}"}


@pytest.fixture
def report(reports: Path) -> Path:
    path = reports / "drift/2026-01-02.html"
    path.parent.mkdir()
    path.write_text("<h1>drift</h1>")
    return path


@pytest.mark.parametrize("page", PAGES)
def test_a_stranger_gets_no_page(client: Any, report: Path, page: str) -> None:
    assert client.get(page).status_code == 401
    assert client.get(page, headers={"Authorization": "Bearer x.y.z"}).status_code == 403


def test_a_person_who_logged_in_opens_a_report_and_it_cannot_use_their_login(
    client: Any, report: Path, login: dict[str, str]
) -> None:
    answer = client.get("/fraud/reports/drift/2026-01-02.html", headers=login)
    assert answer.status_code == 200
    assert answer.text == "<h1>drift</h1>"
    assert answer.headers["content-type"].startswith("text/html")
    policy = answer.headers["content-security-policy"]
    assert "sandbox allow-scripts" in policy
    assert "allow-same-origin" not in policy


def test_a_folder_lists_its_reports(client: Any, report: Path, login: dict[str, str]) -> None:
    assert 'href="drift/"' in client.get("/fraud/reports/", headers=login).text
    assert 'href="2026-01-02.html"' in client.get("/fraud/reports/drift/", headers=login).text


def test_trainings_are_listed_newest_first_with_what_they_say(
    client: Any, reports: Path, login: dict[str, str]
) -> None:
    for run, version, failed in (("f00", "1", []), ("a00", "2", ["better_than_production"])):
        folder = reports / "training" / run
        folder.mkdir(parents=True)
        (folder / "gates.html").write_text("")
        record = {"candidate": f"version {version}", "selected_level": "2-boosting", "gates_passed": not failed}
        (folder / "gates.json").write_text(json.dumps({**record, "failed_gates": failed}))
        os.utime(folder / "gates.json", (1_700_000_000 + int(version),) * 2)
    text = client.get("/fraud/reports/training/", headers=login).text
    assert 'href="f00/gates.html"' in text
    assert "version 1, 2-boosting: passed" in text
    assert text.index("version 2, 2-boosting: refused by better than production") < text.index("version 1,")
    assert "2023-11-14 22:13" in text
    assert "every gate with its value" in client.get("/fraud/reports/", headers=login).text


def test_the_version_page_names_the_commit_and_airflow(client: Any, login: dict[str, str]) -> None:
    text = client.get("/fraud/version", headers=login).text
    assert "commit" in text
    assert "3.3" in text


@pytest.mark.parametrize(
    "path",
    ["../secret", "drift/../../secret", "..\\secret", ".hidden", "drift/%2e%2e", "%2e%2e%2fsecret", "//etc/passwd"],
)
def test_no_path_leads_out_of_the_reports(client: Any, report: Path, login: dict[str, str], path: str) -> None:
    (report.parents[2] / "secret").write_text("secret")
    (report.parents[1] / ".hidden").write_text("secret")
    answer = client.get(f"/fraud/reports/{path}", headers=login)
    assert answer.status_code == 404
    with pytest.raises(NoSuchReportError):
        Reports(f"file://{report.parents[1]}").read(path)


def test_a_symbolic_link_does_not_lead_out_either(report: Path) -> None:
    outside = report.parents[2] / "outside"
    outside.mkdir()
    (outside / "secret.html").write_text("secret")
    (report.parents[1] / "way").symlink_to(outside)
    with pytest.raises(NoSuchReportError):
        Reports(f"file://{report.parents[1]}").read("way/secret.html")
    with pytest.raises(NoSuchReportError):
        Reports(f"file://{report.parents[1]}").entries("way")
