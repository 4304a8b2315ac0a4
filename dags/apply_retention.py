"""Let go of what is too old to keep.

**What.** Days of the lake, landed files that were taken in, quarantined rows, versions that never were Production with
their runs, training sets, data in the DVC remote and reports. What an alias names or ever was Production stays whole.
Terms are settings: docs/operations.md.

**When.** Saturdays at 05:00 UTC. By hand: trigger with `dry_run` to see in the log what would go.

**Triage.** *Refused (exit code 3)*: the promotion history does not verify, or the DVC remote lacks what a kept version
needs; nothing is removed until that is cleared up. *Exit code 75*: the registry does not answer; it is tried again.
Running it again is always safe: it goes on with what is left.
"""

from airflow.sdk import Param

from fraud_airflow.defaults import fraud_dag
from fraud_airflow.operator import FraudJobOperator

with fraud_dag(
    "apply_retention",
    doc=__doc__,
    stage="data",
    schedule="0 5 * * 6",
    params={"dry_run": Param(False, type="boolean", description="remove nothing, say what would go")},
):
    FraudJobOperator(
        task_id="apply_retention",
        job="apply-retention",
        arguments=["--{{ 'dry-run' if params.dry_run else 'no-dry-run' }}"],
    )
