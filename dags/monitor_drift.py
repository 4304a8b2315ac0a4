"""Compare recent days with what the Production model was trained on.

**What.** Each feature's distribution and the model's scores against the training reference, with tests that do not
change with the sample's size; an HTML report per day and figures for Prometheus.

**When.** After each night's scores.

**Triage.** *Retraining requested*: more of the features drifted than params.yaml allows. Open *Report* and see which:
one alone often is a source that changed its units; many at once a season or a new country. Training follows by itself,
and its gates decide.
"""

from typing import Any

from airflow.sdk import XComArg, task
from airflow.sdk.exceptions import AirflowSkipException

from fraud_airflow.defaults import RETRAINING_REQUESTED, SCORES, fraud_dag
from fraud_airflow.operator import FraudJobOperator


@task(outlets=[RETRAINING_REQUESTED])
def request_retraining(measured: dict[str, Any]) -> None:
    """Ask for a training run when too much drifted."""
    if not measured["retrain"]:
        raise AirflowSkipException("no drift that asks for retraining")


with fraud_dag("monitor_drift", doc=__doc__, stage="monitoring", schedule=[SCORES]):
    request_retraining(XComArg(FraudJobOperator(task_id="drift", job="drift")))
