"""Three nights of `fraud nightly` with nothing running: no Airflow, no MLflow server, no online store.

A day of transactions and labels is delivered before each night, as files. The second night is killed and resumed.
"""

from pathlib import Path

import pytest
from tests.e2e.installation import Installation

from fraud.lake import catalog


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_three_nights_without_a_server(tmp_path: Path) -> None:
    here = Installation(tmp_path)
    *first, second_day, third_day = here.days
    assert len(first) == 50

    here.deliver(*first)
    night = here.night(1)
    assert night["ingest_transactions.ingest"] == night["build_features.build_features"] == "success"
    assert night["build_features.materialize"] == "skipped"
    assert night["train_fraud_model.train"] == night["promote_model.promote"] == "success"
    assert night["score_nightly.score"] == night["monitor_drift.drift"] == "success"
    assert list(here.rows(catalog.SCORES))[-1] == first[-1]
    assert here.fraud("production-version")["version"] == "1"
    assert here.night(1) == {}, "a complete night is not run again"

    here.deliver(second_day)
    here.killed_after("build_features.build_daily", 2)
    night = here.night(2)
    assert "ingest_transactions.ingest" not in night, "what had succeeded is not repeated"
    # The job that survived the kill may have built the day. What it starts runs all the same.
    assert night["build_features.build_features"] == night["monitor_skew.skew"] == "success"
    assert night["score_nightly.score"] == "success"
    assert list(here.rows(catalog.SCORES))[-1] == second_day

    here.deliver(third_day)
    night = here.night(3)
    assert night["score_nightly.score"] == night["monitor_drift.drift"] == "success"
    assert "failed" not in night.values()
    transactions, scores = here.rows(catalog.TRANSACTIONS), here.rows(catalog.SCORES)
    assert list(transactions) == here.days
    assert {day: scores[day] for day in (first[-1], second_day, third_day)} == {
        day: transactions[day] for day in (first[-1], second_day, third_day)
    }
    changes = here.fraud("history")["changes"]  # verifies the chain of hashes
    assert changes[0]["action"] == "promote"
    assert {change["actor"] for change in changes} == {"nightly"}
