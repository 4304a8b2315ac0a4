"""Jobs of the night on a platform that has nothing yet, or days without rows: a stated result, the documented error."""

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import redis
from prometheus_client import CollectorRegistry
from tests.served_answers import THREE

from fraud.audit import receipt, replay
from fraud.embedded.servers import mlflow_server
from fraud.errors import BadInputError, FraudError, RefusedError
from fraud.features import build_features, materialize
from fraud.job import Context
from fraud.lake import catalog
from fraud.lake.dataset import Dataset
from fraud.monitoring.platform_metrics import PlatformMetrics
from fraud.registry import expire_waivers, production_version
from fraud.retention import apply_retention
from fraud.scoring import score
from fraud.training import compare, show_gates

DAY = dt.date(2026, 3, 9)
WINDOWS = ["transaction_velocity_1h", "avg_amount_7d", "unique_merchants_30d"]
Make = Callable[..., Any]


@pytest.fixture
def store(valkey_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey_url) as client:
        client.flushdb()
        yield client


def config(job: ModuleType, **flags: object) -> Any:  # noqa: ANN401 - each job has its own
    return job.Config.model_validate(flags)


NOTHING: list[tuple[ModuleType, dict[str, object], type[FraudError], str]] = [
    (score, {}, RefusedError, "no production version"),
    (build_features, {}, BadInputError, "no transactions"),
    (materialize, {}, BadInputError, "no transactions"),
    (replay, {"newest": 5}, BadInputError, "no recorded answer"),
    (replay, {"ids": ["p1"]}, BadInputError, "no prediction p1"),
    (receipt, {"prediction_id": "p1"}, BadInputError, "no prediction p1"),
    (show_gates, {"version": "1"}, RefusedError, "no version 1"),
    (compare, {"first": "production", "second": "1"}, RefusedError, "no version production"),
]


@pytest.mark.parametrize(("job", "flags", "error", "says"), NOTHING, ids=lambda v: getattr(v, "__name__", None))
def test_an_empty_platform_gives_errors_with_a_hint(
    job: ModuleType, flags: dict[str, object], error: type[FraudError], says: str, context: Context
) -> None:
    with pytest.raises(error, match=says) as raised:
        job.run(config(job, **flags), context)
    assert raised.value.exit_code in (3, 65)
    assert raised.value.hint or raised.value.expected


def test_a_platform_without_anything_has_nothing_to_expire_or_remove(context: Context) -> None:
    assert production_version.run(production_version.Config(), context).version is None
    assert show_gates.run(show_gates.Config(), context).version == ""
    ended = expire_waivers.run(expire_waivers.Config(), context)
    assert (ended.version, ended.changed, ended.waiver_expires) == (None, False, "")
    for dry in (True, False):
        gone = apply_retention.run(config(apply_retention, dry_run=dry), context)
        assert (gone.count, gone.bytes, gone.stores) == (0, 0, [])


def test_a_day_without_transactions_goes_through_features_store_and_feast(
    context: Context, store: redis.Redis, features_of: Make
) -> None:
    rows = features_of(DAY, 30).drop_columns(WINDOWS)
    lake = catalog.TRANSACTIONS.at(context.settings.lake_uri)
    lake.publish(str(DAY), rows.slice(0, 0))
    build_features.run(build_features.Config(), context)
    assert catalog.features(THREE.stored_hash).at(context.settings.lake_uri).read(str(DAY)).num_rows == 0
    loaded = materialize.run(materialize.Config(), context)
    assert (loaded.rows, loaded.appended, loaded.days_loaded, loaded.feast_days) == (0, 0, 1, 1)
    assert store.keys("h:*") == []

    lake.publish(str(DAY), rows.slice(0, 1))
    build_features.run(build_features.Config(), context)
    loaded = materialize.run(materialize.Config(), context)
    assert (loaded.rows, loaded.appended, loaded.days_loaded, loaded.feast_days) == (1, 1, 1, 1)


def test_materialize_before_any_features_loads_the_histories(
    context: Context, store: redis.Redis, features_of: Make
) -> None:
    rows = features_of(DAY, 30).drop_columns(WINDOWS)
    catalog.TRANSACTIONS.at(context.settings.lake_uri).publish(str(DAY), rows)
    loaded = materialize.run(materialize.Config(), context)
    assert (loaded.rows, loaded.appended, loaded.feast_days) == (30, 30, 0)


@pytest.mark.usefixtures("spark")
@pytest.mark.parametrize(("rows", "distance", "rejected"), [(0, "some", 0), (1, "some", 0), (40, "none", 0)])
def test_a_day_of_features_without_rows_or_values_is_scored(
    rows: int, distance: str, rejected: int, context: Context, features: Dataset, scores: Dataset, register: Make,
    linear_model: Make, features_of: Make,
) -> None:  # fmt: skip
    register(linear_model())
    with pytest.raises(BadInputError, match="no features"):
        score.run(score.Config(), context)
    features.publish(str(DAY), features_of(DAY, rows, missing=1.0 if distance == "none" else 0.15))
    result = score.run(score.Config(), context)
    assert (result.rows, result.rejected, [day.day for day in result.days]) == (rows, rejected, [str(DAY)])
    assert scores.read(str(DAY)).num_rows == rows
    again = score.run(score.Config(), context)
    assert [day.changed for day in again.days] == [False]


def test_the_exporter_has_figures_for_a_production_version_with_an_empty_reference(
    context: Context, registry_at: Make, features_of: Make, linear_model: Make, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    row = features_of(DAY, 1).append_column("fraud_probability", pa.array(np.array([0.7], np.float32)))
    without = row.set_column(row.column_names.index("amount"), "amount", pa.array([None], pa.float64()))
    amount, flagged = row["amount"][0].as_py(), 1.0
    with mlflow_server.running(tmp_path / "mlflow") as server:
        for name, value in server.client_environment().items():
            monkeypatch.setenv(name, value)
        registry = registry_at(server.url, tmp_path / "models")
        running = replace(context, settings=context.settings.model_copy(update={"mlflow_url": server.url}))
        for table, expected in ((row.slice(0, 0), {}), (without, {"ratio": flagged}),
                                (row, {"ratio": flagged, "amount": amount})):  # fmt: skip
            registry.register(linear_model(), reference=table, threshold=0.5)
            found = scraped(running)
            assert found["fraud_source_up", "registry"] == 1
            baselines = {"amount": "fraud_baseline_amount_mean", "ratio": "fraud_baseline_flagged_ratio"}
            got = {short: found[name, ""] for short, name in baselines.items() if (name, "") in found}
            assert got == pytest.approx(expected)


def scraped(context: Context) -> dict[tuple[str, str], float]:
    """(metric, source) -> value."""
    registry = CollectorRegistry()
    registry.register(PlatformMetrics(context, ()))
    samples = [sample for metric in registry.collect() for sample in metric.samples]
    return {(sample.name, sample.labels.get("source", "")): sample.value for sample in samples}
