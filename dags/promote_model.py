"""Make a candidate the Production model.

**What.** Moves the alias `production` to a version whose gates passed, after a person's approval where that is asked
for. The question shows the gates; who answered, when and why is kept in the history and on the version. A no, and no
answer in two days, take the candidate off `staging`. Serving picks a new version up by itself.

**When.** After a training whose gates all passed. By hand: trigger with `version`, and set `approval` to ask somebody.

**Triage.** *Refused (exit code 3)*: the message names the gate or the newer version that stands in the way; running it
again changes nothing. *Waiting*: somebody has to answer under *Required Actions*. *Wrong model live*: trigger
`rollback_model`.
"""

from datetime import timedelta

from airflow.sdk import Param, TriggerRule

from fraud_airflow.approval import APPROVAL, GATES, OptionalApproval
from fraud_airflow.defaults import CANDIDATE, PRODUCTION_MODEL, fraud_dag
from fraud_airflow.operator import FraudJobOperator
from fraud_airflow.surroundings import Surroundings

VERSION = "--version={{ (ti.xcom_pull(task_ids='gates') or {}).get('version', '') }}"
REASON = "--reason={{ answer_reason(ti) }}"
WAIVER = [
    "--waive={{ waiver(ti).gates }}", "--waiver-reason={{ waiver(ti).reason }}",
    "--waiver-expires={{ waiver(ti).expires }}",
]  # fmt: skip

with fraud_dag(
    "promote_model",
    doc=__doc__,
    stage="registry",
    schedule=[CANDIDATE],
    params={
        "version": Param(None, type=["null", "string"], description="version to promote; empty: the newest candidate"),
        "approval": Param(Surroundings.read().approval, type="boolean", description="ask a person first"),
    },
):
    gates = FraudJobOperator(
        task_id=GATES, job="gates", arguments=["{{ params.version or 'staging' }}"], needs=("version",)
    )
    approval = OptionalApproval(
        task_id=APPROVAL,
        wanted="{{ params.approval }}",
        subject="Make the candidate the Production model?",
        body="{{ gates_for_people(ti) }}",
        response_timeout=timedelta(days=2),
        execution_timeout=None,
        retries=0,
    )
    promote = FraudJobOperator(
        task_id="promote", job="promote", arguments=[VERSION, REASON, *WAIVER], wanted="{{ approved(ti) }}",
        actor="{{ answered_by(ti) or dag_run.triggering_user_name or 'airflow' }}",
        trigger_rule=TriggerRule.NONE_FAILED, news=("changed",), outlets=[PRODUCTION_MODEL],
    )  # fmt: skip
    reject = FraudJobOperator(
        task_id="reject", job="reject", arguments=[VERSION, REASON], wanted="{{ not approved(ti) }}",
        actor="{{ answered_by(ti) }}", trigger_rule=TriggerRule.NONE_FAILED,
    )  # fmt: skip
    gates >> approval >> [promote, reject]
