"""Make a candidate the Production model.

**What.** Moves the alias `production` to a version whose gates passed, after a person's approval where that is asked
for. The move is one row in an append-only history; serving picks the version up by itself.

**When.** After a training whose gates all passed. By hand: trigger with `version`, and set `approval` to ask somebody.

**Triage.** *Refused (exit code 3)*: the message names the gate or the newer version that stands in the way; running it
again changes nothing. *Waiting*: somebody has to answer under *Required Actions*. *Wrong model live*: trigger
`rollback_model`.
"""

from datetime import timedelta

from airflow.sdk import Param, TriggerRule

from fraud_airflow.approval import OptionalApproval
from fraud_airflow.defaults import CANDIDATE, PRODUCTION_MODEL, fraud_dag
from fraud_airflow.operator import FraudJobOperator
from fraud_airflow.surroundings import Surroundings

with fraud_dag(
    "promote_model",
    doc=__doc__,
    stage="registry",
    schedule=[CANDIDATE],
    params={
        "version": Param("", type="string", description="version to promote; empty: the newest candidate"),
        "approval": Param(Surroundings.read().approval, type="boolean", description="ask a person first"),
    },
):
    approval = OptionalApproval(
        task_id="approval",
        wanted="{{ params.approval }}",
        subject="Make the candidate the Production model?",
        body="The gates passed. Their report is behind the button *Report* of `train_fraud_model`'s task `train`.",
        fail_on_reject=True,
        response_timeout=timedelta(days=2),
        execution_timeout=None,
        retries=0,
    )
    approval >> FraudJobOperator(
        task_id="promote",
        job="promote",
        arguments=["--version={{ params.version }}"],
        actor="{{ approved_by(ti) or dag_run.triggering_user_name or 'airflow' }}",
        trigger_rule=TriggerRule.NONE_FAILED,
        news=("changed",),
        outlets=[PRODUCTION_MODEL],
    )
