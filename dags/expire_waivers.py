"""Take Production back from a version whose waiver has ended.

**What.** A failed gate may be waived until a day. From that day on, the last Production before it takes over that
stands on no waiver, or on a valid one; the history records it as `expire`.

**When.** Every night, just after midnight UTC. Nothing happens while no waiver has ended.

**Triage.** *Refused (exit code 3)*: no earlier version can take over, and Production stands on an ended waiver.
Promote a version whose gates pass, or waive again with a new end: docs/gates.md. *Exit code 75*: the registry does not
answer; it is tried again by itself.
"""

from fraud_airflow.defaults import PRODUCTION_MODEL, fraud_dag
from fraud_airflow.operator import FraudJobOperator

with fraud_dag("expire_waivers", doc=__doc__, stage="registry", schedule="5 0 * * *"):
    FraudJobOperator(
        task_id="expire_waivers",
        job="expire-waivers",
        actor="expire_waivers",
        news=("changed",),
        outlets=[PRODUCTION_MODEL],
    )
