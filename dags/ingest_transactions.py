"""Read delivered files from the landing zone into the lake.

**What.** Reads every file that was not ingested before: transactions and fraud labels, each as a feed of its own. Rows
that break the contract are quarantined with their reason. Duplicates are dropped by `transaction_id`. The run fails
unless rows in = accepted + quarantined + duplicates. `delivery` announces both feeds together: features are built from
the transactions and the labels of a delivery.

**When.** Daily at 02:00 UTC. By hand: trigger with `feed` for one feed only. A feed without new rows is skipped.

**Triage.** *Exit code 65*: a file cannot be read, or no row of it could be. The log names the file, the first rows and
the reasons. Correct the file at its source, or the mapping, and deliver it again; the task is not retried. *Many rows
quarantined*: read the reasons in the log. A wrong category, unit or time zone is corrected in the mapping
(docs/data.md). A rerun is safe.
"""

from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import Param, TriggerRule, XComArg, task
from airflow.sdk.exceptions import AirflowSkipException

from fraud_airflow.defaults import DELIVERY, LABELS, fraud_dag
from fraud_airflow.operator import FraudJobOperator


@task(outlets=[DELIVERY], trigger_rule=TriggerRule.ALL_DONE)
def delivery(transactions: dict[str, Any] | None, labels: dict[str, Any] | None) -> None:
    """Announce new transactions or labels. A skipped or failed feed has no result."""
    if transactions is None and labels is None:
        raise AirflowSkipException("no feed has new rows")


with fraud_dag(
    "ingest_transactions",
    doc=__doc__,
    stage="data",
    schedule="0 2 * * *",
    params={"feed": Param("all", enum=["all", "transactions", "labels"], description="feed to ingest")},
):
    transactions = FraudJobOperator(
        task_id="ingest",
        job="ingest",
        condition="{{ params.feed in ('all', 'transactions') }}",
        change_fields=("accepted",),
    )
    # After the transactions, because a label is checked against the ingested transactions.
    labels = FraudJobOperator(
        task_id="ingest_labels",
        job="ingest-labels",
        condition="{{ params.feed in ('all', 'labels') }}",
        trigger_rule=TriggerRule.NONE_FAILED,
        change_fields=("accepted",),
        outlets=[LABELS],
    )
    transactions >> labels
    announced = delivery(XComArg(transactions), XComArg(labels))
    # Transactions are announced also when the labels failed. This task gives the run its state: it fails then.
    [labels, announced] >> EmptyOperator(task_id="complete", trigger_rule=TriggerRule.NONE_FAILED)
