"""Train a version again from its recorded inputs, and compare the model's bytes.

**What.** Uses a clean checkout of the recorded commit, the environment of its locks, its data by content hash, and a
temporary registry. The new model must have the registered sha256. The tag `reproduced` of the version holds the result.

**When.** Sundays at 04:00 UTC, for Production. By hand: trigger with `version`, a number or an alias.

**Triage.** *Refused (exit code 3)*: the message lists each input and output, recorded and now, and names those that
differ. *Uncommitted files*, *outside of Git*: the version cannot be reproduced; train from a commit. *Cannot be checked
out*: set `FRAUD_REPOSITORY` to a repository that has the commit. docs/lineage.md shows an example.
"""

from airflow.sdk import Param

from fraud_airflow.defaults import fraud_dag
from fraud_airflow.operator import FraudJobOperator

with fraud_dag(
    "reproduce_model",
    doc=__doc__,
    stage="registry",
    schedule="0 4 * * 0",
    params={"version": Param("production", type="string", minLength=1, description="number or alias")},
):
    version = FraudJobOperator(task_id="production_model", job="production-version", required_fields=("version",))
    version >> FraudJobOperator(task_id="reproduce", job="reproduce", arguments=["{{ params.version }}"])
