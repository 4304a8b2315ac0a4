"""Figures of a lake and job records made by hand; no service runs."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pytest
import structlog
from prometheus_client import CollectorRegistry

from fraud.errors import BadInputError
from fraud.lake import catalog
from fraud.lake.dataset import Dataset
from fraud.lake.job_runs import recorded
from fraud.monitoring.platform_metrics import PlatformMetrics, services
from fraud.settings import Settings

CLOSED_PORT = "127.0.0.1:1"
JOBS = ("ingest", "score", "train")


def scraped(home: Path, *more_jobs: str) -> CollectorRegistry:
    settings = Settings(
        home=home,
        mlflow_url=f"http://{CLOSED_PORT}",
        airflow_url=f"http://{CLOSED_PORT}",
        redis_url=f"redis://{CLOSED_PORT}/0",
    )
    registry = CollectorRegistry()
    registry.register(PlatformMetrics(settings, (*JOBS, *more_jobs)))
    return registry


def test_an_empty_platform_has_no_figures_but_the_health_of_services(tmp_path: Path) -> None:
    registry = scraped(tmp_path)
    value = registry.get_sample_value
    assert value("fraud_source_up", {"source": "lake"}) == 1
    assert value("fraud_source_up", {"source": "registry"}) == 0
    assert {s: value("fraud_service_up", {"service": s}) for s in ("mlflow", "airflow-api-server", "online-store")} == {
        "mlflow": 0, "airflow-api-server": 0, "online-store": 0,
    }  # fmt: skip
    names = {metric.name for metric in registry.collect()}
    assert names == {"fraud_source_up", "fraud_service_up", "fraud_docs_info"}


HEALTH = {
    "metadatabase": {"status": "healthy"},
    "scheduler": {"status": "unhealthy", "latest_scheduler_heartbeat": "2026-03-01T00:00:00+00:00"},
    "triggerer": {"status": None, "latest_triggerer_heartbeat": None},
    "dag_processor": None,
}


@contextmanager
def registry_errors(body: bytes) -> Iterator[str]:
    """A server that gives every GET this JSON; its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_component_of_airflow_without_a_heartbeat_is_down_and_one_that_may_be_missing_is_not(tmp_path: Path) -> None:
    with registry_errors(json.dumps(HEALTH).encode()) as url:
        settings = Settings(
            home=tmp_path, mlflow_url=f"http://{CLOSED_PORT}", airflow_url=url, redis_url=f"redis://{CLOSED_PORT}/0"
        )
        up = {
            sample.labels["service"]: sample.value
            for family in services(settings)
            for sample in family.samples
            if family.name == "fraud_service_up" and sample.labels["service"].startswith("airflow-")
        }
    assert up == {
        "airflow-api-server": 1, "airflow-metadatabase": 1, "airflow-scheduler": 0, "airflow-dag-processor": 0,
    }  # fmt: skip


def test_the_newest_day_of_each_dataset_is_exported(tmp_path: Path) -> None:
    for day, rows in (("2026-02-28", 5), ("2026-03-01", 2)):
        catalog.FEATURES.at(f"file://{tmp_path}/lake").publish(day, pa.table({"x": list(range(rows))}))
    value = scraped(tmp_path).get_sample_value
    assert value("fraud_dataset_rows", {"dataset": "features"}) == 2
    assert (
        value("fraud_dataset_newest_day_seconds", {"dataset": "features"}) == 1_772_323_200
    )  # date -ud 2026-03-01 +%s
    published = value("fraud_dataset_published_seconds", {"dataset": "features"})
    assert published is not None
    assert abs(time.time() - published) < 60


def test_a_failed_job_a_refused_one_and_a_killed_one_have_different_series(tmp_path: Path) -> None:
    uri, log = f"file://{tmp_path}/job_runs", structlog.get_logger()
    with pytest.raises(BadInputError), recorded(uri, "ingest", log):
        raise BadInputError("no such file")
    with recorded(uri, "train", log) as record:
        record({"gates": [{"name": "money", "passed": False}, {"name": "parity", "passed": True}]})
    killed = {"job": "score", "started_s": 5.0}
    (tmp_path / "job_runs/score").mkdir()
    (tmp_path / "job_runs/score/last.json").write_text(json.dumps(killed))
    value = scraped(tmp_path).get_sample_value
    assert [value("fraud_job_failed", {"job_name": j}) for j in JOBS] == [1, None, 0]
    assert [value("fraud_job_running", {"job_name": j}) for j in JOBS] == [0, 1, 0]
    assert value("fraud_job_started_seconds", {"job_name": "score"}) == 5
    assert [value("fraud_gate_passed", {"gate": g}) for g in ("money", "parity")] == [0, 1]


def test_the_last_comparison_of_answers_and_scores_is_exported(tmp_path: Path) -> None:
    assert scraped(tmp_path, "consistency").get_sample_value("fraud_consistency_compared") is None
    with recorded(f"file://{tmp_path}/job_runs", "consistency", structlog.get_logger()) as record:
        record({"compared": 300, "mismatches": 2})
    value = scraped(tmp_path, "consistency").get_sample_value
    assert (value("fraud_consistency_compared"), value("fraud_consistency_mismatches")) == (300, 2)


def test_one_source_that_cannot_be_read_leaves_the_others(tmp_path: Path) -> None:
    catalog.SCORES.at(f"file://{tmp_path}/lake").publish("2026-03-01", pa.table({"x": [1]}))
    (tmp_path / "reports/drift/2026-03-01").mkdir(parents=True)
    (tmp_path / "reports/drift/2026-03-01/drift.json").write_text("{")
    value = scraped(tmp_path).get_sample_value
    assert value("fraud_source_up", {"source": "reports"}) == 0
    assert value("fraud_dataset_rows", {"dataset": "scores"}) == 1


def test_a_label_has_no_more_values_than_are_listed(tmp_path: Path) -> None:
    """Whatever runs or lands, the number of series is bounded: only the jobs and datasets named have one."""
    log = structlog.get_logger()
    for number in range(20):
        with recorded(f"file://{tmp_path}/job_runs", f"job-{number}", log):
            pass
        Dataset(f"file://{tmp_path}/lake", f"extra-{number}").publish("2026-03-01", pa.table({"x": [1]}))
    samples = [sample for metric in scraped(tmp_path).collect() for sample in metric.samples]
    assert len(samples) == 9  # five sources, three services, where the docs are
