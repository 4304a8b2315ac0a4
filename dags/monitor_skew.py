"""Recompute what serving saw, and compare, bit for bit.

**What.** Brings serving's prediction log into the lake, computes every logged feature vector again from what was known
at that moment, and counts equal, mismatching, missing and extra values per feature. Expected: no mismatch at all.

**When.** After new features.

**Triage.** *A mismatch*: training and serving no longer mean the same by a feature; the report lists the first ones
with both values. Compare the `feature_hash` of the served model with the lake's before anything else; retraining is
requested by itself, at most once per cool-down. *Exit code 65*: a segment of the prediction log is damaged; the log
names file and line.
"""

from airflow.sdk import TriggerRule, XComArg

from fraud_airflow.defaults import FEATURES, fraud_dag
from fraud_airflow.operator import FraudJobOperator
from fraud_airflow.retraining import request_retraining

with fraud_dag("monitor_skew", doc=__doc__, stage="monitoring", schedule=[FEATURES]):
    ship = FraudJobOperator(task_id="ship_predictions", job="ship-predictions")
    skew = FraudJobOperator(task_id="skew", job="skew", trigger_rule=TriggerRule.NONE_FAILED)
    ship >> skew
    request_retraining({"skew": XComArg(skew)})
