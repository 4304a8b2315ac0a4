"""Set Production back to the version before the last change.

**What.** Moves the alias `production` back; the promotion history records who did it and why. Serving loads the version
within seconds, without a failed request.

**When.** By hand, when the live model is wrong. `reason` is kept in the promotion history.

**Triage.** *Refused (exit code 3)*: there is no earlier version; `fraud history` prints the changes. *Exit code 75*:
the registry does not answer. The task is retried, and serving keeps its model.
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
