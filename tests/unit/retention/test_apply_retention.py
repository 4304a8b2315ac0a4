"""Retention of the stores of files: expired data is removed, and the rest does not change."""

import os
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
import structlog
from tests.served_answers import THREE, TWO_ENTITIES

from fraud.core.declaration import Declaration
from fraud.core.plan import tables
from fraud.errors import BadConfigError, BadInputError
from fraud.features import build_daily, build_features
from fraud.ingest import ingest_transactions, landing
from fraud.ingest.commit import Batch
from fraud.ingest.delivery import delivering
from fraud.job import Context
from fraud.lake import catalog, reports
from fraud.lake.dataset import Dataset
from fraud.lake.objects import put_atomically
from fraud.lake.records import Partition
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
    return Context(settings, Params.load(ROOT / "params.yaml"), TWO_ENTITIES, structlog.get_logger())


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


def transactions_of(context: Context, days: int) -> None:
    """Six transactions a day of three users, terminals and shops, and a label of fraud for one of them."""
    timestamp = pa.timestamp("us", "UTC")
    for number in range(days):
        at = [datetime.combine(FIRST + timedelta(number), time(2 * i), UTC) for i in range(6)]
        rows = pa.table(
            {
                "transaction_id": [f"t{number}-{i}" for i in range(6)],
                "event_timestamp": pa.array(at, timestamp), "created_timestamp": pa.array(at, timestamp),
                "user_id": ["a", "b", "c"] * 2, "merchant_id": ["x", "y"] * 3, "amount": [1.5] * 6,
                "terminal_id": ["p", None, "q"] * 2,
            }
        )  # fmt: skip
        catalog.TRANSACTIONS.at(context.settings.lake_uri).publish(day(number), rows)
        label = [[f"t{number}-1"], [True], pa.array([at[0] + timedelta(2)], timestamp)]
        catalog.LABELS.at(context.settings.lake_uri).publish(
            day(number + 2), pa.table(label, schema=catalog.LABEL_SCHEMA)
        )


def partitions(dataset: Dataset) -> dict[str, Partition]:
    return dict(dataset.open().contents.partitions)


def test_what_is_kept_is_not_built_again_from_fewer_transactions_and_labels(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "LOOK_BACK_DAYS", 40)
    for name in ("TRANSACTIONS", "LABELS"):
        definition = getattr(catalog, name)
        forty = replace(definition, retention=replace(definition.retention, more_days=40))
        monkeypatch.setattr(catalog, name, forty)
    transactions_of(context, DAYS)
    build_daily.run(build_daily.Config(), context)
    build_features.run(build_features.Config(), context)
    lake, table = context.settings.lake_uri, tables(TWO_ENTITIES)[0]
    definitions = (catalog.features(TWO_ENTITIES.stored_hash), catalog.daily(table))
    before = [partitions(definition.at(lake)) for definition in definitions]
    newest = FIRST + timedelta(DAYS - 1)
    first_kept = (newest - timedelta(10)).isoformat()
    # The snapshot of the day before holds for the transactions of the first kept day's first hours.
    day_before = (newest - timedelta(11)).isoformat()
    firsts = (first_kept, day_before)
    kept = [{d: m for d, m in built.items() if d >= first} for first, built in zip(firsts, before, strict=True)]

    went = apply(context)
    assert [partitions(definition.at(lake)) for definition in definitions] == kept
    for definition, built, first in zip(definitions, before, firsts, strict=True):
        assert went[definition.name] == [d for d in built if d < first]
    # They are kept for longer: the oldest features read them.
    for definition in (catalog.TRANSACTIONS, catalog.LABELS, catalog.daily_parts(table)):
        assert definition.at(lake).partitions()[0] == (newest - timedelta(50)).isoformat()

    daily = build_daily.run(build_daily.Config(full=True), context)
    again = build_features.run(build_features.Config(full=True), context)
    assert (daily.first_day, again.first_day) == (day_before, first_kept)
    assert (daily.days_changed, again.days_changed) == (0, 0)
    assert [partitions(definition.at(lake)) for definition in definitions] == kept
    assert apply(context) == {}


def test_features_and_daily_tables_that_no_kept_version_declares_go_after_the_term_of_versions(
    context: Context, tmp_path: Path
) -> None:
    lake, other = context.settings.lake_uri, TWO_ENTITIES.model_copy(update={"features": TWO_ENTITIES.features[:-2]})
    versions = [{"feature_hash": THREE.hash, "stored_hash": THREE.stored_hash}]

    def built(declared: Declaration) -> None:
        own = replace(context, declaration=declared)
        build_daily.run(build_daily.Config(), own)
        build_features.run(build_features.Config(), own)

    def names() -> list[str]:
        return [definition.name for definition in catalog.in_lake(lake)]

    def unused(days: int, tags: list[dict[str, str]], **changes: Declaration) -> list[str]:
        before = datetime.combine(TODAY, time(), UTC) - timedelta(days)
        found = list(apply_retention._declared(before, tags, replace(context, **changes)))
        for each in found:
            assert each.size_bytes > 0
            each.remove()
        return sorted(f"{each.store}/{each.name}" for each in found)

    transactions_of(context, 3)
    for declared in (TWO_ENTITIES, THREE, other):
        built(declared)
    every = names()
    assert len(every) == 3 + 2 * 2
    age(tmp_path, 179)
    assert unused(180, versions) == []
    age(tmp_path, 181)
    of_other = {d.name for d in catalog.of_declarations([other])} - {
        d.name for d in catalog.of_declarations([TWO_ENTITIES, THREE])
    }
    assert unused(180, versions) == sorted([*of_other, f"declarations/{other.hash}"])
    assert names() == [name for name in every if name not in of_other]
    # The project has another declaration, and a version was trained with the one before.
    built(TWO_ENTITIES)
    age(tmp_path, 181)
    trained = [{"feature_hash": TWO_ENTITIES.hash, "stored_hash": TWO_ENTITIES.stored_hash}]
    assert unused(180, trained, declaration=THREE) == []
    assert len(unused(180, versions, declaration=THREE)) == 3 + 1
    assert names() == [catalog.features(THREE.stored_hash).name]


