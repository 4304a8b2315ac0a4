"""The monitors' request for retraining, in a separate Airflow, with stand-in programs for `fraud`."""

import json
import sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fraud_airflow.retraining import retraining_cause

DAGS = Path(__file__).resolve().parents[2] / "dags"


@pytest.fixture
def monitors(database: Path, stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a monitor's DAG. The named jobs return `retrain`. Gives the states of the request task and of the run."""
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(DAGS)
    retraining = tmp_path / "retraining.json"
    stand_in.write_text(
        f"#!{sys.executable}\nimport json, sys\n"
        f"jobs = json.load(open({str(retraining)!r}))\n"
        "print(json.dumps({'retrain': sys.argv[1] in jobs}))\n"
    )
    stand_in.chmod(0o755)

    def run(dag_id: str, *drifted: str) -> tuple[str, str]:
        retraining.write_text(json.dumps(drifted))
        finished = bag.dags[dag_id].test(logical_date=None)
        states = {task.task_id: str(task.state) for task in finished.get_task_instances()}
        return states["request_retraining"], str(finished.state)

    return run


def events() -> list[list[str]]:
    """The causes of each request so far."""
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        found = session.scalars(
            select(AssetEvent)
            .join(AssetModel, AssetEvent.asset_id == AssetModel.id)
            .where(AssetModel.name == "retraining_requested")
            .order_by(AssetEvent.id)
        )
        return [event.extra["causes"] for event in found]


@pytest.mark.slow  # five runs of a DAG
def test_a_request_has_its_causes_and_is_made_at_most_once_per_cool_down(
    monitors: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One test, because the cool-down is computed from the earlier requests."""
    assert monitors("monitor_drift") == ("skipped", "success")
    assert events() == []
    assert monitors("monitor_drift", "drift", "concept-drift") == ("success", "success")
    assert events() == [["concept drift", "data drift"]]
    # Within the cool-down, from either monitor.
    assert monitors("monitor_drift", "drift") == ("skipped", "success")
    assert monitors("monitor_skew", "skew") == ("skipped", "success")
    assert len(events()) == 1
    monkeypatch.setenv("FRAUD_RETRAINING_COOL_DOWN_HOURS", str(timedelta(microseconds=1) / timedelta(hours=1)))
    assert monitors("monitor_skew", "skew") == ("success", "success")
    assert events() == [["concept drift", "data drift"], ["skew"]]


def test_a_training_run_has_the_causes_of_its_request() -> None:
    from airflow.sdk import Asset

    requested = [SimpleNamespace(extra={"causes": ["skew"]}), SimpleNamespace(extra={"causes": ["data drift", "skew"]})]
    nightly = {Asset("features"): [SimpleNamespace(extra={})]}
    assert retraining_cause(nightly) == ""
    assert retraining_cause({**nightly, Asset("retraining_requested"): requested}) == "data drift, skew"
