"""Monitoring's request for a training run: at most one per cool-down. The training records the cause."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import Asset, TriggerRule, task
from airflow.sdk.exceptions import AirflowSkipException

from fraud_airflow.job_environment import JobEnvironment

RETRAINING_REQUESTED = Asset("retraining_requested", uri="x-fraud://monitoring/retraining", group="monitoring")
RETRAINING_POOL = "retraining"
"""A pool with one slot: of two concurrent monitors, the second one reads the request of the first one."""
CAUSES = "causes"


# The asset's own events are the only record of requests.
@task(
    inlets=[RETRAINING_REQUESTED],
    outlets=[RETRAINING_REQUESTED],
    pool=RETRAINING_POOL,
    trigger_rule=TriggerRule.NONE_FAILED,
)
def request_retraining(
    results: Mapping[str, Mapping[str, Any] | None], *, inlet_events: Any = None, outlet_events: Any = None
) -> list[str]:
    """Request a training run and return its causes. `results`: cause -> result of a monitor.

    Raises AirflowSkipException when no result has `retrain`, and when the last request is younger than the cool-down.
    """
    causes = sorted(cause for cause, result in results.items() if result and result["retrain"])
    if not causes:
        raise AirflowSkipException("no monitor requests retraining")
    cool_down = timedelta(hours=JobEnvironment.read().retraining_cool_down_hours)
    before = list(inlet_events[RETRAINING_REQUESTED].ascending(False).limit(1))
    if before and (since := datetime.now(UTC) - before[0].timestamp) < cool_down:
        raise AirflowSkipException(f"{', '.join(causes)}: retraining was requested {since} ago, cool-down {cool_down}")
    outlet_events[RETRAINING_REQUESTED].extra = {CAUSES: causes}
    return causes


def retraining_cause(triggering_asset_events: Mapping[Any, Any]) -> str:
    """The causes of a run that monitoring requested, for a template; "" for any other run."""
    named = {
        cause
        for asset, events in triggering_asset_events.items()
        if asset.name == RETRAINING_REQUESTED.name
        for event in events
        for cause in (event.extra or {}).get(CAUSES, [])
    }
    return ", ".join(sorted(named))
