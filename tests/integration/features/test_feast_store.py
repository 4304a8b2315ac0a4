"""Feast and the online store over a real Valkey: what they hold is what the lake says."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import redis
import structlog

from fraud.core import history, windows
from fraud.core.contract import US_PER_DAY, US_PER_HOUR, amount_units, id_hash
from fraud.core.features import WINDOW_FEATURES, WINDOW_NAMES
from fraud.core.windows import evaluate
from fraud.errors import BadInputError, UnavailableError
from fraud.features import build_features, explain, feast_store, materialize
from fraud.features.online_store import OnlineHistory
from fraud.job import Context
from fraud.lake import catalog
from fraud.lake.dataset import Dataset
from fraud.params import Params
from fraud.settings import Settings
from fraud.training import training_set

ROOT = Path(__file__).parents[3]
FIRST = date(2026, 1, 1)
FIRST_US = (FIRST - date(1970, 1, 1)).days * US_PER_DAY
USERS = [f"user {i}" for i in range(5)]


@pytest.fixture
def client(valkey_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey_url) as connection:
        connection.flushdb()
        yield connection


@pytest.fixture
def context(tmp_path: Path, valkey_url: str, client: redis.Redis) -> Context:
    settings = Settings(home=tmp_path, project=ROOT, redis_url=valkey_url)
    return Context(settings, Params.load(ROOT / "params.yaml"), structlog.get_logger())


def day(number: int) -> str:
    return (FIRST + timedelta(number)).isoformat()


def transactions(rows: list[tuple[str, str, int, int]]) -> pa.Table:
    """(id, user, event time, created time), times in us after FIRST; amounts 1.00, 1.01, ... in the order given."""
    table = pa.table(
        {
            "transaction_id": [row[0] for row in rows],
            "event_timestamp": pa.array([FIRST_US + row[2] for row in rows], pa.timestamp("us", "UTC")),
            "created_timestamp": pa.array([FIRST_US + row[3] for row in rows], pa.timestamp("us", "UTC")),
            "user_id": [row[1] for row in rows],
            "merchant_id": [f"m{i % 3}" for i in range(len(rows))],
            "merchant_category": ["grocery"] * len(rows),
            "amount": [1 + i / 100 for i in range(len(rows))],
            "distance_from_home": pa.array([2.5] * len(rows), pa.float64()),
        }
    )
    return table.sort_by([(k, "ascending") for k in ("event_timestamp", "created_timestamp", "transaction_id")])


def many(days: int, seed: int) -> pa.Table:
    """About six rows a day, one in eight ingested up to six days late."""
    rng = np.random.default_rng(seed)
    n = 6 * days
    event = rng.integers(0, days * US_PER_DAY, n)
    learned = event + np.where(rng.random(n) < 1 / 8, rng.integers(0, 6 * US_PER_DAY, n), 0)
    users = rng.integers(0, len(USERS), n)
    return transactions(
        [(f"t{i}", USERS[users[i]], int(event[i]), int(min(learned[i], days * US_PER_DAY - 1))) for i in range(n)]
    )


def publish(context: Context, rows: pa.Table, name: str = "transactions") -> None:
    numbers = (np.asarray(rows["event_timestamp"].cast(pa.int64())) - FIRST_US) // US_PER_DAY
    for number in np.unique(numbers):
        Dataset(context.settings.lake_uri, name).publish(day(int(number)), rows.filter(pa.array(numbers == number)))


def publish_labels(context: Context, rows: list[tuple[str, bool, int]]) -> None:
    """(transaction, is_fraud, label time in us after FIRST)."""
    labels = catalog.LABELS.at(context.settings.lake_uri)
    for number in {at // US_PER_DAY for *_, at in rows}:
        own = sorted((row for row in rows if row[2] // US_PER_DAY == number), key=lambda row: row[2])
        table = pa.table(
            {
                "transaction_id": [row[0] for row in own],
                "is_fraud": [row[1] for row in own],
                "label_timestamp": pa.array([FIRST_US + row[2] for row in own], pa.timestamp("us", "UTC")),
            }
        )
        labels.publish(day(number), table)


def build(context: Context) -> None:
    build_features.run(build_features.Config(), context)


def load(context: Context, **flags: str) -> materialize.Result:
    return materialize.run(materialize.Config.model_validate(flags), context)


def state(client: redis.Redis) -> dict[bytes, bytes]:
    keys = sorted([*client.keys("h:*"), *client.keys("i:*")])
    return dict(zip(keys, client.mget(keys), strict=True))


def the_store(context: Context) -> feast_store.FeatureStore:
    settings = context.settings
    return feast_store.open_store(
        settings.project, settings.feast_registry.get_secret_value(), settings.redis_url.get_secret_value()
    )


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
    online_values = [evaluate(known.events, known.newest_us, at) for known in served.values()]

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
    """For each user, the point function's values for their latest row before a time, over what was known at it."""
    latest: dict[str, tuple[int, windows.WindowValues]] = {}
    known: dict[str, list[tuple[int, int, int]]] = {}
    learned = rows.sort_by([(k, "ascending") for k in ("created_timestamp", "event_timestamp", "transaction_id")])
    event_us = learned["event_timestamp"].cast(pa.int64()).to_pylist()
    for row, at in zip(learned.to_pylist(), event_us, strict=True):
        before = known.setdefault(row["user_id"], [])
        newest = max((event for event, *_ in before), default=0)
        values = windows.evaluate(np.array(before, dtype=history.RECORD), newest, at)
        if latest.get(row["user_id"], (0, values))[0] < at < until_us:
            latest[row["user_id"]] = (at, values)
        before.append((at, amount_units(row["amount"]), id_hash(row["merchant_id"])))
    return {user: values for user, (_, values) in latest.items()}


