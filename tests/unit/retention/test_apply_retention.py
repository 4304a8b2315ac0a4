"""Retention of the stores of files: expired data is removed, and the rest does not change."""

import os
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
import structlog

from fraud.errors import BadConfigError
from fraud.features import build_features
from fraud.ingest import ingest_transactions, landing
from fraud.ingest.delivery import delivering
from fraud.job import Context
from fraud.lake import catalog, reports
from fraud.lake.dataset import Dataset
from fraud.params import Params
from fraud.retention import apply_retention
from fraud.settings import Settings
from fraud.simulator import simulate

ROOT = Path(__file__).parents[3]
FIRST = date(2025, 1, 1)
DAYS = 56
TODAY = date(2026, 11, 1)


def day(number: int) -> str:
    return (FIRST + timedelta(number)).isoformat()


@pytest.fixture
def context(tmp_path: Path) -> Context:
    settings = Settings.model_validate(
        {"home": tmp_path, "project": ROOT, "transaction_days": 10, "prediction_retention_days": 10}
    )
    return Context(settings, Params.load(ROOT / "params.yaml"), structlog.get_logger())


def apply(context: Context, today: date = TODAY) -> dict[str, list[str]]:
    """What was removed: store -> names."""
    went: dict[str, list[str]] = {}
    for old in list(apply_retention._lake(today, context)):
        assert old.size_bytes > 0
        old.remove()
        went.setdefault(old.store, []).append(old.name)
    return went


def age(folder: Path, days: int) -> None:
    """Make every file below look as if it was written that many days before TODAY."""
    at = datetime.combine(TODAY, datetime.min.time(), UTC).timestamp() - days * 86_400
    for path in folder.rglob("*"):
        os.utime(path, (at, at))


def test_features_that_are_kept_are_not_built_again_from_fewer_transactions(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    forty = replace(catalog.TRANSACTIONS, retention=replace(catalog.TRANSACTIONS.retention, more_days=40))
    monkeypatch.setattr(catalog, "TRANSACTIONS", forty)
    simulate.run(simulate.Config(days=DAYS, users=3, seed=1, start=FIRST), context)
    ingest_transactions.run(ingest_transactions.Config(), context)
    build_features.run(build_features.Config(), context)
    lake = context.settings.lake_uri
    features, transactions = catalog.FEATURES.at(lake), catalog.TRANSACTIONS.at(lake)
    before = {d: features.manifest(d) for d in features.partitions()}
    newest = FIRST + timedelta(DAYS - 1)
    first_kept = (newest - timedelta(10)).isoformat()

    went = apply(context)
    assert features.partitions() == [d for d in before if d >= first_kept]
    assert went["features"] == [d for d in before if d < first_kept]
    # They are kept for longer: the oldest features' windows reach back.
    assert transactions.partitions()[0] == (newest - timedelta(50)).isoformat()

    again = build_features.run(build_features.Config(full=True), context)
    assert again.first_day == first_kept
    assert again.days_changed == 0
    assert {d: features.manifest(d) for d in features.partitions()} == {
        d: m for d, m in before.items() if d >= first_kept
    }
    assert apply(context) == {}


def publish(context: Context, name: str, key: str, partition: str, key_name: str = "dt") -> Dataset:
    dataset = Dataset(context.settings.lake_uri, name, key_name)
    dataset.publish(partition, pa.table({"x": [key]}))
    return dataset


def test_scores_and_what_ifs_go_by_the_newest_day_of_transactions(context: Context) -> None:
    publish(context, "transactions", "t", day(100))
    for name in ("scores", "what_if/version=3"):
        for number in (89, 90, 100):
            publish(context, name, str(number), day(number))
    assert apply(context) == {"scores": [day(89)], "what_if/version=3": [day(89)]}
    assert Dataset(context.settings.lake_uri, "what_if/version=3").partitions() == [day(90), day(100)]


def test_a_transaction_from_the_future_does_not_empty_the_lake(context: Context) -> None:
    publish(context, "transactions", "t", "2026-10-25")
    publish(context, "transactions", "typo", "2099-01-01")
    publish(context, "scores", "s", "2026-10-25")
    assert apply(context) == {}


def test_landed_files_are_removed_after_ingest_with_their_quarantine(context: Context, tmp_path: Path) -> None:
    world = simulate.Config(days=3, users=60, seed=1, start=FIRST, bad_rows_per_100k=20000)
    simulate.run(world, context)
    ingest_transactions.run(ingest_transactions.Config(), context)
    table = landing.read_landed(
        next(landing.landed_files(context.settings.landing_uri, "transactions")), "transactions"
    )
    with delivering(context.settings.landing_uri) as delivery:
        delivery.add("transactions", day(2), "late", table.slice(0, 1))
    quarantine = catalog.QUARANTINE.at(context.settings.lake_uri)
    batches = quarantine.partitions()
    assert batches
    age(tmp_path, 179)
    assert apply(context) == {}
    age(tmp_path, 181)
    went = apply(context)
    assert sorted(went["quarantine"]) == batches
    assert quarantine.partitions() == []
    left = [file.name for file in landing.landed_files(context.settings.landing_uri, "transactions")]
    assert [name.rpartition("-")[0] for name in left] == [f"transactions/dt={day(2)}/late"]
    assert ingest_transactions.run(ingest_transactions.Config(), context).files == 1


def test_objects_that_no_manifest_names_go_after_two_days(context: Context, tmp_path: Path) -> None:
    dataset = publish(context, "transactions", "first", day(0))
    [replaced] = dataset.object_uris(day(0))
    publish(context, "transactions", "second", day(0))
    age(tmp_path, 1)
    assert apply(context) == {}
    age(tmp_path, 3)
    assert apply(context) == {"objects without a name": [f"transactions/{day(0)}"]}
    assert not Path(replaced.removeprefix("file://")).exists()
    assert dataset.read(day(0))["x"].to_pylist() == ["second"]
    dataset.verify(day(0))


def test_comparisons_go_by_their_age(context: Context, tmp_path: Path) -> None:
    reports.write(f"{context.settings.reports_uri}/compare/1-2-s", "compare", "<p>", {})
    age(tmp_path, 400)
    assert apply(context) == {}
    age(tmp_path, 401)
    assert apply(context) == {"reports/compare": ["1-2-s"]}


def test_features_may_not_go_before_the_answers_they_explain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUD_TRANSACTION_DAYS", "399")
    with pytest.raises(BadConfigError, match="is wrong"):
        Settings.load()
