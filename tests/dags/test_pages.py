"""The platform's pages in Airflow's web application, over HTTP, with and without a login."""

import json
import os
import re
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
from airflow.api_fastapi.app import create_app
from fastapi.testclient import TestClient

from fraud_airflow.documentation import Documentation, NoSuchPageError
from fraud_airflow.reports import NoSuchReportError, Reports

PAGES = (
    "/fraud/version", "/fraud/status", "/fraud/reports/", "/fraud/reports/drift/2026-01-02.html",
    "/fraud/reports/none.html", "/fraud/docs/runbooks/JobFailed.md", "/fraud/docs/none.md",
)  # fmt: skip
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def client(database: Path) -> Any:
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
def test_without_a_login_no_page_is_served(client: Any, report: Path, page: str) -> None:
    assert client.get(page).status_code == 401
    assert client.get(page, headers={"Authorization": "Bearer x.y.z"}).status_code == 403


def test_a_report_opens_after_the_login_and_cannot_use_it(client: Any, report: Path, login: dict[str, str]) -> None:
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


def test_trainings_are_listed_newest_first_with_their_results(
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
    assert text.index("version 2, 2-boosting: failed better than production") < text.index("version 1,")
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
def test_a_path_outside_of_the_reports_is_refused(client: Any, report: Path, login: dict[str, str], path: str) -> None:
    (report.parents[2] / "secret").write_text("secret")
    (report.parents[1] / ".hidden").write_text("secret")
    answer = client.get(f"/fraud/reports/{path}", headers=login)
    assert answer.status_code == 404
    with pytest.raises(NoSuchReportError):
        Reports(f"file://{report.parents[1]}").read(path)


def test_a_symbolic_link_out_of_the_reports_is_refused(report: Path) -> None:
    outside = report.parents[2] / "outside"
    outside.mkdir()
    (outside / "secret.html").write_text("secret")
    (report.parents[1] / "way").symlink_to(outside)
    with pytest.raises(NoSuchReportError):
        Reports(f"file://{report.parents[1]}").read("way/secret.html")
    with pytest.raises(NoSuchReportError):
        Reports(f"file://{report.parents[1]}").entries("way")


def test_a_browser_without_a_login_is_redirected_to_it_and_back(client: Any) -> None:
    page = "/fraud/docs/runbooks/JobFailed.md"
    answer = client.get(page, headers={"Accept": "text/html,*/*;q=0.8"}, follow_redirects=False)
    assert answer.status_code == 307
    assert answer.headers["location"] == (
        "http://airflow.test/api/v2/auth/login?next=%2Ffraud%2Fdocs%2Frunbooks%2FJobFailed.md"
    )
    # Airflow accepts the URL to return to.
    requested = client.get(answer.headers["location"], follow_redirects=False)
    assert requested.status_code == 307
    assert requested.headers["location"].endswith("?next=%2Ffraud%2Fdocs%2Frunbooks%2FJobFailed.md")


@pytest.mark.parametrize("alert", sorted(path.name for path in (ROOT / "docs/runbooks").glob("*.md")))
def test_every_runbook_opens(client: Any, login: dict[str, str], alert: str) -> None:
    answer = client.get(f"/fraud/docs/runbooks/{alert}", headers=login)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert "<h1" in answer.text


class Links(HTMLParser):
    """The links and pictures of a page, and its ids."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        for name, value in attrs:
            if name in {"href", "src"}:
                self.targets.append(value or "")
            if name == "id":
                self.ids.add(value or "")


def test_every_link_of_the_documentation_opens(client: Any, login: dict[str, str], stand_in: Path) -> None:
    status = {"problems": [], "changes": [], "facts": {"now": "2026-03-05T12:00:00Z", "sources": []}, "tables": {}}
    stand_in.write_text(f"#!{sys.executable}\nprint({json.dumps(status)!r})\n")
    stand_in.chmod(0o755)
    docs = ROOT / "docs"
    opened = {}
    for path in docs.rglob("*.md"):
        url = f"http://airflow.test/fraud/docs/{path.relative_to(docs)}"
        opened[url] = Links(client.get(url, headers=login).text)
    others = cache(lambda url: client.get(url, headers=login).status_code == 200)
    broken = []
    for page, links in opened.items():
        for target in links.targets:
            url, _, section = urljoin(page, target).partition("#")
            if not url.startswith("http://airflow.test/"):
                continue
            opens = url in opened or others(url)
            if not opens or (section and section not in opened[url].ids):
                broken.append((page, target))
    assert sum(len(links.targets) for links in opened.values()) > 50
    assert broken == []


@pytest.mark.parametrize(
    ("path", "media_type", "start"),
    [
        ("architecture.svg", "image/svg+xml", b"<svg"),
        ("images/dashboard-serving.png", "image/png", b"\x89PNG\r\n\x1a\n"),
    ],
)
def test_a_picture_of_the_documentation_opens(
    client: Any, login: dict[str, str], path: str, media_type: str, start: bytes
) -> None:
    answer = client.get(f"/fraud/docs/{path}", headers=login)
    assert answer.headers["content-type"] == media_type
    assert answer.content.startswith(start)


@pytest.mark.parametrize(
    "path",
    ["../README.md", "%2e%2e/README.md", "runbooks/../../README.md", "/etc/hosts", "runbooks/", "none.md", "a%00b.md"],
)
def test_a_path_outside_of_the_documentation_is_refused(client: Any, login: dict[str, str], path: str) -> None:
    assert client.get(f"/fraud/docs/{path}", headers=login).status_code == 404


def test_html_in_a_document_is_shown_as_text_and_a_link_out_of_the_folder_is_no_link(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(
        "# Two words: `x_y`\n\n<script>alert(1)</script>\n\n[out](../secret.md) [in](b.md) [web](https://example.org/)\n"
    )
    title, body = Documentation(tmp_path).page("a.md")
    assert title == "Two words: `x_y`"
    assert '<h1 id="two-words-x_y">' in body
    assert "&lt;script&gt;" in body
    assert "<span>out</span>" in body
    assert '<a href="b.md">in</a> <a href="https://example.org/">web</a>' in body
    (tmp_path / "link.md").symlink_to(ROOT / "README.md")
    with pytest.raises(NoSuchPageError):
        Documentation(tmp_path).page("link.md")


def test_every_kind_of_report_has_a_description(client: Any, reports: Path, login: dict[str, str]) -> None:
    written = {"training", "drift", "concept", "skew", "compare"}
    for kind in written:
        (reports / kind).mkdir()
    text = client.get("/fraud/reports/", headers=login).text
    described = dict(re.findall(r'<a href="(\w+)/">\1</a></td><td>([^<]+)</td>', text))
    assert set(described) == written
    assert "precision, recall" in described["concept"]
