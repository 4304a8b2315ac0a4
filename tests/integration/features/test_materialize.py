"""`fraud materialize` over a real Valkey: layouts and daily tables of several declarations, killed at every write."""

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import redis
from tests.integration.features import online_platform as platform
from tests.integration.features.online_platform import DAYS, Killed, content, fill, load, with_declaration
from tests.integration.features_platform import FIRST_US, ROOT, day, publish, the_store
from tests.served_answers import THREE, TWO_ENTITIES

from fraud.core.contract import US_PER_DAY, id_hash
from fraud.core.daily import snapshot_at, snapshots
from fraud.core.declaration import Declaration
from fraud.core.plan import Plan, tables
from fraud.errors import BadInputError, UnavailableError
from fraud.features import build_daily, build_features, feast_snapshot, feast_store, online_store
from fraud.features.daily_values import daily_values, snapshot_ids
from fraud.features.online_store import OnlineHistory
from fraud.job import Context
from fraud.lake import catalog

PLAN = Plan(TWO_ENTITIES)
CARD, TERMINAL = (windows.layout for windows in PLAN.windows)
TABLE = PLAN.tables[0]


@pytest.fixture
def two(context: Context) -> Context:
    return with_declaration(context, TWO_ENTITIES)


def test_each_layout_has_the_events_of_its_entity_once_and_events_without_an_entity_are_counted(
    two: Context, client: redis.Redis
) -> None:
    table = platform.rows()
    fill(two, table)
    result = load(two)
    # A terminal's history keeps 8 days.
    newest = table["event_timestamp"][-1].as_py().date()
    recent = [row for row in table.to_pylist() if row["event_timestamp"].date() >= newest - timedelta(8)]
    without = sum(row["terminal_id"] is None for row in recent)
    assert 0 < without < len(recent) < 60
    counts = {h.entity: (h.rows, h.appended + h.too_late, h.without_entity) for h in result.histories}
    assert counts == {"card": (60, 60, 0), "terminal": (len(recent), len(recent) - without, without)}
    assert (result.rows, result.without_entity) == (60 + len(recent), without)
    assert result.rows == result.appended + result.repeated + result.too_late + result.full + result.without_entity
    rows = [row for row in recent if row["terminal_id"] == "a"]
    kept = OnlineHistory(client).read(TERMINAL, "a")[2]
    expected = sorted(rows, key=lambda row: (row["created_timestamp"], row["event_timestamp"]))
    assert kept["amount"].tolist() == [round(row["amount"] * 10_000) for row in expected]
    assert kept["user_id"].tolist() == [id_hash(row["user_id"]) for row in expected]
    own = [row for row in table.to_pylist() if row["user_id"] == "u1"]
    card = OnlineHistory(client).read(CARD, "u1")[2]
    by_time = {int(record["event_us"]): record for record in card}
    for row in own:
        record = by_time[round(row["event_timestamp"].timestamp() * 1e6)]
        flag = 2 if row["in_person"] is None else int(row["in_person"])
        distance = -(2**63) if row["distance"] is None else round(row["distance"] * 100)
        assert record.tolist()[1:] == (id_hash(row["channel"] or "other"), distance, flag)
    before = content(client)
    idle = load(two)
    assert (idle.days_loaded, idle.rows, [t.snapshots for t in idle.tables]) == (0, 0, [0])
    assert content(client) == before


def test_a_lost_store_is_filled_again_and_a_store_that_is_down_is_unavailable(
    two: Context, client: redis.Redis
) -> None:
    fill(two, platform.rows())
    load(two)
    before = content(client)
    client.flushdb()
    load(two)
    assert content(client) == before
    absent = two.settings.model_copy(update={"redis_url": type(two.settings.redis_url)("redis://127.0.0.1:1")})
    with pytest.raises(UnavailableError, match="does not answer"):
        load(Context(absent, two.params, two.declaration, two.log))


