"""S3 in Airflow: task logs of the amazon provider, and reports in the platform's pages. A real server (tests/s3.py)."""

import json
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from tests import s3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3.Server]:
    """The server, with the environment variables of its clients set."""
    with s3.running(tmp_path_factory.mktemp("s3") / "objects") as running, pytest.MonkeyPatch.context() as patch:
        for name, value in running.environment.items():
            patch.setenv(name, value)
        yield running


def test_a_task_log_goes_to_s3_and_is_read_back_with_what_was_there_before(
    server: s3.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.providers.amazon.aws.log.s3_task_handler import S3RemoteLogIO

    # docs/deployment.md, "S3": a connection without a host takes botocore's own variables.
    monkeypatch.setenv("AIRFLOW_CONN_S3_LOGS", "aws://")
    monkeypatch.setenv("AIRFLOW__LOGGING__REMOTE_LOG_CONN_ID", "s3_logs")
    monkeypatch.setenv("AIRFLOW__LOGGING__REMOTE_BASE_LOG_FOLDER", server.uri("logs"))
    monkeypatch.setenv("AIRFLOW__LOGGING__BASE_LOG_FOLDER", str(tmp_path))
    monkeypatch.setenv("AIRFLOW__LOGGING__DELETE_LOCAL_LOGS", "True")
    store = S3RemoteLogIO.from_config()
    name = "dag_id=ingest_transactions/run_id=r1/task_id=ingest/attempt=1.log"
    for line in ("first", "second"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(line + "\n")
        store.upload(name)
        assert not (tmp_path / name).exists()
    [where], [text] = store.read(name, None)
    assert (where, text) == (server.uri(f"logs/{name}"), "first\nsecond\n")


def test_reports_on_s3_are_listed_and_read_and_new_ones_are_seen(server: s3.Server) -> None:
    from fraud_airflow.reports import NoSuchReportError, Reports

    client = boto3.client("s3")  # another client, as a job is one
    reports = Reports(server.uri("reports"))
    assert reports.entries("") == []
    for day, verdict in (("2025-03-01", "ok"), ("2025-03-02", "drift")):
        for kind, text in (("html", "<p>"), ("json", json.dumps({"verdict": verdict}))):
            client.put_object(Bucket=s3.BUCKET, Key=f"reports/drift/{day}/drift.{kind}", Body=text.encode())
        results = {summary.page: summary.result for summary in reports.summaries("drift")}
        assert results[f"drift/{day}/drift.html"] == verdict
    assert [entry.name for entry in reports.entries("drift")] == ["2025-03-02", "2025-03-01"]
    assert reports.read("drift/2025-03-01/drift.html") == b"<p>"
    with pytest.raises(NoSuchReportError):
        reports.read("drift/2025-03-01/../../../logs")
