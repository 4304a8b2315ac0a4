"""Compare recent days with what the Production model was trained on, and its decisions with the labels that came.

**What.** *drift*: each feature's distribution and the model's scores against the training reference, with one statistic
whatever the sample's size. *concept_drift*: precision, recall, average precision, calibration and money of what was
decided, per day with mature labels, against what the holdout promised. Each writes an HTML report and figures for
Prometheus.

**When.** After each night's scores.

**Triage.** *Retraining requested*: more features drifted than params.yaml allows, or decisions are worse than promised.
Open *Report* and see which: one feature alone often is a source that changed its units; many at once a season or a new
country. Training follows by itself, and its gates decide. *`request_retraining` skipped*: nothing asked for it, or the
last request is younger than the cool-down (`FRAUD_RETRAINING_COOL_DOWN_HOURS`); its log says which.
"""

from airflow.sdk import XComArg

from fraud_airflow.defaults import SCORES, fraud_dag
from fraud_airflow.operator import FraudJobOperator
from fraud_airflow.retraining import request_retraining

with fraud_dag("monitor_drift", doc=__doc__, stage="monitoring", schedule=[SCORES]):
    drift = FraudJobOperator(task_id="drift", job="drift")
    concept = FraudJobOperator(task_id="concept_drift", job="concept-drift")
    request_retraining({"data drift": XComArg(drift), "concept drift": XComArg(concept)})
