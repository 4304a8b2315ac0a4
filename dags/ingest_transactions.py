"""Read delivered files from the landing zone into the lake.

**What.** Reads every file that was not ingested before: transactions and fraud labels, each as a feed of its own. Rows
that break the contract are quarantined with their reason. Duplicates are dropped by `transaction_id`. The run fails
unless rows in = accepted + quarantined + duplicates.

**When.** Daily at 02:00 UTC. By hand: trigger with `feed` to ingest one feed only. A feed without new rows is skipped
and starts no other DAG.

**Triage.** *Exit code 65*: a file cannot be read, or no row of it could be. The log names the file, the first rows and
the reasons. Correct the file at its source, or the mapping, and deliver it again; the task is not retried. *Many rows
quarantined*: read the reasons in the log. A wrong category, unit or time zone is corrected in the mapping
(docs/data.md). A rerun is safe.
"""

from datetime import timedelta

from airflow.sdk import CronTriggerTimetable, Param, TriggerRule

from fraud_airflow.defaults import LABELS, TRANSACTIONS, fraud_dag
from fraud_airflow.operator import FraudJobOperator

with fraud_dag(
    "ingest_transactions",
    doc=__doc__,
    stage="data",
    # Without run_immediately=0, a new installation would start the run that was due up to 2.4 hours ago.
    schedule=CronTriggerTimetable("0 2 * * *", timezone="UTC", run_immediately=timedelta(0)),
    params={"feed": Param("all", enum=["all", "transactions", "labels"], description="feed to ingest")},
):
    transactions = FraudJobOperator(
        task_id="ingest",
        job="ingest",
        condition="{{ params.feed in ('all', 'transactions') }}",
        change_fields=("accepted",),
        outlets=[TRANSACTIONS],
    )
    # After the transactions, because a label is checked against the ingested transactions.
    transactions >> FraudJobOperator(
        task_id="ingest_labels",
        job="ingest-labels",
        condition="{{ params.feed in ('all', 'labels') }}",
        trigger_rule=TriggerRule.NONE_FAILED,
        change_fields=("accepted",),
        outlets=[LABELS],
    )
