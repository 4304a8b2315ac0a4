"""Set Production back to the version before the last change.

**What.** One action: the alias `production` moves back, and the history records who did it and why. Serving swaps
within seconds, without a failed request.

**When.** By hand, when the live model is wrong. `reason` is kept in the history for ever.

**Triage.** *Refused (exit code 3)*: there is no earlier version to go back to; `fraud history` shows the changes.
*Exit code 75*: the registry does not answer; it is tried again by itself, and serving keeps its model.
"""

from airflow.sdk import Param

from fraud_airflow.defaults import PRODUCTION_MODEL, fraud_dag
from fraud_airflow.operator import FraudJobOperator

with fraud_dag(
    "rollback_model",
    doc=__doc__,
    stage="registry",
    params={"reason": Param("rolled back from Airflow", type="string", minLength=3, description="kept in the history")},
):
    FraudJobOperator(
        task_id="rollback",
        job="rollback",
        arguments=["--reason={{ params.reason }}"],
        actor="{{ dag_run.triggering_user_name or 'airflow' }}",
        outlets=[PRODUCTION_MODEL],
    )
