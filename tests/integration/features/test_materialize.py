"""`fraud materialize` and `fraud features-explain` over a real Valkey."""

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime

import pytest
import redis
from tests.integration.features_platform import (
    FIRST_US,
    ROOT,
    build,
    day,
    load,
    many,
    publish,
    state,
    the_store,
    transactions,
)

from fraud.core.contract import US_PER_DAY, US_PER_HOUR
from fraud.errors import BadInputError, UnavailableError
from fraud.features import explain, feast_store, materialize
from fraud.features.online_store import OnlineHistory
from fraud.job import Context


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
    # Ingestion time before t1, delivered after it: the same event time in Feast gets another value.
    publish(context, transactions([*first, ("late file", "user 0", 3 * hour // 2, 3 * hour // 2)]))
    build(context)
    load(context)
    assert feast_store.online(the_store(context), ["user 0"])["transaction_velocity_1h"] == [1.0]


def test_an_emptied_store_is_filled_and_a_store_that_is_down_is_unavailable(
    context: Context, client: redis.Redis
) -> None:
    publish(context, many(40, seed=2))
    build(context)
    load(context)
    before = state(client)
    client.flushdb()
    load(context)
    assert state(client) == before
    absent = context.settings.model_copy(update={"redis_url": type(context.settings.redis_url)("redis://127.0.0.1:1")})
    with pytest.raises(UnavailableError, match="online store"):
        materialize.run(materialize.Config(), Context(absent, context.params, context.log))


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


def test_an_explanation_shows_each_event_its_windows_and_its_stores(context: Context, client: redis.Redis) -> None:
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
    both = "in both"
    assert layers == [("store only", 4, 3), (both, 3, 3), (both, 2, 3), (both, 1, 2), (both, 0, 1)]
    page = result.as_text().splitlines()
    assert page[0] == "user user 0 at Sun 2026-01-11 00:00:00 UTC: store and lake DIFFER"
    assert page[3].split(maxsplit=3) == ["transaction_velocity_1h", "3", "1", "3 events, 11.05 USD, 2 merchants"]
    assert page[7] == "events: 4 in both, 1 store only"
    assert [line.split("  ")[-1] for line in page if "2026-01-10 23:30:00" in line] == ["m0"]
    within = [i for i, line in enumerate(page) if line.startswith("-- within")]
    assert [later - earlier - 1 for earlier, later in zip(within, [*within[1:], len(page)], strict=True)] == [3, 1, 1]
    with pytest.raises(BadInputError, match="no events of user"):
        explain.run(explain.Config(user="stranger", at=moment), context)
