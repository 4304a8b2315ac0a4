"""Train the ladder and hold the best level against the gates.

**What.** A point-in-time training set, all four levels (rule, logistic, boosted trees, network), the choice among
them, and the gates. What passes is registered as a candidate. Equal inputs find the version they made before.

**When.** When new features and new labels are both there, or when monitoring asks for retraining: then the MLflow run
says why (tag `cause`).

**Triage.** *`candidate` skipped*: a gate failed. The log of `candidate` lists the gates with their values, failed ones
first; the button *Report* of `train` opens the whole report, *MLflow run* the run. Nothing in production changed.
*Exit code 3 or 65 in training_set*: too few days or frauds for the split in params.yaml; the message says how many
there are.
"""

from typing import Any

from airflow.sdk import XComArg, task
from airflow.sdk.exceptions import AirflowSkipException

from fraud_airflow.defaults import CANDIDATE, FEATURES, LABELS, fraud_dag
from fraud_airflow.gates import gate_lines
from fraud_airflow.operator import FraudJobOperator
from fraud_airflow.retraining import RETRAINING_REQUESTED


@task(outlets=[CANDIDATE])
def candidate(trained: dict[str, Any]) -> str:
    """Announce the version when every gate passed."""
    for line in gate_lines(trained["gates"]):
        print(line)
    if not trained["gates_passed"]:
        raise AirflowSkipException("a gate failed: production stays as it is")
    return str(trained["version"])


with fraud_dag("train_fraud_model", doc=__doc__, stage="training", schedule=(FEATURES & LABELS) | RETRAINING_REQUESTED):
    training_set = FraudJobOperator(task_id="training_set", job="training-set")
    train = FraudJobOperator(
        task_id="train",
        job="train",
        arguments=[
            "--snapshot={{ ti.xcom_pull(task_ids='training_set')['snapshot'] }}",
            "--cause={{ retraining_cause(triggering_asset_events) }}",
        ],
    )
    training_set >> train
    candidate(XComArg(train))
