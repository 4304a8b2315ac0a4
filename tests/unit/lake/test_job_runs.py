"""What a run leaves behind: begun, ended well, refused, failed, killed."""

import json
from pathlib import Path

import pytest
import structlog

from fraud.errors import BadInputError, UnavailableError
from fraud.lake.job_runs import last, last_success, recorded

LOG = structlog.get_logger()


def test_a_run_is_known_while_it_works_and_after_it_ended_well(tmp_path: Path) -> None:
    uri = f"file://{tmp_path}"
    with recorded(uri, "ingest", LOG) as record:
        during = last(uri, "ingest")
        record({"accepted": 3})
    after = last(uri, "ingest")
    assert during is not None
    assert (during.exit_code, during.finished_s) == (None, None)
    assert after is not None
    assert (after.exit_code, after.result, after.started_s) == (0, {"accepted": 3}, during.started_s)
    assert last_success(uri, "ingest") == after


def test_a_failure_is_kept_raised_on_and_leaves_the_last_success(tmp_path: Path) -> None:
    uri = f"file://{tmp_path}"
    with recorded(uri, "score", LOG) as record:
        record({"rows": 1})
    with pytest.raises(UnavailableError), recorded(uri, "score", LOG):
        raise UnavailableError("the registry does not answer")
    failed, good = last(uri, "score"), last_success(uri, "score")
    assert failed is not None
    assert (failed.exit_code, failed.error) == (75, "the registry does not answer")
    assert good is not None
    assert good.result == {"rows": 1}


def test_an_unexpected_error_counts_as_exit_code_1(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), recorded(f"file://{tmp_path}", "drift", LOG):
        _ = 1 / 0
    run = last(f"file://{tmp_path}", "drift")
    assert run is not None
    assert (run.exit_code, run.error) == (1, "ZeroDivisionError")


def test_a_record_that_cannot_be_written_does_not_stop_the_work(tmp_path: Path) -> None:
    (tmp_path / "occupied").write_text("a file where a folder should be")
    worked = False
    with recorded(f"file://{tmp_path}/occupied", "ingest", LOG):
        worked = True
    assert worked


def test_a_file_that_is_no_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "ingest").mkdir()
    (tmp_path / "ingest/last.json").write_text(json.dumps({"job": "ingest"}))
    with pytest.raises(BadInputError, match=r"last\.json is not the record"):
        last(f"file://{tmp_path}", "ingest")


def test_a_job_that_never_ran_has_no_record(tmp_path: Path) -> None:
    assert last(f"file://{tmp_path}", "ingest") is None