def test_feasts_online_values_are_our_evaluation_at_each_rows_event_time(
    context: Context, capsys: pytest.CaptureFixture[str]
) -> None:
    """Night after night: what Feast serves of a user is that of their latest row, as evaluated at its ingestion."""
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


def test_a_second_run_has_nothing_to_do_and_a_corrected_day_reaches_feast(
    context: Context, client: redis.Redis
) -> None:
    hour = US_PER_HOUR
    first = [("t0", "user 0", 0, 0), ("t1", "user 0", 2 * hour, 2 * hour)]
    publish(context, transactions(first))
    build(context)
    load(context)
    before = state(client)
    idle = load(context)
    assert (idle.days_loaded, idle.feast_days) == (0, 0)
    assert state(client) == before
    # Ingested before t1, delivered after it: the same event time in Feast gets another value.
    publish(context, transactions([*first, ("late file", "user 0", 3 * hour // 2, 3 * hour // 2)]))
    build(context)
    load(context)
    assert feast_store.online(the_store(context), ["user 0"])["transaction_velocity_1h"] == [1.0]


def test_a_lost_store_is_filled_again_and_a_store_that_is_down_is_named(context: Context, client: redis.Redis) -> None:
    publish(context, many(40, seed=2))
    build(context)
    load(context)
    before = state(client)
    client.flushdb()
    load(context)
    assert state(client) == before
    nowhere = context.settings.model_copy(update={"redis_url": type(context.settings.redis_url)("redis://127.0.0.1:1")})
    with pytest.raises(UnavailableError, match="online store"):
        materialize.run(materialize.Config(), Context(nowhere, context.params, context.log))


def test_events_of_a_day_far_ahead_do_not_keep_later_loads_from_the_store(
    context: Context, client: redis.Redis
) -> None:
    publish(context, transactions([("t0", "user 0", 0, 0), ("ahead", "user 1", 300 * US_PER_DAY, 300 * US_PER_DAY)]))
    build(context)
    load(context)
    publish(context, transactions([("t0", "user 0", 0, 0), ("t1", "user 0", 9 * US_PER_HOUR, 9 * US_PER_HOUR)]))
    build(context)
    load(context, to=day(0))
    assert OnlineHistory(client).read("user 0")[2]["event_us"].tolist() == [FIRST_US, FIRST_US + 9 * US_PER_HOUR]
    assert feast_store.online(the_store(context), ["user 0"])["avg_amount_7d"] == [1.0]


DIES_AFTER_ROUND_TRIPS = """
import os, signal, sys
from redis.client import Pipeline
from fraud.cli import run_job
from fraud.features import online_store

online_store._USERS_PER_ROUND_TRIP = 1
execute, left = Pipeline.execute, int(sys.argv[1])

def dying(pipeline, *arguments):
    global left
    reply, left = execute(pipeline, *arguments), left - 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return reply

Pipeline.execute = dying
run_job("materialize", [])
"""


@pytest.mark.parametrize("round_trips", [1, 3, 5])
def test_kill_9_after_any_write_and_a_second_run_leave_what_one_run_leaves(
    context: Context, client: redis.Redis, round_trips: int
) -> None:
    publish(context, many(40, seed=3))
    load(context)
    expected = state(client)
    client.flushdb()
    environment = {
        **os.environ,
        "FRAUD_HOME": str(context.settings.home),
        "FRAUD_PROJECT": str(ROOT),
        "FRAUD_REDIS_URL": context.settings.redis_url.get_secret_value(),
    }
    command = [sys.executable, "-c", DIES_AFTER_ROUND_TRIPS, str(round_trips)]
    killed = subprocess.run(command, env=environment, check=False, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert len(client.keys("h:*")) == round_trips
    assert load(context).repeated > 0
    assert state(client) == expected


def snapshot(context: Context, **flags: str) -> tuple[training_set.Result, dict[str, dict[str, object]]]:
    result = training_set.run(training_set.Config.model_validate(flags), context)
    rows = catalog.TRAINING_SETS.at(context.settings.lake_uri).read(result.snapshot).to_pylist()
    return result, {row["transaction_id"]: row for row in rows}


def test_a_training_set_holds_every_mature_row_with_the_values_of_its_own_moment(context: Context) -> None:
    rows = many(50, seed=4)
    publish(context, rows)
    build(context)
    result, by_id = snapshot(context)
    assert (result.first_day, result.last_day) == (day(0), day(42))
    assert result.cut_off == datetime(2026, 2, 20, tzinfo=UTC)
    lake = catalog.FEATURES.at(context.settings.lake_uri).read_range(day(0), day(42))
    assert lake is not None
    assert result.feature_rows_compared == result.rows == lake.num_rows
    for row in lake.to_pylist():
        assert {name: by_id[row["transaction_id"]][name] for name in WINDOW_NAMES} == {n: row[n] for n in WINDOW_NAMES}


def test_the_same_inputs_find_the_same_snapshot(context: Context) -> None:
    publish(context, many(10, seed=5))
    build(context)
    first, again = snapshot(context)[0], snapshot(context)[0]
    assert again == first.model_copy(update={"feature_rows_compared": 0})


def test_labels_count_as_known_at_the_cut_off(context: Context) -> None:
    at = {"none": 0, "fraud": 1, "revised": 2, "too new": 3, "young": 10 * US_PER_DAY}
    publish(context, transactions([(name, "user 0", t, t) for name, t in at.items()]))
    publish_labels(
        context,
        [("fraud", True, 2 * US_PER_DAY), ("revised", True, 2 * US_PER_DAY), ("revised", False, 3 * US_PER_DAY),
         ("too new", True, 11 * US_PER_DAY), ("young", True, 10 * US_PER_DAY + 5)],
    )  # fmt: skip
    build(context)
    result, by_id = snapshot(context)
    assert {name: row["is_fraud"] for name, row in by_id.items()} == {
        "none": False, "fraud": True, "revised": False, "too new": False,
    }  # fmt: skip
    assert (result.rows, result.frauds) == (4, 1)
    assert by_id["fraud"]["label_timestamp"] == datetime(2026, 1, 3, tzinfo=UTC)
    assert by_id["none"]["label_timestamp"] is None
    publish(context, transactions([("later", "user 0", 20 * US_PER_DAY, 20 * US_PER_DAY)]))
    build(context)
    assert {name for name, row in snapshot(context)[1].items() if row["is_fraud"]} == {"fraud", "too new", "young"}
    assert snapshot(context, as_of=day(10))[0] == result.model_copy(update={"feature_rows_compared": 0})


def test_rows_ingested_after_the_cut_off_are_not_in_it(context: Context) -> None:
    """The late row shares user and event time with one that was known: Feast must not see it at all."""
    hour = US_PER_HOUR
    rows = [("t0", "user 0", 0, 0), ("t1", "user 0", hour, hour), ("twin", "user 0", hour, 15 * US_PER_DAY),
            ("between", "user 0", hour // 2, 2 * hour), ("u", "user 1", 12 * US_PER_DAY, 12 * US_PER_DAY)]  # fmt: skip
    publish(context, transactions(rows))
    build(context)
    result, by_id = snapshot(context)
    assert set(by_id) == {"t0", "t1", "between"}
    assert result.feature_rows_compared == 3
    assert by_id["t1"]["transaction_velocity_1h"] == 1.0  # t0; "between" was ingested later
    _, all_of_them = snapshot(context, as_of=day(15))
    assert all_of_them["twin"]["transaction_velocity_1h"] == 2.0
    assert all_of_them["t1"]["transaction_velocity_1h"] == 1.0


def test_rows_that_share_user_and_time_are_all_kept(context: Context) -> None:
    hour = US_PER_HOUR
    rows = [
        ("t0", "user 0", 0, 0),
        *((f"twin {i}", "user 0", hour, hour) for i in range(3)),
        ("u", "user 1", hour, hour),
    ]
    publish(context, transactions(rows))
    build(context)
    result, by_id = snapshot(context, as_of=day(8))
    assert (result.rows, result.feature_rows_compared) == (5, 5)
    assert [by_id[f"twin {i}"]["transaction_velocity_1h"] for i in range(3)] == [1.0] * 3


def test_features_that_are_out_of_date_stop_the_training_set(context: Context) -> None:
    publish(context, many(10, seed=6))
    with pytest.raises(BadInputError, match="fraud build-features"):
        snapshot(context)


def test_a_feast_that_joins_otherwise_stops_the_training_set(context: Context, tmp_path: Path) -> None:
    publish(context, many(20, seed=7))
    build(context)
    project = tmp_path / "project"
    shutil.copytree(ROOT / "feature_repo", project / "feature_repo", ignore=shutil.ignore_patterns("__pycache__"))
    definitions = project / "feature_repo" / "definitions.py"
    swapped = {'d="event_timestamp"': 'd="created_timestamp"', 'n="created_timestamp"': 'n="event_timestamp"'}
    text = definitions.read_text()
    for right, wrong in swapped.items():
        assert right in text
        text = text.replace(right, wrong)
    definitions.write_text(text)
    settings = context.settings.model_copy(update={"project": project})
    with pytest.raises(BadInputError, match="differ in unique_merchants_30d"):
        snapshot(Context(settings, context.params, context.log))


def test_an_explanation_shows_each_event_with_its_windows_and_place(context: Context, client: redis.Redis) -> None:
    hour, at = US_PER_HOUR, 10 * US_PER_DAY
    rows = [("month", "user 0", 0, 0), ("week", "user 0", at - 2 * hour, at - 2 * hour),
            ("hour", "user 0", at - hour, at - hour), ("late", "user 0", at - hour // 2, at + hour)]  # fmt: skip
    publish(context, transactions(rows))
    load(context)
    OnlineHistory(client).append("user 0", "only served", FIRST_US + at - 1, 90_000, "m0")
    moment = datetime(2026, 1, 11, tzinfo=UTC)
    result = explain.run(explain.Config(user="user 0", at=moment), context)
    assert result.batch == {"transaction_velocity_1h": 1.0, "avg_amount_7d": 1.015, "unique_merchants_30d": 3}
    assert result.online == {"transaction_velocity_1h": 3.0, "avg_amount_7d": 3.015, "unique_merchants_30d": 3}
    layers = [(event.layer, event.sequence, len(event.windows)) for event in result.events]
    both = "known to both"
    assert layers == [("store only", 4, 3), (both, 3, 3), (both, 2, 3), (both, 1, 2), (both, 0, 1)]
    page = result.as_text().splitlines()
    assert page[0] == "user user 0 at Sun 2026-01-11 00:00:00 UTC: store and lake DIFFER"
    assert page[3].split(maxsplit=3) == ["transaction_velocity_1h", "3", "1", "3 events, 11.05 USD, 2 merchants"]
    assert page[7] == "events: 4 known to both, 1 store only"
    assert [line.split("  ")[-1] for line in page if "2026-01-10 23:30:00" in line] == ["m0"]
    within = [i for i, line in enumerate(page) if line.startswith("-- within")]
    assert [later - earlier - 1 for earlier, later in zip(within, [*within[1:], len(page)], strict=True)] == [3, 1, 1]
    with pytest.raises(BadInputError, match="no events of user"):
        explain.run(explain.Config(user="stranger", at=moment), context)


def test_a_job_that_used_feast_ends_without_a_page_on_leaks(context: Context) -> None:
    """DuckDB prints one when a connection is still there as the interpreter ends; Feast would leave it."""
    publish(context, many(10, seed=8))
    build(context)
    environment = {**os.environ, "FRAUD_HOME": str(context.settings.home), "FRAUD_PROJECT": str(ROOT)}
    command = [str(Path(sys.executable).with_name("fraud")), "training-set", "--json"]
    ended = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=120)
    assert "leaked" not in ended.stderr + ended.stdout
    assert '"feature_rows_compared":' in ended.stdout
