"""Write the new messages of the Kafka topics `transactions` and `labels` to the landing zone.

**What.** Each message becomes one row of a file below `transactions/topic=...` or `labels/topic=...` of the landing
zone, exactly once. `ingest_transactions` takes the files like those of any delivery. Offsets of consumer groups are not
used.

**When.** Every hour at minute 50, if `FRAUD_KAFKA_BROKERS` is set; otherwise only by hand. A topic without new messages
is skipped. By hand: trigger with `accept_loss` to continue behind messages that retention removed.

**Triage.** *Exit code 65, retention removed messages*: the DAG did not run for longer than the topic's retention. The
error has the offsets. Have them sent again, or deliver them as files; then trigger with `accept_loss`. *Exit code 65,
no topic*: create it (docs/streaming.md). *Exit code 2*: login or access rights. *Exit code 75*: the brokers do not
answer; the task is retried. *Many unreadable messages*: `fraud rejected list`. A rerun is safe.
"""

import os

from airflow.sdk import Param, TriggerRule

from fraud_airflow.defaults import fraud_dag
from fraud_airflow.operator import FraudJobOperator

with fraud_dag(
    "land_topics",
    doc=__doc__,
    stage="data",
    schedule="50 * * * *" if os.environ.get("FRAUD_KAFKA_BROKERS") else None,
    params={"accept_loss": Param(False, type="boolean", description="continue behind messages that retention removed")},
):
    FLAG = "--{{ 'accept-loss' if params.accept_loss else 'no-accept-loss' }}"
    transactions = FraudJobOperator(
        task_id="transactions", job="ingest-topic", arguments=["--feed=transactions", FLAG], change_fields=("files",)
    )
    transactions >> FraudJobOperator(
        task_id="labels",
        job="ingest-topic",
        arguments=["--feed=labels", FLAG],
        trigger_rule=TriggerRule.ALL_DONE,
        change_fields=("files",),
    )
