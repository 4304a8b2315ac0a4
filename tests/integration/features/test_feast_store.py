"""Feast over a real Valkey: its views agree with the lake at each transaction, and online with the latest row."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import redis
import structlog
import yaml

from fraud import declaration_file
from fraud.core.columns import to_stored
from fraud.core.contract import US_PER_DAY
from fraud.core.declaration import Declaration
from fraud.core.plan import Plan
from fraud.features import build_daily, feast_comparison, feast_snapshot, feast_store
from fraud.features.daily_values import daily_values
from fraud.job import Context
from fraud.lake import catalog
from fraud.lake.dataset import conformed
from fraud.params import Params
from fraud.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
FIRST = date(2026, 1, 1)
FIRST_US = (FIRST - date(1970, 1, 1)).days * US_PER_DAY
DAYS = 12
SHIPPED = ROOT / declaration_file.NAME


def day(number: int) -> str:
    return (FIRST + timedelta(number)).isoformat()


def project(folder: Path, declaration: str | Path) -> Path:
    """A checkout with a declaration and the repository's Feast files."""
    repository = folder / "project/feature_repo"
    repository.mkdir(parents=True)
    for name in ("definitions.py", "feature_store.yaml"):
        shutil.copy(ROOT / "feature_repo" / name, repository)
    text = declaration.read_text() if isinstance(declaration, Path) else declaration
    (repository / "features.yaml").write_text(text)
    return repository.parent


def context_of(folder: Path, declaration: str | Path, redis_url: str) -> Context:
    checkout = project(folder, declaration)
    settings = Settings(home=folder, project=checkout, redis_url=redis_url)
    params = Params.load(ROOT / "params.yaml")
    return Context(settings, params, declaration_file.load_of(checkout), structlog.get_logger())


@pytest.fixture
def context(tmp_path: Path, valkey_url: str) -> Iterator[Context]:
    with redis.Redis.from_url(valkey_url) as client:
        client.flushdb()
    return context_of(tmp_path, ROOT / "tests/declarations/two_entities.yaml", valkey_url)


def transactions(declaration: Declaration, count: int, seed: int) -> pa.Table:
    """Rows of DAYS days, with nulls, ties of an entity at one microsecond and late rows, as the lake sorts them."""
    rng = np.random.default_rng(seed)
    event = rng.integers(0, DAYS * US_PER_DAY, count)
    event[::10] = event[1::10]  # another transaction at the same microsecond
    created = event + np.where(rng.random(count) < 0.1, rng.integers(0, 2 * US_PER_DAY, count), 1_000)
    some = {
        "category": lambda: rng.choice(["web", "app", "other"], count),
        "id": lambda: np.where(rng.random(count) < 0.4, None, rng.choice(["t1", "t2", "t3"], count)),
        "flag": lambda: rng.choice(np.array([None, True, False], dtype=object), count),
        "number": lambda: np.where(rng.random(count) < 0.2, np.nan, np.round(rng.uniform(0, 50, count), 2)),
    }
    table = pa.table(
        {
            "transaction_id": [f"t{i:05d}" for i in range(count)],
            "event_timestamp": pa.array(FIRST_US + event, catalog.TIMESTAMP),
            "created_timestamp": pa.array(FIRST_US + created, catalog.TIMESTAMP),
            "user_id": [f"u{i}" for i in rng.integers(0, 6, count)],
            "merchant_id": [f"m{i}" for i in rng.integers(0, 40, count) * rng.integers(0, 2, count)],
            "amount": np.round(rng.uniform(1, 90, count), 4),
            **{name: pa.array(some[column.type](), from_pandas=True) for name, column in declaration.columns.items()},
        }
    )
    schema = pa.schema(catalog.transaction_columns(declaration))
    return conformed(table, schema).sort_by([(name, "ascending") for name in catalog.TRANSACTIONS.sorted_by])


def fill(context: Context, rows: pa.Table) -> pa.Table:
    """Publish transactions, labels of some, daily snapshots and features. Returns the features."""
    lake, declaration, plan = context.settings.lake_uri, context.declaration, Plan(context.declaration)
    by_day = (rows["event_timestamp"].cast(pa.int64()).to_numpy() - FIRST_US) // US_PER_DAY
    for number in range(DAYS):
        catalog.TRANSACTIONS.at(lake).publish(day(number), rows.filter(pa.array(by_day == number)))
    for number in range(1, DAYS):
        frauds = rows.filter(pa.array(by_day == number - 1))["transaction_id"].to_pylist()[::4]
        at = pa.array([FIRST_US + number * US_PER_DAY] * len(frauds), catalog.TIMESTAMP)
        labels = pa.table({"transaction_id": frauds, "is_fraud": [True] * len(frauds), "label_timestamp": at})
        catalog.LABELS.at(lake).publish(day(number), labels)
    build_daily.build(declaration, context)
    values = dict(windows(plan, rows))
    event_us = rows["event_timestamp"].cast(pa.int64()).to_numpy()
    for table in plan.tables:
        found = daily_values(catalog.daily(table).at(lake).open(), table, rows[table.id_column], event_us)
        values |= {name: found[i] for i, name in enumerate(table.names)}
    types = dict(catalog.feature_columns(declaration))
    features = rows
    for name, kind in types.items():
        numbers = pa.array(np.asarray(values[name], dtype=np.float64), pa.float64(), from_pandas=True)
        features = features.append_column(name, numbers.cast(kind))
    for number in range(DAYS):
        own = features.filter(pa.array(by_day == number))
        catalog.features(declaration.stored_hash).at(lake).publish(day(number), own)
    return features


