"""Train the ladder of models, and evaluate the best level against the gates.

**What.** `training_set` builds a point-in-time training set. It is retried until the features contain all ingested
transactions and labels. `train` trains all four levels (rule, logistic regression, boosted trees, network), selects
one, evaluates the gates and registers the version. `candidate` announces a version that passed. Equal inputs find the
version that they produced before.

**When.** After new features and new labels, or when a monitor requests retraining; the tag `cause` of the MLflow run
then names the monitor.

**Triage.** *`candidate` skipped*: a gate failed, and Production is unchanged. The log of `candidate` lists the gates,
the failed ones first; the buttons *Report* and *MLflow run* of `train` open the details. *Exit code 75 in
`training_set`, after all retries*: run `build_features`, then clear the task. *Exit code 3 or 65*: too few days or
frauds for the split in params.yaml; the message has the numbers.
"""

from typing import Any

from airflow.sdk import XComArg, task
from airflow.sdk.exceptions import AirflowSkipException

from fraud_airflow.approval import gate_lines
from fraud_airflow.defaults import CANDIDATE, FEATURES, LABELS, fraud_dag
from fraud_airflow.operator import FraudJobOperator
from fraud_airflow.retraining import RETRAINING_REQUESTED


@task(outlets=[CANDIDATE])
def candidate(trained: dict[str, Any]) -> str:
    """Announce the version when every gate passed."""
    print(*gate_lines(trained["gates"]), sep="\n")
    if not trained["gates_passed"]:
        raise AirflowSkipException("a gate failed; Production is unchanged")
    return str(trained["version"])


with fraud_dag("train_fraud_model", doc=__doc__, stage="training", schedule=(FEATURES & LABELS) | RETRAINING_REQUESTED):
    # It is retried while build_features runs: new labels, with the features of an earlier delivery, start both DAGs.
    training_set = FraudJobOperator(task_id="training_set", job="training-set", retries=8)
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
