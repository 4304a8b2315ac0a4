"""Make a candidate the Production model.

**What.** Moves the alias `production` to a version, after a person's approval where one is required. The form shows
every gate. Approving a version that failed gates waives them: the form requires the reason and the day on which the
waiver expires. The answer, the person and the reason are kept in the promotion history. *Reject*, or no answer within
two days, removes the version from `staging`. Serving loads a new version automatically.

**When.** After a training whose gates all passed. By hand: trigger with `version`, and with `approval` to require one.

**Triage.** *Refused (exit code 3)*: the message names the failed gate or the newer Production; a rerun is refused too.
To waive gates, trigger again with `version` and `approval`. *Waiting*: answer under *Required Actions*. *The wrong
model is live*: trigger `rollback_model`.
"""

from datetime import timedelta

from airflow.sdk import Param, TriggerRule

from fraud_airflow.approval import APPROVAL, GATES, OptionalApproval
from fraud_airflow.defaults import CANDIDATE, PRODUCTION_MODEL, fraud_dag
from fraud_airflow.job_environment import JobEnvironment
from fraud_airflow.operator import FraudJobOperator

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
        "approval": Param(JobEnvironment.read().approval, type="boolean", description="require an approval"),
    },
):
    gates = FraudJobOperator(
        task_id=GATES, job="gates", arguments=["{{ params.version or 'staging' }}"], required_fields=("version",)
    )
    approval = OptionalApproval(
        task_id=APPROVAL, condition="{{ params.approval }}", subject="Make the candidate the Production model?",
        body="{{ gates_as_text(ti) }}", response_timeout=timedelta(days=2), execution_timeout=None, retries=0,
    )  # fmt: skip
    promote = FraudJobOperator(
        task_id="promote", job="promote", arguments=[VERSION, REASON, *WAIVER], condition="{{ approved(ti) }}",
        actor="{{ answered_by(ti) or dag_run.triggering_user_name or 'airflow' }}",
        trigger_rule=TriggerRule.NONE_FAILED, change_fields=("changed",), outlets=[PRODUCTION_MODEL],
    )  # fmt: skip
    reject = FraudJobOperator(
        task_id="reject", job="reject", arguments=[VERSION, REASON], condition="{{ not approved(ti) }}",
        actor="{{ answered_by(ti) }}", trigger_rule=TriggerRule.NONE_FAILED,
    )  # fmt: skip
    gates >> approval >> [promote, reject]