def windows(plan: Plan, rows: pa.Table) -> Iterator[tuple[str, list[float]]]:
    """The point function's values of each row, over the rows of its entity that were ingested before."""
    order = np.lexsort((rows["event_timestamp"].to_numpy(), rows["created_timestamp"].to_numpy()))
    event_us, listed = rows["event_timestamp"].cast(pa.int64()).to_pylist(), rows.to_pylist()
    for found in plan.windows:
        layout, values = found.layout, {name: [np.nan] * len(listed) for name in found.names}
        kept: dict[str, list[tuple[int, ...]]] = {}
        for i in order:
            row, at = listed[i], event_us[i]
            own = [to_stored(column, row[column.name]) for column in layout.columns]
            before = kept.setdefault(row[layout.id_column] or f"none {i}", [])
            newest = max((event for event, *_ in before), default=0)
            events = np.array(before[-layout.max_events :], dtype=layout.record)
            for name, value in zip(found.names, found.evaluate(events, newest, at, own), strict=True):
                values[name][i] = np.nan if value is None else value
            before.append((at, *own))
        yield from values.items()


def test_the_views_of_a_declaration(context: Context) -> None:
    made = feast_store.load_definitions(context.settings.project).define(context.declaration, "folder")
    named = {f"{type(item).__name__} {item.name}": item for item in made}
    assert sorted(named) == [
        "Entity merchant_id", "Entity terminal_id", "Entity user_id",
        "FeatureService fraud_detector_v1",
        "FeatureView card_transaction_features", "FeatureView shop_daily_features",
        "FeatureView terminal_transaction_features",
        "FileSource card_transaction", "FileSource shop_daily", "FileSource terminal_transaction",
    ]  # fmt: skip
    view = named["FeatureView shop_daily_features"]
    assert view.entities == ["merchant_id"]
    assert {field.name: str(field.dtype) for field in view.features} == {
        "shop_count_7d": "Float64", "shop_mean_30d": "Float64", "shop_fraud_rate_7d": "Float64",
    }  # fmt: skip
    assert view.ttl == timedelta(days=1, microseconds=-1)
    service = named["FeatureService fraud_detector_v1"]
    assert len(service.feature_view_projections) == 3


def test_the_shipped_declaration_keeps_the_names_that_other_readers_use() -> None:
    made = feast_store.load_definitions(ROOT).define(declaration_file.load(SHIPPED), "folder")
    named = {item.name: item for item in made}
    assert named["user_id"].join_key == "user_id"
    view, service = named["user_transaction_features"], named["fraud_detector_v1"]
    types = {field.name: str(field.dtype) for field in view.features}
    frozen = {"transaction_velocity_1h": "Float64", "avg_amount_7d": "Float64", "unique_merchants_30d": "Int64"}
    assert types.items() >= frozen.items()
    assert view.name in {projection.name for projection in service.feature_view_projections}


def test_feast_agrees_with_the_lake_at_every_transaction(context: Context) -> None:
    features = fill(context, transactions(context.declaration, 400, seed=1))
    names = [feature.name for feature in context.declaration.stored_features]
    assert feast_comparison.compare(context, context.declaration, features) == dict.fromkeys(names, 0)
    assert features["shop_mean_30d"].null_count > 0  # some rows have no snapshot


def test_a_wrong_value_is_found(context: Context) -> None:
    """Of any view, also where Feast has no row: in the first row, without snapshot, and in one without terminal."""
    features = fill(context, transactions(context.declaration, 120, seed=5))
    without = features["terminal_id"].is_null().index(True).as_py()
    wrong, places = features, {"card_count_1h": 50, "terminal_cards_1d": without, "shop_count_7d": 0}
    for name, row in places.items():
        numbers = features[name].cast(pa.float64()).to_numpy().copy()
        numbers[row] = 77.0
        column = pa.array(numbers, pa.float64(), from_pandas=True).cast(features[name].type)
        wrong = wrong.set_column(wrong.column_names.index(name), name, column)
    views = feast_snapshot.views(context.declaration)
    names = [feature.name for view in views for feature in view.features]
    right = feast_comparison.compare(context, context.declaration, features)
    assert not any(right.values())
    joined = joined_values(context, features)
    found = feast_comparison.differences(context.settings.lake_uri, views, wrong, joined)
    assert {name for name, count in found.items() if count} == places.keys()
    assert found.keys() == set(names)


