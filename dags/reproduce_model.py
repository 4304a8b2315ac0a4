"""Train Production again from what was recorded of it, and compare the bytes.

**What.** A clean checkout of the recorded commit, the environment its locks name, its data by content hash, a registry
that is thrown away: the model that comes out must have the sha256 that was registered. The version says how it went
(tag `reproduced`).

**When.** Every Sunday at 04:00 UTC. By hand: trigger with `version`, a number or an alias.

**Triage.** *Refused (exit code 3)*: the message lists every input and output, recorded and now, and names those that
differ. *Uncommitted files*, *outside of Git*: the version cannot be reproduced by anybody; train from a commit. *Cannot
be checked out*: name a repository that has the commit in `FRAUD_REPOSITORY`. docs/lineage.md shows what it prints.
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
    version = FraudJobOperator(task_id="production_model", job="production-version", needs=("version",))
    version >> FraudJobOperator(task_id="reproduce", job="reproduce", arguments=["{{ params.version }}"])
