"""Compute the window features of the days that changed, and bring new events into the online store.

**What.** `build_features` computes velocity, average amount and distinct merchants for each changed day and the days
it reaches into. `materialize` then appends new events to the online store's user histories and to Feast's view.

**When.** After each ingest that took in transactions.

**Triage.** *Exit code 75 in materialize*: the online store does not answer; it is tried again by itself, and serving
answers `degraded` meanwhile. *A day is wrong*: a late file re-opens exactly the days it touches, so deliver it and let
ingest run. Clearing both tasks is always safe.
"""

from airflow.sdk import TriggerRule

from fraud_airflow.defaults import FEATURES, TRANSACTIONS, fraud_dag
from fraud_airflow.operator import FraudJobOperator

with fraud_dag("build_features", doc=__doc__, stage="features", schedule=[TRANSACTIONS]):
    build = FraudJobOperator(task_id="build_features", job="build-features", news=("days_built",), outlets=[FEATURES])
    # An earlier run may have built days and then lost the online store: bring over whatever is missing.
    build >> FraudJobOperator(task_id="materialize", job="materialize", trigger_rule=TriggerRule.NONE_FAILED)
