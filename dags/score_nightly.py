"""Score recent days with the Production model on Spark, and compare served answers with the scores.

**What.** `score` writes one partition of `scores` per day: probability, decision and model version of every
transaction. A day is published only when rows in = rows scored + rows rejected. `consistency` compares a sample of last
week's answers of `POST /predict` with the scores of the same model version.

**When.** After new features, and after each change of the Production model. By hand: trigger with `date` for one day,
with `from` and `to` for a range, or with all three empty for the days without current scores. A range is one run: its
days share one Spark session, and each is published separately. (Airflow's backfill needs a time-based schedule.)

**Triage.** *`production_model` skipped*: there is no Production model; train and promote one. *Exit code 65*: the
features of the day are missing or damaged; clear `build_features`. *`consistency` skipped*: no answer could be
compared; see its log. *`consistency` found differences*: its log lists examples; where window features differ,
see `monitor_skew`. A rerun writes the same bytes.
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
        "date": Param(None, **DAY, description="one day; leave all three empty for the days without current scores"),
        "from": Param(None, **DAY, description="first day of a range"),
        "to": Param(None, **DAY, description="last day of a range"),
    },
):
    production_model = FraudJobOperator(
        task_id="production_model", job="production-version", required_fields=("version",)
    )
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
    (
        production_model
        >> score
        >> FraudJobOperator(task_id="consistency", job="consistency", required_fields=("compared",))
    )
