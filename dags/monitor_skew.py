"""Compare the features that serving used with a recomputation from the lake, bit by bit.

**What.** `ship_predictions` copies serving's prediction log into the lake. `skew` computes every logged feature vector
again from what was known at that moment, and counts equal, different, missing and extra values per feature. The
expected number of differences is 0.

**When.** After new features.

**Triage.** *Differences found*: serving and training compute a feature differently. Open *Report*: it lists the first
differences with both values. Compare the `feature_hash` of the served model with the lake's first. Retraining is
requested at most once per cool-down. *Exit code 65*: a segment of the prediction log is damaged; the log names the file
and the line.
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
