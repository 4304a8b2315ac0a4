"""The result of a quiet hour: what makes it fail, and its paragraph in the documentation."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from fraud.embedded.fire_drill import quiet_hour
from fraud.embedded.fire_drill.quiet_hour import Quiet
from fraud.embedded.processes import ServiceFailedError

TRAFFIC = {
    "sent": 18000, "per_second": 5.0, "answered": 17998, "refused": 2, "failed": 0, "degraded": 3, "p99_ms": 12.3,
}  # fmt: skip


QUIET = Quiet("2026-11-27T05:00:00+00:00", 60.0, 0.5, 720, {}, {}, (), TRAFFIC)


def test_an_hour_without_alerts_is_quiet() -> None:
    assert QUIET.failure() == ""
    text = " ".join(QUIET.as_markdown().split())
    assert "18,000 payments sent to `POST /predict` (5.0 a second), 17,998 answered, 2 refused" in text
    assert text.endswith("720 reads of the alerts, one every 5 s. Fired: none. Pending: none.")


def test_a_condition_that_ended_before_its_wait_is_listed_and_no_failure() -> None:
    found = replace(QUIET, pending={"DegradedAnswers": 4})
    assert found.failure() == ""
    assert "Pending: DegradedAnswers (in 4 reads)." in " ".join(found.as_markdown().split())


def test_an_alert_that_fired_or_is_pending_at_the_end_is_a_failure() -> None:
    found = replace(QUIET, fired={"JobStuck": 1}, pending={"ScoresStale": 9}, pending_at_end=("ScoresStale",))
    assert found.failure() == "fired: JobStuck; pending at the end: ScoresStale"


def test_the_result_is_json() -> None:
    found = replace(QUIET, fired={"JobStuck": 1})
    assert json.loads(json.dumps(asdict(found)))["fired"] == {"JobStuck": 1}


def test_the_result_of_the_traffic_is_the_last_object_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "traffic.log"
    log.write_text('{"event": "requests sent", "done": 5}\n{"sent": 7, "per_second": 1.0}\nlast\n')
    assert quiet_hour._result(log) == {"sent": 7, "per_second": 1.0}
    log.write_text('{"event": "requests sent", "done": 5}\n')
    with pytest.raises(ServiceFailedError, match="without a result"):
        quiet_hour._result(log)
