"""Figures of a lake and job records made by hand; no service runs."""

import dataclasses
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
from tests.served_answers import THREE, TWO_ENTITIES

from fraud.audit import prediction_log
from fraud.core.declaration import Declaration
from fraud.core.plan import Plan
from fraud.errors import BadInputError, UnavailableError
from fraud.job import Context
from fraud.lake import catalog
from fraud.lake.dataset import Dataset
from fraud.lake.job_runs import recorded
from fraud.monitoring import platform_metrics
from fraud.monitoring.platform_metrics import PlatformMetrics, services
from fraud.params import Params
from fraud.settings import Settings

ROOT = Path(__file__).parents[3]
CLOSED_PORT = "127.0.0.1:1"
JOBS = ("ingest", "score", "train")


def context(home: Path, *live: Declaration) -> Context:
    settings = Settings(
        home=home,
        mlflow_url=f"http://{CLOSED_PORT}",
        airflow_url=f"http://{CLOSED_PORT}",
        redis_url=f"redis://{CLOSED_PORT}/0",
    )
    return Context(settings, Params.load(ROOT / "params.yaml"), THREE, structlog.get_logger(), lambda: live)


def registry_of(found: Context, *more_jobs: str) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(PlatformMetrics(found, (*JOBS, *more_jobs)))
    return registry


def scraped(home: Path, *more_jobs: str) -> CollectorRegistry:
    return registry_of(context(home), *more_jobs)


def test_an_empty_platform_has_no_figures_but_declared_features_and_the_health_of_services(tmp_path: Path) -> None:
    registry = scraped(tmp_path)
    value = registry.get_sample_value
    assert value("fraud_source_up", {"source": "lake"}) == 1
    assert value("fraud_source_up", {"source": "registry"}) == 0
    assert {s: value("fraud_service_up", {"service": s}) for s in ("mlflow", "airflow-api-server", "online-store")} == {
        "mlflow": 0, "airflow-api-server": 0, "online-store": 0,
    }  # fmt: skip
    names = {metric.name for metric in registry.collect()}
    assert names == {"fraud_source_up", "fraud_service_up", "fraud_docs_info", "fraud_feature_info"}


HEALTH = {
    "metadatabase": {"status": "healthy"},
    "scheduler": {"status": "unhealthy", "latest_scheduler_heartbeat": "2026-03-01T00:00:00+00:00"},
    "triggerer": {"status": None, "latest_triggerer_heartbeat": None},
    "dag_processor": None,
}


@contextmanager
def answering(body: bytes) -> Iterator[str]:
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
    with answering(json.dumps(HEALTH).encode()) as url:
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


MARCH = 1_772_323_200
"""date -ud 2026-03-01 +%s"""


def test_the_newest_day_of_each_dataset_is_exported(tmp_path: Path) -> None:
    for day, rows in (("2026-02-28", 5), ("2026-03-01", 2)):
        catalog.TRANSACTIONS.at(f"file://{tmp_path}/lake").publish(day, pa.table({"x": list(range(rows))}))
    value, labels = scraped(tmp_path).get_sample_value, {"dataset": "transactions", "declaration": ""}
    assert value("fraud_dataset_rows", labels) == 2
    assert value("fraud_dataset_newest_day_seconds", labels) == MARCH
    published = value("fraud_dataset_published_seconds", labels)
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
    assert value("fraud_dataset_rows", {"dataset": "scores", "declaration": ""}) == 1


def test_a_label_has_no_more_values_than_are_listed(tmp_path: Path) -> None:
    """Whatever runs or lands, the number of series is bounded: only the jobs and datasets named have one."""
    log = structlog.get_logger()
    for number in range(20):
        with recorded(f"file://{tmp_path}/job_runs", f"job-{number}", log):
            pass
        Dataset(f"file://{tmp_path}/lake", f"extra-{number}").publish("2026-03-01", pa.table({"x": [1]}))
    samples = [sample for metric in scraped(tmp_path).collect() for sample in metric.samples]
    assert len(samples) == 14  # seven sources, three services, where the docs are, three stored features


