"""Defaults of every DAG, and the assets that connect the DAGs (docs/architecture.md)."""

from datetime import timedelta
from typing import Any, Final

from airflow.sdk import DAG, Asset, CronTriggerTimetable

from fraud_airflow.approval import answer_reason, answered_by, approved, gates_as_text, waiver
from fraud_airflow.retraining import retraining_cause

TASK_DEFAULTS: Final[dict[str, Any]] = {
    "owner": "ml-platform",
    # The operator fails without a retry where another try cannot help.
    "retries": 3,
    "retry_delay": timedelta(seconds=20),
    "retry_exponential_backoff": True,
    "max_retry_delay": timedelta(minutes=10),
    "execution_timeout": timedelta(hours=2),
}

DELIVERY: Final = Asset("delivery", uri="x-fraud://lake/delivery", group="lake")
LABELS: Final = Asset("labels", uri="x-fraud://lake/labels", group="lake")
FEATURES: Final = Asset("features", uri="x-fraud://lake/features", group="lake")
SCORES: Final = Asset("scores", uri="x-fraud://lake/scores", group="lake")
CANDIDATE: Final = Asset("candidate", uri="x-fraud://registry/candidate", group="registry")
PRODUCTION_MODEL: Final = Asset("production_model", uri="x-fraud://registry/production", group="registry")

SCORING_POOL: Final = "scoring"
"""A pool with one slot, so that scoring leaves a core to training. services/airflow/pools.json defines the pools."""


def fraud_dag(dag_id: str, *, doc: str | None, stage: str, schedule: Any = None, **more: Any) -> DAG:
    """A DAG with the platform's defaults. One run at a time: concurrent runs would repeat each other's work.

    `schedule` as text is a cron expression in UTC.
    """
    if isinstance(schedule, str):
        # By default a new installation would start the run that was due up to a tenth of the period ago.
        schedule = CronTriggerTimetable(schedule, timezone="UTC", run_immediately=timedelta(0))
    return DAG(
        dag_id,
        description=(doc or "").strip().splitlines()[0],
        doc_md=doc,
        schedule=schedule,
        catchup=False,
        max_active_runs=1,
        default_args=TASK_DEFAULTS,
        tags=["fraud", stage],
        user_defined_macros={
            function.__name__: function
            for function in (approved, answered_by, answer_reason, gates_as_text, retraining_cause, waiver)
        },
        **more,
    )
