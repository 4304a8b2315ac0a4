"""Monitoring's request for a training run: at most one per cool-down, and the training says why it was asked for."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import Asset, TriggerRule, task
from airflow.sdk.exceptions import AirflowSkipException

from fraud_airflow.job_environment import JobEnvironment

RETRAINING_REQUESTED = Asset("retraining_requested", uri="x-fraud://monitoring/retraining", group="monitoring")
RETRAINING_POOL = "retraining"
"""One slot: of two monitors that ask at the same moment, the second one sees what the first one asked."""
CAUSES = "causes"


# The asset's own events are the memory: there is no other record of requests that could disagree with them.
@task(
    inlets=[RETRAINING_REQUESTED],
    outlets=[RETRAINING_REQUESTED],
    pool=RETRAINING_POOL,
    trigger_rule=TriggerRule.NONE_FAILED,
)
def request_retraining(
    results: Mapping[str, Mapping[str, Any] | None], *, inlet_events: Any = None, outlet_events: Any = None
) -> list[str]:
    """Ask for a training run when a monitor's result (cause -> result) wants one; the causes.

    Skipped when none does, and when the last request lies less than the cool-down back.
    """
    causes = sorted(cause for cause, result in results.items() if result and result["retrain"])
    if not causes:
        raise AirflowSkipException("nothing asks for retraining")
    cool_down = timedelta(hours=JobEnvironment.read().retraining_cool_down_hours)
    before = list(inlet_events[RETRAINING_REQUESTED].ascending(False).limit(1))
    if before and (since := datetime.now(UTC) - before[0].timestamp) < cool_down:
        raise AirflowSkipException(f"{', '.join(causes)}: retraining was requested {since} ago, cool-down {cool_down}")
    outlet_events[RETRAINING_REQUESTED].extra = {CAUSES: causes}
    return causes


def retraining_cause(triggering_asset_events: Mapping[Any, Any]) -> str:
    """Why this run of a DAG was asked for by monitoring, for a template; "" when it was not."""
    named = {
        cause
        for asset, events in triggering_asset_events.items()
        if asset.name == RETRAINING_REQUESTED.name
        for event in events
        for cause in (event.extra or {}).get(CAUSES, [])
    }
    return ", ".join(sorted(named))
