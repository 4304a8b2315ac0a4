"""Replace the Production model when the waiver it was promoted with has expired.

**What.** A waiver of failed gates is valid until a day. On that day Production is set back to the last Production
version before it that needs no waiver, or whose waiver is valid. The promotion history records the action `expire`.

**When.** Daily at 00:05 UTC. The task is skipped when no waiver has expired.

**Triage.** *Refused (exit code 3)*: no earlier version can take over, so Production is still the version with the
expired waiver. Promote a version whose gates passed, or waive again with a later day: docs/gates.md. *Exit code 75*:
the registry does not answer; the task is retried.
"""

from fraud_airflow.defaults import PRODUCTION_MODEL, fraud_dag
from fraud_airflow.operator import FraudJobOperator

with fraud_dag("expire_waivers", doc=__doc__, stage="registry", schedule="5 0 * * *"):
    FraudJobOperator(
        task_id="expire_waivers",
        job="expire-waivers",
        actor="expire_waivers",
        change_fields=("changed",),
        outlets=[PRODUCTION_MODEL],
    )
