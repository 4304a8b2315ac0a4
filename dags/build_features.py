"""Compute daily snapshots and the features of changed days, and load new events into the online store.

**What.** `build_daily` computes the daily snapshots (a merchant's fraud rate, for example) whose transactions or labels
changed. `build_features` computes the window and daily features of each day that changed and of the days whose windows
contain it. `materialize` appends new events to the histories in the online store, publishes the newest snapshots there
and updates Feast's views. All three work for the project's declaration and for those of versions with an alias.

**When.** After each ingest that accepted transactions or labels.

**Triage.** *Exit code 75 in `materialize`*: the online store does not answer. The task is retried; until it succeeds,
serving answers with `degraded: true`. *Exit code 75 in `build_daily`*: the registry does not answer. *A day has wrong
features*: deliver the missing or corrected file and run `ingest_transactions`; every day that it affects is computed
again. Clearing the tasks is safe: without a changed day `build_features` is skipped and starts no other DAG.
"""

from airflow.sdk import TriggerRule

from fraud_airflow.defaults import DELIVERY, FEATURES, fraud_dag
from fraud_airflow.operator import FraudJobOperator

with fraud_dag("build_features", doc=__doc__, stage="features", schedule=[DELIVERY]):
    # The features contain the daily values.
    daily = FraudJobOperator(task_id="build_daily", job="build-daily", arguments=["--live"])
    build = FraudJobOperator(
        task_id="build_features", job="build-features", arguments=["--live"], change_fields=("days_built",),
        outlets=[FEATURES],
    )  # fmt: skip
    # An earlier run may have built days without loading them: materialize loads every missing event.
    (
        daily
        >> build
        >> FraudJobOperator(
            task_id="materialize", job="materialize", arguments=["--live"], trigger_rule=TriggerRule.NONE_FAILED
        )
    )
