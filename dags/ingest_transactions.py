"""Take what a source delivered into the lake.

**What.** Every file in the landing zone that was not taken in before: transactions and fraud labels, each as its own
feed. Rows that break the contract go to quarantine with their reason, duplicates are dropped by `transaction_id`, and
the run fails unless rows in = accepted + quarantined + duplicates.

**When.** Nightly at 02:00 UTC, and whenever somebody triggers it; `feed` narrows it to one feed. A feed with nothing
new is skipped and starts nothing.

**Triage.** *Exit code 65*: the file cannot be read at all. The log names it and what is wrong; mend it at the source
and deliver it again. *Many rows quarantined*: read the reasons in the log; a category, unit or time zone that came out
wrong is a matter of the mapping. Running it again is always safe.
"""

from datetime import timedelta

from airflow.sdk import CronTriggerTimetable, Param, TriggerRule

from fraud_airflow.defaults import LABELS, TRANSACTIONS, fraud_dag
from fraud_airflow.operator import FraudJobOperator

with fraud_dag(
    "ingest_transactions",
    doc=__doc__,
    stage="data",
    # A new installation waits for the next night: without the last part Airflow runs what up to 2.4 hours ago was due.
    schedule=CronTriggerTimetable("0 2 * * *", timezone="UTC", run_immediately=timedelta(0)),
    params={"feed": Param("all", enum=["all", "transactions", "labels"], description="which feed to take in")},
):
    transactions = FraudJobOperator(
        task_id="ingest",
        job="ingest",
        wanted="{{ params.feed in ('all', 'transactions') }}",
        news=("accepted",),
        outlets=[TRANSACTIONS],
    )
    # After the transactions, so that a label can be told from one whose transaction nobody has seen.
    transactions >> FraudJobOperator(
        task_id="ingest_labels",
        job="ingest-labels",
        wanted="{{ params.feed in ('all', 'labels') }}",
        trigger_rule=TriggerRule.NONE_FAILED,
        news=("accepted",),
        outlets=[LABELS],
    )
