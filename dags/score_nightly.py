"""Score the newest days with the Production model, on Spark, and hold served answers against the scores.

**What.** One partition of `scores` per day, published whole: probability, decision and model version of every
transaction. Rows in = rows scored + rows rejected, or nothing is published. Then a sample of the last week's answers
of `POST /predict` is compared with the scores of the same model version.

**When.** After new features and after each change of the Production model. A backfill is one run, triggered with
`from` and `to`: its days share one Spark, each is published whole. (Airflow's own backfill needs a clock schedule.)

**Triage.** *`production_model` skipped*: there is no Production model yet; train and promote one. *Exit code 65*: the
day's features are missing or damaged; clear `build_features`. *`consistency` skipped*: no answer could be compared
yet; its log says why. *`consistency` says mismatch*: see the examples in its log; where the window features differ,
go to `monitor_skew`. Running it again writes the same bytes.
"""

from airflow.sdk import Param

from fraud_airflow.defaults import FEATURES, PRODUCTION_MODEL, SCORES, SCORING_POOL, fraud_dag
from fraud_airflow.operator import FraudJobOperator

DAY = {"type": ["null", "string"], "format": "date"}

with fraud_dag(
    "score_nightly",
    doc=__doc__,
    stage="scoring",
    schedule=FEATURES | PRODUCTION_MODEL,
    params={
        "date": Param(None, **DAY, description="one day; leave all three empty to score what is not scored yet"),
        "from": Param(None, **DAY, description="first day of a range"),
        "to": Param(None, **DAY, description="last day of a range"),
    },
):
    production_model = FraudJobOperator(task_id="production_model", job="production-version", needs=("version",))
    score = FraudJobOperator(
        task_id="score",
        job="score",
        arguments=[
            "--date={{ params.date or '' }}",
            "--from={{ params['from'] or '' }}",
            "--to={{ params.to or '' }}",
        ],
        outlets=[SCORES],
        pool=SCORING_POOL,
    )
    production_model >> score >> FraudJobOperator(task_id="consistency", job="consistency", needs=("compared",))
