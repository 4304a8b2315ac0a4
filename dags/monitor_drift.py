"""Compare recent days with the training data of the Production model, and its decisions with their labels.

**What.** `drift` compares the distribution of each feature and of the scores with the training reference.
`concept_drift` compares precision, recall, average precision, calibration and money on days whose labels have arrived
with the holdout. Each writes an HTML report, and its figures are exported to Prometheus.

**When.** After each night's scores.

**Triage.** *Retraining requested*: more features drifted than params.yaml allows, or the decisions are worse than on
the holdout. Open *Report*. One drifted feature is often a source that changed its unit; many at once are often a season
or a new market. Training starts automatically; its gates decide. *`request_retraining` skipped*: no monitor requests
retraining, or the last request is younger than `FRAUD_RETRAINING_COOL_DOWN_HOURS`; see the log.
"""

from airflow.sdk import XComArg

from fraud_airflow.defaults import SCORES, fraud_dag
from fraud_airflow.operator import FraudJobOperator
from fraud_airflow.retraining import request_retraining

with fraud_dag("monitor_drift", doc=__doc__, stage="monitoring", schedule=[SCORES]):
    drift = FraudJobOperator(task_id="drift", job="drift")
    concept = FraudJobOperator(task_id="concept_drift", job="concept-drift")
    request_retraining({"data drift": XComArg(drift), "concept drift": XComArg(concept)})
