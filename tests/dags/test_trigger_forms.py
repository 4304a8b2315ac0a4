"""Every DAG's trigger form, filled in and submitted in headless Chromium on a real Airflow, in each documented way."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag

from . import browser as chromium
from .browser import Browser, until
from .live import ROOT, Airflow, airflow

# DAG, the entered values, the configuration of the run. The value of a switch is the number of clicks on it.
NOTHING: dict[str, Any] = {}
UNSET = {"date": None, "from": None, "to": None}
FORMS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("apply_retention", NOTHING, {"dry_run": False}),
    ("apply_retention", {"dry_run": 1}, {"dry_run": True}),
    ("apply_retention", {"dry_run": 2}, {"dry_run": False}),
    ("build_features", NOTHING, {}),
    ("expire_waivers", NOTHING, {}),
    ("ingest_transactions", NOTHING, {"feed": "all"}),
    ("ingest_transactions", {"feed": "transactions"}, {"feed": "transactions"}),
    ("ingest_transactions", {"feed": "labels"}, {"feed": "labels"}),
    ("land_topics", NOTHING, {"accept_loss": False}),
    ("land_topics", {"accept_loss": 1}, {"accept_loss": True}),
    ("monitor_drift", NOTHING, {}),
    ("monitor_skew", NOTHING, {}),
    ("promote_model", NOTHING, {"version": None, "approval": False}),
    ("promote_model", {"version": "7"}, {"version": "7", "approval": False}),
    ("promote_model", {"version": "7", "approval": 1}, {"version": "7", "approval": True}),
    ("promote_model", {"approval": 1}, {"version": None, "approval": True}),
    ("reproduce_model", NOTHING, {"version": "production"}),
    ("reproduce_model", {"version": "3"}, {"version": "3"}),
    ("rollback_model", NOTHING, {"reason": "rolled back from Airflow"}),
    ("rollback_model", {"reason": "declines legitimate trips"}, {"reason": "declines legitimate trips"}),
    ("score_nightly", NOTHING, UNSET),
    ("score_nightly", {"date": "2026-01-31"}, UNSET | {"date": "2026-01-31"}),
    ("score_nightly", {"from": "2026-01-31", "to": "2026-02-28"}, UNSET | {"from": "2026-01-31", "to": "2026-02-28"}),
    ("train_fraud_model", NOTHING, {}),
]

pytestmark = [
    pytest.mark.slow,  # an Airflow's start, and some twenty forms
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(chromium.MISSING), reason=chromium.MISSING),
]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Iterator[Airflow]:
    """An Airflow without a scheduler: the test reads the queued runs."""
    with airflow(tmp_path_factory.mktemp("airflow"), database, ["api-server"]) as running:
        yield running


@pytest.fixture(scope="module")
def browser(platform: Airflow) -> Iterator[Browser]:
    with chromium.browsing() as opened:
        platform.login(opened)
        yield opened


def enter(browser: Browser, field: str, value: Any, kind: str) -> None:
    """Fill in one field."""
    control = f"//*[@role='dialog']//input[@name='element_{field}']"
    if kind == "switch":
        for _ in range(value):
            browser.click(f"{control}/ancestor::label")
    elif kind == "choice":
        browser.type(f"{control}/..//input[@role='combobox']", value + chromium.ENTER)
    elif kind == "date":
        year, month, day = value.split("-")
        browser.type(control, f"{month}{day}{year}")
    else:
        browser.type(control, value)


@pytest.mark.parametrize(("dag", "entered", "conf"), FORMS, ids=[f"{dag}-{entered}" for dag, entered, _ in FORMS])
def test_a_form_starts_a_run_with_what_was_entered(
    platform: Airflow, browser: Browser, dag: str, entered: dict[str, Any], conf: dict[str, Any]
) -> None:
    def runs() -> dict[str, Any]:
        answer = api.get(f"/dags/{dag}/dagRuns").raise_for_status().json()
        return {run["dag_run_id"]: run["conf"] for run in answer["dag_runs"]}

    with platform.api as api:
        before = runs()
        browser.open(f"{platform.url}/dags/{dag}")
        browser.click("//button[normalize-space()='Trigger']")
        browser.find("//*[@role='dialog']//*[normalize-space()='Advanced Options']")
        for field, value in entered.items():
            enter(browser, field, value, kind_of(dag, field))
        browser.click("//button[@data-testid='trigger-dag-submit']")
        after = until(
            lambda: len(found := runs()) > len(before) and found, f"a run of {dag}; the page:\n{browser.text}"
        )
    assert [after[run] for run in after.keys() - before.keys()] == [conf]


def kind_of(dag: str, field: str) -> str:
    """The kind of a field in the form."""
    schema = DAGS[dag].params.get_param(field).schema
    if schema.get("type") == "boolean":
        return "switch"
    return "choice" if "enum" in schema else schema.get("format", "text")


DAGS = DagBag(ROOT / "dags").dags


def test_every_dag_and_every_field_is_filled_in_above() -> None:
    assert {dag for dag, _, _ in FORMS} == set(DAGS)
    for name, dag in DAGS.items():
        assert {field for filled, entered, _ in FORMS if filled == name for field in entered} == set(dag.params)