def joined_values(context: Context, features: pa.Table) -> pa.Table:
    """What Feast returns for right features: null where it has no row."""
    views, joined = feast_snapshot.views(context.declaration), features
    for view in views:
        given = features[view.id_column].is_valid()
        last = feast_snapshot.last_of_key(features, view.id_column)
        rows = features.take(pa.array(last)) if view.table is None else features
        if view.table is not None:
            given = pa.array(feast_comparison._defaults(context.settings.lake_uri, view.table, features)[1])
        for name in view.names:
            column = pc.if_else(given, rows[name], pa.nulls(features.num_rows, features[name].type))
            joined = joined.set_column(joined.column_names.index(name), name, column)
    return joined


def test_online_values_are_those_of_each_entitys_latest_row(context: Context) -> None:
    features = fill(context, transactions(context.declaration, 300, seed=2))
    lake, settings, views = context.settings.lake_uri, context.settings, feast_snapshot.views(context.declaration)
    compared = 0
    for night in (4, DAYS - 1):
        days = [day(number) for number in range(night + 1)]
        feast_snapshot.publish_snapshots(lake, context.declaration, days)
        with feast_snapshot.local_snapshots(lake, views) as folder:
            store = feast_store.open_store(
                settings.project, settings.feast_registry.get_secret_value(), settings.redis_url.get_secret_value()
            )
            feast_store.apply(store, settings.project, context.declaration, folder)
            end = datetime.combine(FIRST + timedelta(night + 1), datetime.min.time(), UTC) - timedelta(microseconds=1)
            feast_store.materialize(store, [v.name for v in views], datetime(2025, 1, 1, tzinfo=UTC), end)
        until = FIRST_US + (night + 1) * US_PER_DAY
        for view in views:
            expected = (
                latest_windows(view, features, until) if view.table is None else latest_daily(context, view, night)
            )
            served = feast_store.online(store, view, list(expected))
            assert list(zip(*served.values(), strict=True)) == [tuple(row) for row in expected.values()]
            compared += len(expected)
    assert compared > 40


def latest_windows(view: feast_snapshot.View, features: pa.Table, until_us: int) -> dict[str, list[float | None]]:
    """The values of each entity's latest row by event time; of rows at one microsecond, the one ingested last."""
    keys = [("event_timestamp", "ascending"), ("created_timestamp", "ascending"), ("transaction_id", "ascending")]
    found = {}
    for row in features.sort_by(keys).to_pylist():
        if row[view.id_column] is not None and row["event_timestamp"].timestamp() * 1e6 < until_us:
            found[row[view.id_column]] = [row[name] for name in view.names]
    return found


def latest_daily(context: Context, view: feast_snapshot.View, night: int) -> dict[str, list[float | None]]:
    """The values of each entity in the newest snapshot that has it."""
    assert view.table is not None
    dataset, found = catalog.daily(view.table).at(context.settings.lake_uri), {}
    for number in range(night + 1):
        if dataset.partition(day(number)) is None:
            continue
        for row in dataset.read(day(number)).to_pylist():
            if row[view.id_column] is not None:
                found[row[view.id_column]] = [row[name] for name in view.names]
    return found


def test_a_view_that_the_declaration_no_longer_has_is_removed(context: Context, tmp_path: Path) -> None:
    fill(context, transactions(context.declaration, 60, seed=3))
    settings = context.settings
    store = feast_store.open_store(
        settings.project, settings.feast_registry.get_secret_value(), settings.redis_url.get_secret_value()
    )
    feast_store.apply(store, settings.project, context.declaration, str(tmp_path))
    written = yaml.safe_load((settings.project / declaration_file.NAME).read_text())
    written["features"] = [line for line in written["features"] if line.get("entity") != "shop"]
    (settings.project / declaration_file.NAME).write_text(yaml.safe_dump(written))
    fewer = replace(context, declaration=declaration_file.load_of(settings.project))
    feast_store.apply(store, settings.project, fewer.declaration, str(tmp_path))
    names = {view.name for view in store.list_feature_views()}
    assert names == {"card_transaction_features", "terminal_transaction_features"}


def test_a_new_feature_in_the_file_is_in_feast_without_code(context: Context) -> None:
    """A new column with a new entity, and another window: only features.yaml changes."""
    path = context.settings.project / declaration_file.NAME
    written = yaml.safe_load(path.read_text())
    written["columns"]["phone"] = {"type": "id"}
    written["entities"]["phone"] = {"id": "phone", "max_events": 16}
    written["features"] += [
        {"name": "phone_cards_1d", "kind": "window", "entity": "phone", "aggregate": "distinct", "column": "user_id",
         "window": "1d"},
        {"name": "card_max_amount_1d", "kind": "window", "entity": "card", "aggregate": "max", "column": "amount",
         "window": "1d", "default": "amount"},
    ]  # fmt: skip
    path.write_text(yaml.safe_dump(written))
    changed = replace(context, declaration=declaration_file.load_of(context.settings.project))
    features = fill(changed, transactions(changed.declaration, 200, seed=4))
    wrong = feast_comparison.compare(changed, changed.declaration, features)
    assert {"phone_cards_1d", "card_max_amount_1d"} <= wrong.keys()
    assert not any(wrong.values())