def publish(context: Context, name: str, key: str, partition: str, key_name: str = "dt") -> Dataset:
    dataset = Dataset(context.settings.lake_uri, name, key_name)
    dataset.publish(partition, pa.table({"x": [key]}))
    return dataset


def test_scores_and_what_ifs_go_by_the_newest_day_of_transactions(context: Context) -> None:
    publish(context, "transactions", "t", day(100))
    for name in ("scores", "what_if/version-3"):
        for number in (89, 90, 100):
            publish(context, name, str(number), day(number))
    assert apply(context) == {"scores": [day(89)], "what_if/version-3": [day(89)]}
    assert Dataset(context.settings.lake_uri, "what_if/version-3").partitions() == [day(90), day(100)]


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
        next(landing.landed_files(context.settings.landing_uri, "transactions")), "transactions", context.declaration
    )
    with delivering(context.settings.landing_uri) as delivery:
        delivery.add("transactions", day(2), "late", table.slice(0, 1))
    quarantine = catalog.QUARANTINE.at(context.settings.lake_uri)
    batches = quarantine.partitions()
    assert batches
    now = datetime.now(UTC).date()
    assert apply(context, now + timedelta(179)).keys() <= {"replaced objects"}
    went = apply(context, now + timedelta(181))
    assert sorted(went["quarantine"]) == batches
    assert quarantine.partitions() == []
    left = [file.name for file in landing.landed_files(context.settings.landing_uri, "transactions")]
    assert [name.rpartition("-")[0] for name in left] == [f"transactions/dt={day(2)}/late"]
    assert ingest_transactions.run(ingest_transactions.Config(), context).files == 1


def test_replaced_and_never_published_objects_go_once_no_version_of_the_last_days_needs_them(context: Context) -> None:
    dataset = publish(context, "transactions", "first", day(0))
    [replaced] = dataset.object_uris(day(0))
    publish(context, "transactions", "second", day(0))
    publish(context, "transactions", "third", day(0))
    never = dataset.uris_of(dataset.written(day(1), pa.table({"x": ["killed"]})))
    now = datetime.now(UTC).date()
    assert apply(context, now + timedelta(6)) == {}
    assert dataset.open(0).read(day(0))["x"].to_pylist() == ["first"]
    with pytest.raises(BadInputError, match="no partition"):
        dataset.read(day(1))
    went = apply(context, now + timedelta(8))
    gone = [uri.removeprefix(f"{dataset.uri}/") for uri in (replaced, *never)]
    assert {f"transactions/{name}" for name in gone} < {*went["replaced objects"]}
    assert sum("/_partitions/" in name for name in went["replaced objects"]) == 2
    assert not any(Path(uri.removeprefix("file://")).exists() for uri in (replaced, *never))
    assert dataset.read(day(0))["x"].to_pylist() == ["third"]
    dataset.verify(day(0))
    assert apply(context, now + timedelta(8)) == {}


def test_an_object_that_is_written_again_is_kept_although_the_log_says_that_it_was_removed(context: Context) -> None:
    dataset = publish(context, "transactions", "first", day(0))
    publish(context, "transactions", "second", day(0))
    [replaced] = dataset.open(0).object_uris(day(0))
    path, now = Path(replaced.removeprefix("file://")), datetime.now(UTC)
    in_ten_days = (now + timedelta(10)).timestamp()
    os.utime(path, (in_ten_days, in_ten_days))  # by a job that has not committed yet
    apply(context, now.date() + timedelta(12))
    assert path.exists()


def test_objects_of_an_unfinished_batch_are_kept(context: Context) -> None:
    dataset = catalog.TRANSACTIONS.at(context.settings.lake_uri)
    staged = dataset.written(day(0), pa.table({"x": ["a"]}))
    [journal] = [f"{context.settings.lake_uri}/ledger/transactions/_pending.json"]
    put_atomically(journal, Batch(files=(), partitions=(), reasons={}, facts={}).model_dump_json().encode())
    publish(context, "transactions", "other", day(1))
    apply(context, datetime.now(UTC).date() + timedelta(8))
    assert all(Path(uri.removeprefix("file://")).exists() for uri in dataset.uris_of(staged))


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