def test_without_transactions_there_is_nothing_to_load(two: Context) -> None:
    with pytest.raises(BadInputError, match="no transactions"):
        load(two)


def looked_up(client: redis.Redis, at_us: int, entity: str) -> tuple[str, list[float | None]]:
    """What serving reads for an entity at a time."""
    chosen = snapshot_at(TABLE, snapshots(client.hgetall(TABLE.pointer_key)), at_us)
    assert chosen is not None
    row = client.get(TABLE.row_key(chosen.id, entity))
    return chosen.id, chosen.default if row is None else TABLE.unpack(row)


def check_published(two: Context, client: redis.Redis) -> int:
    """Every published snapshot is readable as a whole, and equal to the one of the lake if it has the same id."""
    lake, compared = two.settings.lake_uri, 0
    for snapshot in snapshots(client.hgetall(TABLE.pointer_key)):
        at = np.array([snapshot.day * US_PER_DAY + TABLE.available_us])
        if snapshot_ids(lake, TABLE, at)[0].as_py() != snapshot.id:
            continue
        for entity in ("m1", "m2", "café m3", "unknown"):
            values = daily_values(catalog.daily(TABLE).at(lake).open(), TABLE, pa.array([entity]), at)[:, 0]
            assert looked_up(client, int(at[0]), entity) == (
                snapshot.id, [None if np.isnan(v) else float(v) for v in values],
            )  # fmt: skip
            compared += 1
    return compared


def test_the_newest_snapshots_are_published_and_a_superseded_one_stays_readable_for_a_while(
    two: Context, client: redis.Redis
) -> None:
    fill(two, platform.rows())
    result = load(two)
    assert [(t.entity, t.snapshots, t.newest_day) for t in result.tables] == [("shop", 3, day(DAYS))]
    published = snapshots(client.hgetall(TABLE.pointer_key))
    first_day = FIRST_US // US_PER_DAY
    assert [s.day - first_day for s in published] == [DAYS, DAYS - 1, DAYS - 2]
    assert check_published(two, client) == 12
    # A late row changes the last two snapshots.
    late = platform.rows(1, 1).set_column(
        1, "event_timestamp", pa.array([FIRST_US + (DAYS - 2) * US_PER_DAY], platform.TIMESTAMP)
    )
    late = late.set_column(2, "created_timestamp", late["event_timestamp"])
    dataset = catalog.TRANSACTIONS.at(two.settings.lake_uri)
    whole = pa.concat_tables([dataset.read(day(DAYS - 2)), late]).sort_by(catalog.TRANSACTIONS.order)
    dataset.publish(day(DAYS - 2), whole)
    build_daily.run(build_daily.Config(), two)
    again = load(two)
    assert [t.snapshots for t in again.tables] == [2]
    assert check_published(two, client) == 12
    old = published[0]
    key = TABLE.row_key(old.id, "m1")
    assert client.exists(key)
    assert 0 < client.ttl(key) <= online_store.SUPERSEDED_S
    members = {member.decode() for member in client.smembers(online_store.WRITTEN) if b"snapshot" in member}
    assert members == {f"snapshot:{TABLE.id}:{s.id}" for s in snapshots(client.hgetall(TABLE.pointer_key))}


def test_a_snapshot_whose_day_has_not_begun_is_not_published(two: Context, client: redis.Redis) -> None:
    fill(two, platform.rows())
    store = OnlineHistory(client)
    yesterday = datetime.fromisoformat(day(DAYS - 1)).replace(tzinfo=UTC, hour=23)
    made = online_store.publish_daily(store, two.settings.lake_uri, TABLE, yesterday)
    assert made.newest_day == day(DAYS - 1)


