"""Tests that need a whole Airflow: an approval in the browser, and cleared tasks. The jobs are stand-ins."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from . import browser as chromium
from .browser import until
from .live import Airflow, airflow
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


def until_ended(platform: Airflow, dag: str, run: str) -> None:
    """Wait for the end of the run itself, which follows the end of its last task."""

    def ended() -> bool:
        with platform.api as api:
            answer = api.get(f"/dags/{dag}/dagRuns/{quote(run)}").raise_for_status().json()
        return answer["state"] in ("success", "failed")

    until(ended, f"the run {run} of {dag} has ended", SECONDS)


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
