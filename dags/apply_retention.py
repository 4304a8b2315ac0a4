"""Remove data, models and reports that are older than their retention period.

**What.** Removes old days of the lake, landed files that were ingested, quarantined rows, model versions that never
were Production (with their MLflow runs), training sets, objects of the DVC remote, and reports. A version that an alias
names or that ever was Production is kept whole. The periods are settings: docs/operations.md.

**When.** Saturdays at 05:00 UTC. By hand: trigger with `dry_run` to list in the log what would be removed.

**Triage.** *Refused (exit code 3)*: the promotion history does not verify, or the DVC remote lacks data of a kept
version. Nothing was removed; repair what the message names and clear the task. *Exit code 75*: the registry does not
answer; the task is retried. A rerun is safe: it continues with what is left.
"""

from airflow.sdk import Param

from fraud_airflow.defaults import fraud_dag
from fraud_airflow.operator import FraudJobOperator

with fraud_dag(
    "apply_retention",
    doc=__doc__,
    stage="data",
    schedule="0 5 * * 6",
    params={"dry_run": Param(False, type="boolean", description="list what would be removed, and remove nothing")},
):
    FraudJobOperator(
        task_id="apply_retention",
        job="apply-retention",
        arguments=["--{{ 'dry-run' if params.dry_run else 'no-dry-run' }}"],
    )
