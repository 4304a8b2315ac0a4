"""Compute the window features of changed days, and load new events into the online store.

**What.** `build_features` computes velocity, average amount and distinct merchants for each day that changed and for
the days whose windows contain it. `materialize` appends new events to the user histories in the online store and
updates Feast's view.

**When.** After each ingest that accepted transactions.

**Triage.** *Exit code 75 in `materialize`*: the online store does not answer. The task is retried; until it succeeds,
serving answers with `degraded: true`. *A day has wrong features*: deliver the missing or corrected file and run
`ingest_transactions`; every day that it affects is computed again. Clearing both tasks is safe: without a changed day
`build_features` is skipped and starts no other DAG.
"""

from airflow.sdk import TriggerRule

from fraud_airflow.defaults import FEATURES, TRANSACTIONS, fraud_dag
from fraud_airflow.operator import FraudJobOperator

with fraud_dag("build_features", doc=__doc__, stage="features", schedule=[TRANSACTIONS]):
    build = FraudJobOperator(
        task_id="build_features", job="build-features", change_fields=("days_built",), outlets=[FEATURES]
    )
    # An earlier run may have built days without loading them: materialize loads every missing event.
    build >> FraudJobOperator(task_id="materialize", job="materialize", trigger_rule=TriggerRule.NONE_FAILED)
