"""Feast over a real Valkey: its views agree with the lake and with the online store."""

import numpy as np
import pyarrow as pa
import pytest
import redis
from tests.integration.features_platform import (
    FIRST_US,
    ROOT,
    USERS,
    build,
    day,
    load,
    many,
    publish,
    the_store,
    transactions,
)

from fraud.core import history, windows
from fraud.core.contract import US_PER_DAY, US_PER_HOUR, amount_units, id_hash
from fraud.core.features import WINDOW_FEATURES, WINDOW_NAMES
from fraud.core.windows import evaluate
from fraud.features import feast_store
from fraud.features.online_store import OnlineHistory
from fraud.job import Context
from fraud.lake import catalog


def test_feast_declares_the_windows_of_core_and_nothing_else() -> None:
    definitions = feast_store.load_definitions(ROOT).define("snapshot.parquet")
    dtypes = {"float64": "Float64", "int64": "Int64"}
    ours = {feature.name: dtypes[feature.dtype] for feature in WINDOW_FEATURES}
    assert {field.name: str(field.dtype) for field in definitions.view.schema if field.name != "user_id"} == ours
    assert (definitions.user.name, definitions.user.join_key) == ("user_id", "user_id")
    assert (definitions.view.name, definitions.service.name) == (feast_store.VIEW, feast_store.SERVICE)


def test_the_next_request_sees_the_batch_values_and_feast_agrees(context: Context, client: redis.Redis) -> None:
    """Probe events, never part of the lake's load, are scored from the store, then by a batch build that has them."""
    rows = many(45, seed=1)
    publish(context, rows)
    build(context)
    loaded = load(context)
    assert loaded.rows == loaded.appended + loaded.repeated + loaded.too_late + loaded.full
    assert loaded.feast_days == 45
    store = OnlineHistory(client)
    at = FIRST_US + 45 * US_PER_DAY + 5 * US_PER_HOUR
    served = {user: store.append(user, f"probe {user}", at, 10_000, "m") for user in USERS}
    online_values = [evaluate(stored.events, stored.newest_us, at) for stored in served.values()]

    probes = [(f"probe {user}", user, at - FIRST_US, at - FIRST_US) for user in USERS]
    publish(context, transactions(probes))
    build(context)
    built = catalog.FEATURES.at(context.settings.lake_uri).read(day(45)).sort_by("user_id")
    assert list(zip(*(built[name].to_pylist() for name in WINDOW_NAMES), strict=True)) == online_values

    again = load(context)
    assert (again.appended, again.repeated, again.feast_days) == (0, len(USERS), 1)
    feast = feast_store.online(the_store(context), USERS)
    assert list(zip(*(feast[name] for name in WINDOW_NAMES), strict=True)) == online_values


def evaluated(rows: pa.Table, until_us: int) -> dict[str, windows.WindowValues]:
    """The point function's values of each user's latest row before a time, over the rows ingested before that row."""
    latest: dict[str, tuple[int, windows.WindowValues]] = {}
    history_of: dict[str, list[tuple[int, int, int]]] = {}
    by_ingestion = rows.sort_by([(k, "ascending") for k in ("created_timestamp", "event_timestamp", "transaction_id")])
    event_us = by_ingestion["event_timestamp"].cast(pa.int64()).to_pylist()
    for row, at in zip(by_ingestion.to_pylist(), event_us, strict=True):
        before = history_of.setdefault(row["user_id"], [])
        newest = max((event for event, *_ in before), default=0)
        values = windows.evaluate(np.array(before, dtype=history.RECORD), newest, at)
        if latest.get(row["user_id"], (0, values))[0] < at < until_us:
            latest[row["user_id"]] = (at, values)
        before.append((at, amount_units(row["amount"]), id_hash(row["merchant_id"])))
    return {user: values for user, (_, values) in latest.items()}


def test_feasts_online_values_are_our_evaluation_at_each_rows_event_time(
    context: Context, capsys: pytest.CaptureFixture[str]
) -> None:
    """Night after night: Feast serves the values of a user's latest row, as evaluated at its ingestion."""
    rows = many(40, seed=9)
    publish(context, rows)
    build(context)
    store = the_store(context)
    compared = 0
    for night in (3, 8, 20, 36, 40):
        load(context, to=day(night - 1))
        expected = evaluated(rows, FIRST_US + night * US_PER_DAY)
        feast = feast_store.online(store, list(expected))
        served = list(zip(*(feast[name] for name in WINDOW_NAMES), strict=True))
        assert served == list(expected.values())
        compared += len(served)
    with capsys.disabled():
        print(f"\nFeast online: {compared} users' values compared, 0 mismatches")
