"""Tests that need a whole Airflow: an approval in the browser, and cleared tasks. The jobs are stand-ins."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from . import browser as chromium
from .browser import until
from .live import PASSWORD, ROOT, Airflow, airflow
from .test_promote_model import VERDICT

pytestmark = [
    pytest.mark.slow,  # an Airflow's start, and runs through its scheduler
    pytest.mark.timeout(900),
]
SECONDS = 240.0


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Iterator[Airflow]:
    with airflow(tmp_path_factory.mktemp("airflow"), database, ["api-server", "scheduler", "dag-processor"]) as running:
        yield running


def jobs(platform: Airflow, results: dict[str, Any]) -> Path:
    """Set the results of `fraud <job>`. Returns the file to which the calls are written."""
    calls = platform.home / "calls"
    calls.unlink(missing_ok=True)
    program = platform.fraud.with_suffix(".new")
    program.write_text(
        f"#!{sys.executable}\nimport json, sys\n"
        f"open({str(calls)!r}, 'a').write(json.dumps(sys.argv[1:]) + '\\n')\n"
        f"print(json.dumps(json.loads({json.dumps(results)!r})[sys.argv[1]]))\n"
    )
    program.chmod(0o755)
    program.rename(platform.fraud)
    return calls


def start(platform: Airflow, dag: str, conf: dict[str, Any]) -> str:
    with platform.api as api:
        body = {"logical_date": None, "conf": conf}
        run: str = api.post(f"/dags/{dag}/dagRuns", json=body).raise_for_status().json()["dag_run_id"]
    return run


def states(platform: Airflow, dag: str, run: str) -> dict[str, str]:
    with platform.api as api:
        answer = api.get(f"/dags/{dag}/dagRuns/{quote(run)}/taskInstances").raise_for_status().json()
    return {task["task_id"]: task["state"] for task in answer["task_instances"]}


def until_states(platform: Airflow, dag: str, run: str, **expected: str) -> None:
    def reached() -> bool:
        now = states(platform, dag, run)
        return all(now[task] == state for task, state in expected.items())

    try:
        until(reached, f"{dag} has {expected}", SECONDS)
    except TimeoutError as error:
        raise TimeoutError(f"{error}: {states(platform, dag, run)}") from error


def until_ended(platform: Airflow, dag: str, run: str) -> str:
    """Wait for the end of the run itself, which follows the end of its last task. Returns its state."""

    def state() -> str:
        with platform.api as api:
            answer = api.get(f"/dags/{dag}/dagRuns/{quote(run)}").raise_for_status().json()
        return str(answer["state"])

    until(lambda: state() in ("success", "failed"), f"the run {run} of {dag} has ended", SECONDS)
    return state()


def emitted(platform: Airflow, run: str) -> list[str]:
    """Assets that a run emitted, in order."""
    with platform.api as api:
        events = api.get("/assets/events", params={"source_run_id": run}).raise_for_status().json()["asset_events"]
    return [event["name"] for event in sorted(events, key=lambda event: event["id"])]


def test_a_cleared_task_emits_its_asset_again_only_after_a_change(platform: Airflow) -> None:
    dag = "build_features"

    def clear(run: str) -> None:
        # The scheduler ends a run after its last task. A task that was cleared in between was seen to stay without a
        # state, probably because the scheduler then ended the run that the request had queued again.
        until_ended(platform, dag, run)
        with platform.api as api:
            body = {"dry_run": False, "task_ids": ["build_features"], "dag_run_id": run, "only_failed": False}
            api.post(f"/dags/{dag}/clearTaskInstances", json=body).raise_for_status()

    with platform.api as api:  # runs that the events start are not part of this test
        for other in ("score_nightly", "monitor_skew", "train_fraud_model"):
            api.patch(f"/dags/{other}", json={"is_paused": True}).raise_for_status()
    jobs(platform, {"build-daily": {}, "build-features": {"days_built": ["2026-01-02"]}, "materialize": {}})
    run = start(platform, dag, {})
    until_states(platform, dag, run, build_daily="success", build_features="success", materialize="success")
    assert emitted(platform, run) == ["features"]

    jobs(platform, {"build-daily": {}, "build-features": {"days_built": []}, "materialize": {}})
    for _ in range(2):  # after a success, and after a skip
        clear(run)
        until_states(platform, dag, run, build_features="skipped")
        assert emitted(platform, run) == ["features"]

    jobs(platform, {"build-daily": {}, "build-features": {"days_built": ["2026-01-03"]}, "materialize": {}})
    clear(run)
    until_states(platform, dag, run, build_features="success")
    assert emitted(platform, run) == ["features", "features"]


@pytest.mark.parametrize(
    ("results", "states", "assets", "state"),
    [
        ({"ingest": 3, "ingest-labels": 2}, ("success", "success", "success"), ["labels", "delivery"], "success"),
        ({"ingest": 3, "ingest-labels": 0}, ("success", "skipped", "success"), ["delivery"], "success"),
        ({"ingest": 0, "ingest-labels": 2}, ("skipped", "success", "success"), ["labels", "delivery"], "success"),
        ({"ingest": 0, "ingest-labels": 0}, ("skipped", "skipped", "skipped"), [], "success"),
        ({"ingest": 3}, ("success", "failed", "success"), ["delivery"], "failed"),
        ({"ingest-labels": 2}, ("failed", "upstream_failed", "skipped"), [], "failed"),
    ],
    ids=["both", "transactions", "labels", "neither", "labels fail", "transactions fail"],
)
def test_a_delivery_is_announced_after_both_feeds(
    platform: Airflow, results: dict[str, int], states: tuple[str, ...], assets: list[str], state: str
) -> None:
    """Features of the transactions alone would have other daily fraud rates than those of the whole delivery."""
    dag = "ingest_transactions"
    with platform.api as api:  # runs that the events start are not part of this test
        for other in ("build_features", "train_fraud_model"):
            api.patch(f"/dags/{other}", json={"is_paused": True}).raise_for_status()
    jobs(platform, {job: {"accepted": rows} for job, rows in results.items()})  # another job fails
    run = start(platform, dag, {"feed": "all"})
    until_states(platform, dag, run, **dict(zip(("ingest", "ingest_labels", "delivery"), states, strict=True)))
    assert emitted(platform, run) == assets
    assert until_ended(platform, dag, run) == state


@pytest.mark.skipif(bool(chromium.MISSING), reason=chromium.MISSING)
def test_a_version_that_failed_a_gate_is_approved_in_the_browser_with_its_waiver(platform: Airflow) -> None:
    calls = jobs(platform, {"gates": VERDICT, "promote": {"version": "7", "changed": True}})
    run = start(platform, "promote_model", {"version": "7", "approval": True})
    until_states(platform, "promote_model", run, gates="success", approval="awaiting_input")
    approve = "//button[@data-testid='hitl-option-Approve']"
    with chromium.browsing() as browser:
        platform.login(browser)
        browser.open(f"{platform.url}/dags/promote_model/runs/{quote(run)}/tasks/approval/required_actions")
        browser.find(approve)
        assert "Failed gates: slices. Approve promotes this version with a waiver of them." in browser.text
        assert "20,828" in browser.text
        assert not browser.enabled(approve), "a reason is required"
        browser.type("//input[@name='element_reason']", "agreed with risk")
        browser.click(approve)
        until_states(platform, "promote_model", run, promote="success", reject="skipped")
    gates, promote = (json.loads(line) for line in calls.read_text().splitlines())
    assert gates == ["gates", "7", "--json"]
    assert re.fullmatch(r"--waiver-expires=\d{4}-\d\d-\d\d", promote.pop(5))
    assert promote == [
        "promote", "--version=7", "--reason=agreed with risk", "--waive=slices", "--waiver-reason=agreed with risk",
        "--json",
    ]  # fmt: skip


@pytest.mark.skipif(bool(chromium.MISSING), reason=chromium.MISSING)
def test_the_status_page_opens_from_the_menu_inside_airflow(platform: Airflow) -> None:
    failed = {"text": "the last run of fraud score failed", "hint": "", "runbook": "docs/runbooks/JobFailed.md"}
    result = {
        "ok": False, "changes": [], "tables": {"serving": [{"version": "7", "traffic": "100%"}]}, "problems": [failed],
        "facts": {"now": "2026-03-05T12:00:00Z", "sources": [{"name": "lake", "problem": ""}]},
    }  # fmt: skip
    calls = jobs(platform, {"status": result})
    with chromium.browsing() as browser:
        platform.login(browser)
        browser.open(f"{platform.url}/plugin/fraud-status")
        frame = "//iframe"
        browser.find(frame)
        text = "return document.querySelector('iframe').contentDocument?.body?.innerText ?? ''"
        until(lambda: "1 problem" in browser.run(text), "the page in the frame")
        assert "the last run of fraud score failed" in browser.run(text)
        browser.run("document.querySelector('iframe').contentDocument.querySelector('table a').click()")
        until(lambda: "JobFailed" in browser.run(text), "the runbook in the frame")
    assert json.loads(calls.read_text()) == ["status", "--json", "--deadline=10"]


def status(platform: Airflow, password: str) -> dict[str, Any]:
    """The object that `fraud status --json` prints with a login of this Airflow, without the other servers."""
    home = platform.home / "status"
    env = os.environ | {
        "FRAUD_HOME": str(home), "FRAUD_PROJECT": str(ROOT), "FRAUD_MLFLOW_URL": f"sqlite:///{home}/mlflow.db",
        "FRAUD_AIRFLOW_URL": platform.url, "FRAUD_AIRFLOW_USERNAME": "admin", "FRAUD_AIRFLOW_PASSWORD": password,
    }  # fmt: skip
    command = [ROOT / ".venv/ml/bin/fraud", "status", "--json", "--deadline=120"]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert ended.returncode == 1, ended.stderr  # the lake and the registry are empty
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def test_fraud_status_reads_the_ended_runs_of_the_last_day(platform: Airflow) -> None:
    dag = "expire_waivers"

    def ended_run(results: dict[str, Any]) -> str:
        jobs(platform, results)
        run = start(platform, dag, {})
        until_ended(platform, dag, run)
        return run

    def read() -> tuple[list[tuple[str, bool]], list[str], list[str]]:
        found = status(platform, PASSWORD)
        runs = [(run["run"], run["failed"]) for run in found["facts"]["dag_runs"] if run["dag"] == dag]
        texts = [[text for text in of if f"the DAG {dag}" in text] for of in (problem_texts(found), found["changes"])]
        return runs, *texts

    failed = ended_run({})  # without a result the job fails
    runs, problems, changes = read()
    assert runs == [(failed, True)]
    assert [re.sub(r"failed .*", "failed", text) for text in problems] == [f"the last run of the DAG {dag} failed"]
    assert [text.partition(": ")[2] for text in changes] == [f"the run {failed} of the DAG {dag} failed"]

    passed = ended_run({"expire-waivers": {"changed": True}})
    runs, problems, changes = read()
    assert runs == [(passed, False), (failed, True)]
    assert problems == []
    assert [text.partition(": ")[2] for text in changes] == [f"the run {failed} of the DAG {dag} failed"]


def test_fraud_status_reports_a_refused_login(platform: Airflow) -> None:
    found = status(platform, "wrong")
    assert found["facts"]["dag_runs"] is None
    assert [text for text in problem_texts(found) if text.startswith("Airflow cannot be read: ") and "401" in text]


def problem_texts(found: dict[str, Any]) -> list[str]:
    return [problem["text"] for problem in found["problems"]]