def test_a_run_killed_at_any_write_leaves_whole_snapshots_and_a_second_run_leaves_what_one_run_leaves(
    two: Context, client: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first night, then a second one with new rows, another declaration and a table that is no longer needed."""
    old = Declaration.model_validate(TWO_ENTITIES.model_dump() | {"features": TWO_ENTITIES.features[:-2]})
    assert tables(old)[0].id != TABLE.id
    first, second = platform.rows(), platform.rows(2)
    night = with_declaration(two, old, old)
    fill(night, first)
    load(night, live=True)
    before = {key: client.dump(key) for key in client.keys("*")}
    after = with_declaration(two, THREE, TWO_ENTITIES)
    fill(with_declaration(two, TWO_ENTITIES), pa.concat_tables([first, second]).sort_by("event_timestamp"))
    load(after, live=True)
    expected = content(client)
    assert not client.exists(tables(old)[0].pointer_key)

    def restore() -> None:
        client.flushdb()
        for key, value in before.items():
            client.restore(key, 0, value)

    user, kills, compared = Plan(THREE).windows[0].layout, 0, 0
    while True:
        restore()
        try:
            with platform.killed_at_write(kills + 1):
                load(after, live=True)
            break
        except Killed:
            kills += 1
        if client.exists(user.materialized_key):  # a layout that a version may be released for is complete
            histories = {key: value for key, value in expected.items() if key.startswith(f"h:{user.id}:")}
            assert {key: client.get(key) for key in histories} == histories
        compared += check_published(two, client)
        load(after, live=True)
        assert content(client) == expected, kills
    assert content(client) == expected
    with capsys.disabled():
        print(f"\nmaterialize killed at each of {kills} writes; {compared} published rows compared")
    assert kills > 30


def test_a_new_layout_is_loaded_beside_the_old_one_which_is_removed_when_no_alias_needs_it(
    context: Context, client: redis.Redis
) -> None:
    fill(with_declaration(context, TWO_ENTITIES), platform.rows())
    load(with_declaration(context, THREE, THREE), live=True)
    user = Plan(THREE).windows[0].layout
    # The project has moved on, production has not.
    both = load(with_declaration(context, TWO_ENTITIES, THREE), live=True)
    assert {h.layout for h in both.histories} == {user.id, CARD.id, TERMINAL.id}
    assert both.removed == []
    assert all(client.exists(layout.materialized_key) for layout in (user, CARD, TERMINAL))
    # Without --live the aliases are not known, so nothing is removed.
    assert load(with_declaration(context, TWO_ENTITIES)).removed == []
    assert client.keys(f"h:{user.id}:*")
    promoted = load(with_declaration(context, TWO_ENTITIES, TWO_ENTITIES), live=True)
    assert promoted.removed == [f"layout:{user.id}"]
    assert client.keys(f"?:{user.id}:*") == []
    assert not client.exists(user.materialized_key)
    back = load(with_declaration(context, THREE, THREE), live=True)
    assert sorted(back.removed) == sorted([f"layout:{CARD.id}", f"layout:{TERMINAL.id}", f"table:{TABLE.id}"])
    assert not client.exists(TABLE.pointer_key)
    assert [key for key in client.keys("d:*") if client.ttl(key) < 0] == []


def test_an_alias_that_is_set_during_the_run_keeps_its_layout(context: Context, client: redis.Redis) -> None:
    fill(with_declaration(context, TWO_ENTITIES), platform.rows())
    load(with_declaration(context, TWO_ENTITIES))
    answers = iter([[THREE], [THREE, TWO_ENTITIES], [THREE, TWO_ENTITIES], [THREE, TWO_ENTITIES]])
    racing = Context(context.settings, context.params, THREE, context.log, lambda: next(answers))
    assert load(racing, live=True).removed == []
    assert client.exists(CARD.history_key("u1"))
    assert client.exists(TABLE.pointer_key)
    again = load(racing, live=True)
    assert {h.layout for h in again.histories if h.days} == {CARD.id, TERMINAL.id}
    assert again.appended == 0
    assert client.exists(CARD.materialized_key)


DIES_AFTER_ROUND_TRIPS = """
import os, signal, sys
from pathlib import Path
import structlog
from redis.client import Pipeline
from fraud import declaration_file
from fraud.features import materialize, online_store
from fraud.job import Context
from fraud.params import Params
from fraud.settings import Settings

left, execute = int(sys.argv[1]), Pipeline.execute
online_store.ENTITIES_PER_ROUND_TRIP = 1

def dying(pipeline, **options):
    global left
    reply, left = execute(pipeline, **options), left - 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return reply

Pipeline.execute = dying
settings = Settings.load()
declared = declaration_file.load(Path(sys.argv[2]))
params = Params.load(settings.project / "params.yaml")
materialize.run(materialize.Config(), Context(settings, params, declared, structlog.get_logger()))
"""


def test_kill_9_between_two_entities_and_a_second_run_leave_what_one_run_leaves(
    context: Context, client: redis.Redis
) -> None:
    fill(with_declaration(context, TWO_ENTITIES), platform.rows())
    load(context)
    expected = content(client)
    client.flushdb()
    environment = {
        **os.environ,
        "FRAUD_HOME": str(context.settings.home),
        "FRAUD_PROJECT": str(ROOT),
        "FRAUD_REDIS_URL": context.settings.redis_url.get_secret_value(),
    }
    command = [sys.executable, "-c", DIES_AFTER_ROUND_TRIPS, "2", str(ROOT / "tests/declarations/three.yaml")]
    killed = subprocess.run(command, env=environment, check=False, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert len(client.keys("h:*")) == 2
    assert load(context).repeated > 0
    assert content(client) == expected


def test_feasts_views_are_loaded_once_and_a_corrected_day_reaches_them(two: Context, client: redis.Redis) -> None:
    table = platform.rows()
    fill(two, table)
    build_features.run(build_features.Config(), two)
    first = load(two)
    assert first.feast_days > 0
    assert load(two).feast_days == 0

    def served(entity: str, id_: str) -> dict[str, object]:
        [view] = [view for view in feast_snapshot.views(TWO_ENTITIES) if view.entity == entity]
        online = feast_store.online(the_store(two), view, [id_])
        return {name: value for name, [value] in online.items()}

    lake = two.settings.lake_uri
    rows = catalog.features(TWO_ENTITIES.stored_hash).at(lake).read_range("", "9")
    assert rows is not None
    for entity, column, id_ in (("card", "user_id", "u2"), ("terminal", "terminal_id", "b")):
        latest = [row for row in rows.to_pylist() if row[column] == id_][-1]
        assert served(entity, id_) == {f.name: latest[f.name] for f in TWO_ENTITIES.windows(entity)}
    at_last = np.array([FIRST_US + (DAYS - 1) * US_PER_DAY + TABLE.available_us])
    newest = daily_values(catalog.daily(TABLE).at(lake).open(), TABLE, pa.array(["m1"]), at_last)
    assert list(served("shop", "m1").values()) == newest[:, 0].tolist()
    # A late file has an event a minute before the latest one.
    latest = [row for row in rows.to_pylist() if row["user_id"] == "u2"][-1]
    late = table.filter(pc.equal(table["transaction_id"], latest["transaction_id"]))
    at = pc.subtract(late["event_timestamp"], pa.scalar(timedelta(minutes=1)))
    late = late.set_column(0, "transaction_id", pa.array(["late file"])).set_column(1, "event_timestamp", at)
    publish(two, pa.concat_tables([table, late.set_column(2, "created_timestamp", at)]).sort_by(
        catalog.TRANSACTIONS.order))  # fmt: skip
    build_daily.run(build_daily.Config(), two)
    build_features.run(build_features.Config(), two)
    before = served("card", "u2")
    assert load(two).feast_days > 0
    name = TWO_ENTITIES.windows("card")[0].name
    assert served("card", "u2")[name] == float(str(before[name])) + 1