@pytest.fixture
def registry_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry that answers the health check and has no production version."""
    monkeypatch.setattr(platform_metrics, "_check_mlflow", lambda _settings: None)
    monkeypatch.setattr(platform_metrics, "registry", lambda _settings: iter(()))


@pytest.mark.parametrize("registry_answers", [True, False])
def test_features_and_daily_snapshots_of_every_declaration_in_use_are_exported(
    tmp_path: Path, registry_answers: bool, request: pytest.FixtureRequest
) -> None:
    """The project's declaration always, those of versions with an alias as long as the registry can be read."""
    lake, day = f"file://{tmp_path}/lake", pa.table({"x": [1]})
    catalog.features(THREE.stored_hash).at(lake).publish("2026-02-28", day)
    catalog.features(TWO_ENTITIES.stored_hash).at(lake).publish("2026-03-01", day)
    catalog.features("f" * 64).at(lake).publish("2026-03-01", day)  # of a version without an alias
    [table] = Plan(TWO_ENTITIES).tables
    catalog.daily(table).at(lake).publish("2026-03-01", day)
    if registry_answers:
        request.getfixturevalue("registry_up")
    found = context(tmp_path, THREE, TWO_ENTITIES)
    value = registry_of(found).get_sample_value

    def newest(declaration: Declaration) -> float | None:
        labels = {"dataset": "features", "declaration": declaration.stored_hash[:12]}
        return value("fraud_dataset_newest_day_seconds", labels)

    assert newest(THREE) == MARCH - 86_400
    assert newest(TWO_ENTITIES) == (MARCH if registry_answers else None)
    assert value("fraud_source_up", {"source": "declarations"}) == registry_answers
    snapshot = {"entity": "shop", "table": table.id}
    assert value("fraud_daily_snapshot_newest_day_seconds", snapshot) == (MARCH if registry_answers else None)
    window = {"kind": "window", "declaration": TWO_ENTITIES.stored_hash[:12], "table": ""}
    daily = {"kind": "daily", "declaration": "", "table": table.id}
    for feature, labels in (("card_count_1h", window), ("shop_mean_30d", daily)):
        assert value("fraud_feature_info", {"feature": feature, **labels}) == (1 if registry_answers else None)
    in_use = {"declaration": TWO_ENTITIES.hash[:12], "stored": TWO_ENTITIES.stored_hash[:12]}
    assert value("fraud_declaration_features", in_use) == (17 if registry_answers else None)


@pytest.mark.usefixtures("registry_up")
def test_the_declarations_are_read_again_only_after_some_minutes_and_kept_while_the_registry_is_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Declaration] = []

    def live() -> list[Declaration]:
        reads.append(TWO_ENTITIES)
        if len(reads) == 2:
            raise UnavailableError("the registry does not answer")
        return [TWO_ENTITIES]

    catalog.features(TWO_ENTITIES.stored_hash).at(f"file://{tmp_path}/lake").publish("2026-03-01", pa.table({"x": [1]}))
    now = [1_000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    registry = registry_of(dataclasses.replace(context(tmp_path), live_declarations=live))
    labels = {"dataset": "features", "declaration": TWO_ENTITIES.stored_hash[:12]}
    for at, count, up in ((1_000.0, 1, 1), (1_100.0, 1, 1), (1_301.0, 2, 0)):
        now[0] = at
        assert registry.get_sample_value("fraud_source_up", {"source": "declarations"}) == up
        assert len(reads) == count
    assert registry.get_sample_value("fraud_dataset_rows", labels) == 1


def answer(number: int, declaration: Declaration, **values: object) -> dict[str, object]:
    return {
        "prediction_id": f"p{number}", "amount": 1.0, "hour_of_day": 3, "day_of_week": 2, "served_us": number,
        "history": "store", "degraded": False, "fraud_probability": 0.1, "is_fraud": False, "threshold": 0.5,
        "model_version": "1", "model_sha256": "", "feature_hash": declaration.hash, "latency_us": 1, **values,
    }  # fmt: skip


@pytest.mark.usefixtures("registry_up")
def test_missing_values_are_those_of_the_newest_answers_of_one_declaration(tmp_path: Path) -> None:
    rows = [answer(0, THREE, transaction_velocity_1h=1.0)]
    rows += [answer(n, TWO_ENTITIES, card_count_1h=1.0, terminal_id="a" if n > 3 else None) for n in range(1, 5)]
    table = prediction_log.table_of(rows, THREE)
    log = catalog.PREDICTIONS.at(f"file://{tmp_path}/lake")
    log.publish("2026-03-01", table)
    found = context(tmp_path, TWO_ENTITIES)
    value = registry_of(found).get_sample_value
    shares = {name: value("fraud_served_missing_share", {"feature": name})
              for name in ("card_count_1h", "terminal_id", "shop_mean_30d", "transaction_velocity_1h")}  # fmt: skip
    assert shares == {
        "card_count_1h": 0.0, "terminal_id": 0.75, "shop_mean_30d": 1.0, "transaction_velocity_1h": None,
    }  # fmt: skip
    assert value("fraud_served_missing_rows") == 4
    log.publish("2026-03-02", prediction_log.table_of([answer(9, THREE)], THREE))
    value = registry_of(found).get_sample_value
    assert value("fraud_served_missing_share", {"feature": "transaction_velocity_1h"}) == 1.0
    assert value("fraud_served_missing_share", {"feature": "terminal_id"}) is None
