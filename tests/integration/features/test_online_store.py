"""The scripts on a real Valkey: once per id, in order, bounded, and the bulk load means the same as one by one."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests import oracle_windows
from tests.served_answers import THREE, TWO_ENTITIES

from fraud.core import history
from fraud.core.contract import US_PER_DAY, US_PER_HOUR, id_hash
from fraud.core.plan import Plan
from fraud.embedded.servers import child, valkey
from fraud.errors import BadConfigError
from fraud.features.online_store import Batch, Event, Loaded, OnlineHistory, connect

ROOT = Path(__file__).parents[3]
WINDOWS = Plan(THREE).windows[0]
LAYOUT = WINDOWS.layout
KEEP_US = LAYOUT.keep_us
SMALL = replace(LAYOUT, max_events=4)
NOON = 1_767_268_800_123_457  # 2026-01-01T12:00:00.123457Z: odd microseconds must survive Lua's doubles


class Store:
    """A history of the three-feature declaration, without the layout in every call."""

    def __init__(self, client: redis.Redis, layout: history.Layout = LAYOUT) -> None:
        self.own, self.layout = OnlineHistory(client), layout

    def append(self, user: str, name: str, at: int, units: int, merchant: str) -> history.PriorHistory:
        return self.own.append(self.layout, user, name, at, (units, id_hash(merchant)))

    def load(self, batches: list[Batch]) -> Loaded:
        return self.own.load(self.layout, batches)

    def read(self, user: str) -> tuple[int, int, np.ndarray]:
        return self.own.read(self.layout, user)


def batch(user: str, events: list[tuple[str, int, int, str]]) -> Batch:
    records = np.array([(at, units, id_hash(merchant)) for _, at, units, merchant in events], dtype=LAYOUT.record)
    return Batch(user, records, np.array([id_hash(name) for name, *_ in events], dtype=np.uint64))


def test_an_event_sees_those_before_it_and_not_itself(client: redis.Redis) -> None:
    store = Store(client)
    first = store.append("u", "t1", NOON, 123_456_789_012_345, "shop")
    second = store.append("u", "t2", NOON + 1, 5, "café ☕")
    assert (first.sequence, first.newest_us, len(first.events), first.repeated) == (0, 0, 0, False)
    assert (second.sequence, second.newest_us, second.repeated) == (1, NOON, False)
    assert second.events.tolist() == [(NOON, 123_456_789_012_345, id_hash("shop"))]


def test_a_retry_gets_its_own_sequence_and_history_and_writes_nothing(client: redis.Redis) -> None:
    store = Store(client)
    for i in range(5):
        store.append("u", f"t{i}", NOON + i, i + 1, "m")
    before = client.get(LAYOUT.history_key("u")), client.get(LAYOUT.ids_key("u"))
    retry = store.append("u", "t2", NOON + 2, 3, "m")
    assert (retry.sequence, retry.newest_us, retry.repeated) == (2, NOON + 1, True)
    assert retry.events["amount"].tolist() == [1, 2]
    assert (client.get(LAYOUT.history_key("u")), client.get(LAYOUT.ids_key("u"))) == before


def test_an_id_that_straddles_two_entries_is_not_taken_for_a_known_one(client: redis.Redis) -> None:
    store = Store(client)
    store.append("u", "t1", NOON, 1, "m")
    entries = client.get(LAYOUT.ids_key("u"))
    assert isinstance(entries, bytes)
    script = client.register_script(history.APPEND_SCRIPT)
    keys = [LAYOUT.history_key("u"), LAYOUT.ids_key("u")]
    arguments = LAYOUT.append_arguments("x", NOON, (1, id_hash("m")))
    reply = script(keys=keys, args=[arguments[0], entries[4:12], *arguments[2:]])
    assert isinstance(reply, list)
    assert reply[:3] == [1, NOON, 0]


def test_sixteen_clients_of_one_user_are_ordered_without_gap_or_double(valkey_url: str, client: redis.Redis) -> None:
    def send(k: int) -> list[tuple[int, int]]:
        with redis.Redis.from_url(valkey_url) as own:
            store = Store(own)
            known = [store.append("u", f"t{k}-{i // 2}", NOON + i // 2, 1, "m") for i in range(100)]  # each id twice
        return [(reply.sequence, len(reply.events)) for reply in known]

    with ThreadPoolExecutor(16) as pool:
        replies = [reply for replies in pool.map(send, range(16)) for reply in replies]
    assert sorted(replies) == sorted([(i, i) for i in range(800)] * 2)


def test_a_history_keeps_between_two_and_three_times_the_bound_and_shows_the_bound(client: redis.Redis) -> None:
    store = Store(client, SMALL)
    for i in range(50):
        known = store.append("u", f"t{i}", NOON + i, i, "m")
        base, newest, events = store.read("u")
        assert known.sequence == i
        assert known.events["amount"].tolist() == list(range(max(0, i - 4), i))
        assert events["amount"].tolist() == list(range(base, i + 1))
        assert (len(events) == i + 1) if i < 12 else (8 < len(events) <= 12)
        assert newest == NOON + i
    for i in range(46, 50):
        retry = store.append("u", f"t{i}", NOON + i, i, "m")
        assert (retry.sequence, retry.repeated) == (i, True)
        assert retry.events["amount"].tolist() == list(range(i - 4, i))


def test_an_event_that_no_window_can_contain_is_not_stored(client: redis.Redis) -> None:
    store = Store(client)
    store.append("u", "new", NOON, 1, "m")
    just = store.append("u", "just in time", NOON - KEEP_US, 2, "m")
    late = store.append("u", "too late", NOON - KEEP_US - 1, 3, "m")
    assert (just.sequence, late.sequence, late.newest_us) == (1, 2, NOON)
    assert store.read("u")[2]["amount"].tolist() == [1, 2]


events = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 50), st.integers(1, 9)), min_size=1, max_size=40
)  # (id, day, units)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events, st.sampled_from([3, 1_024]), st.integers(1, 7))
def test_after_a_load_the_next_event_sees_what_it_would_see_after_single_appends(
    client: redis.Redis, log: list[tuple[int, int, int]], bound: int, size: int
) -> None:
    client.flushdb()
    store = Store(client, replace(LAYOUT, max_events=bound))
    day_of = {name: day for name, day, _ in reversed(log)}  # a repetition has the time of the first delivery
    rows = [(f"t{name}", NOON + day_of[name] * US_PER_DAY, units, "m") for name, _, units in log]
    for name, at, units, merchant in rows:
        store.append("single", name, at, units, merchant)
    loaded = [store.load([batch("bulk", rows[i : i + size])]) for i in range(0, len(rows), size)]
    assert sum(map(sum, loaded)) == len(rows)
    if any(result.full for result in loaded):
        return  # a full history takes only newer events from a load: it is bounded, not equal
    single, bulk = (store.append(user, "probe", NOON + 60 * US_PER_DAY, 1, "m") for user in ("single", "bulk"))
    assert (bulk.sequence, bulk.newest_us) == (single.sequence, single.newest_us)
    in_reach = single.events[single.events["event_us"] >= single.newest_us - KEEP_US]
    assert bulk.events[bulk.events["event_us"] >= bulk.newest_us - KEEP_US].tobytes() == in_reach.tobytes()


def test_a_load_counts_no_event_twice_not_even_those_of_predict(client: redis.Redis) -> None:
    store = Store(client)
    store.append("u", "t1", NOON, 10, "m")
    rows = [("t0", NOON - 5, 9, "m"), ("t1", NOON, 10, "m"), ("t2", NOON + 5, 11, "m")]
    assert store.load([batch("u", rows), batch("v", rows[:1])]) == Loaded(3, 1, 0, 0)
    assert store.load([batch("u", rows), batch("v", rows[:1])]) == Loaded(0, 4, 0, 0)
    assert store.read("u")[2]["amount"].tolist() == [10, 9, 11]
    assert store.append("u", "t2", NOON + 5, 11, "m").sequence == 2


def test_a_full_history_is_not_loaded_a_second_time(client: redis.Redis) -> None:
    store = Store(client, SMALL)
    rows = [(f"t{i}", NOON + i, i, "m") for i in range(30)]
    assert store.load([batch("u", rows)]) == Loaded(30, 0, 0, 0)
    before = store.read("u")
    again = store.load([batch("u", rows)])
    assert again.appended == 0
    assert again.repeated + again.full == 30
    assert store.read("u")[2].tobytes() == before[2].tobytes()


def test_a_load_drops_events_older_than_the_retention(client: redis.Redis) -> None:
    store = Store(client)
    store.load([batch("u", [("t0", NOON, 1, "m"), ("t1", NOON + US_PER_DAY, 2, "m")])])
    store.load([batch("u", [("t2", NOON + KEEP_US + 1, 3, "m")])])
    base, newest, kept = store.read("u")
    assert (base, newest, kept["amount"].tolist()) == (1, NOON + KEEP_US + 1, [2, 3])
    assert client.strlen(LAYOUT.ids_key("u")) == 2 * 16


def test_one_call_appends_to_the_histories_of_several_entities_and_a_retry_completes_them(client: redis.Redis) -> None:
    """Two layouts of one declaration, and another declaration's layout of the same entity: apart, each once."""
    store = OnlineHistory(client)
    card, terminal = (s.layout for s in Plan(TWO_ENTITIES).windows)
    assert (card.entity, terminal.entity) == ("card", "terminal")
    # card stores channel, distance, in_person; terminal stores amount, user_id.
    events = [
        Event(card, "u", (id_hash("web"), -(2**63), 1)), Event(terminal, "t", (55_000, id_hash("u"))),
        Event(LAYOUT, "u", (55_000, id_hash("m"))),
    ]  # fmt: skip
    cut_off = store.append_all("t1", NOON, events[:1])  # a request that reached one shard only
    assert [(p.sequence, p.repeated) for p in cut_off] == [(0, False)]
    again = store.append_all("t1", NOON, events)
    assert [(p.sequence, p.repeated) for p in again] == [(0, True), (0, False), (0, False)]
    assert store.read(card, "u")[2].tolist() == [(NOON, id_hash("web"), -(2**63), 1)]
    assert store.read(terminal, "t")[2].tolist() == [(NOON, 55_000, id_hash("u"))]
    assert store.read(LAYOUT, "u")[2].tolist() == [(NOON, 55_000, id_hash("m"))]
    assert len(client.keys("h:*")) == 3


def test_an_event_costs_24_bytes_and_its_idempotency_16_and_each_stored_column_adds_8_or_1(client: redis.Redis) -> None:
    store = Store(client)
    store.load([batch("u", [(f"t{i}", NOON + i, i, f"m{i}") for i in range(1_000)])])
    assert client.strlen(LAYOUT.history_key("u")) == 16 + 24 * 1_000
    assert client.strlen(LAYOUT.ids_key("u")) == 16 * 1_000
    at_rest = client.memory_usage(LAYOUT.history_key("u"))
    assert at_rest is not None
    assert at_rest <= 24 * 1_000 * 1.1
    sizes = {s.layout.entity: s.layout.record.itemsize for s in Plan(TWO_ENTITIES).windows}
    assert sizes == {"card": 8 + 8 + 8 + 1, "terminal": 8 + 8 + 8}  # time, category, number, flag; time, number, id


def test_a_replay_by_sixteen_clients_equals_the_batch_values_as_known_at_each_sequence(
    valkey_url: str, client: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    """Users interleaved, an eighth of the events late by up to six days, a twelfth sent twice."""
    rng = np.random.default_rng(11)
    n, users = 4_000, 40
    at = NOON + np.sort(rng.integers(0, 31 * US_PER_DAY, n) // US_PER_HOUR * US_PER_HOUR)
    user, units, shop = rng.integers(0, users, n), rng.integers(1, 10**9, n), rng.integers(0, 60, n)
    sent_at = at + np.where(rng.random(n) < 1 / 8, rng.integers(0, 6 * US_PER_DAY, n), 0)
    log = [int(i) for i in np.argsort(sent_at, kind="stable") for _ in range(1 + int(i % 12 == 0))]

    def replay(shard: int) -> list[tuple[int, int, list[float | None]]]:
        with redis.Redis.from_url(valkey_url) as connection:
            store = Store(connection)
            answers = []
            for i in (i for i in log if user[i] % 16 == shard):
                own = (int(units[i]), id_hash(f"m{shop[i]}"))
                known = store.append(f"u{user[i]}", f"t{i}", int(at[i]), int(units[i]), f"m{shop[i]}")
                values = WINDOWS.evaluate(known.events, known.newest_us, int(at[i]), own)
                answers.append((i, known.sequence, values))
            return answers

    with ThreadPoolExecutor(16) as pool:
        served = [answer for answers in pool.map(replay, range(16)) for answer in answers]
    sequence = np.zeros(n, dtype=np.int64)
    for i, place, _ in served:
        sequence[i] = place
    of_column = {None: (-1, 1), "amount": (0, 10_000), "merchant_id": (1, 1)}  # position, divisor
    features = [
        oracle_windows.Feature(f.aggregate, of_column[f.column][0], f.window_us, of_column[f.column][1])
        for f in THREE.windows("user")
    ]
    expected: dict[int, list[float | None]] = {}
    for number in range(users):
        rows = sorted(np.flatnonzero(user == number).tolist(), key=lambda i: (at[i], sequence[i]))
        own = [oracle_windows.Event(int(at[i]), int(sequence[i]), (int(units[i]), f"m{shop[i]}")) for i in rows]
        values = oracle_windows.window_values(own, features, LAYOUT.max_events, KEEP_US)
        expected |= {i: values[place] for place, i in enumerate(rows)}
    mismatches = sum(expected[i] != values for i, _, values in served)
    with capsys.disabled():
        print(f"\nreplay: {len(served)} answers compared, {mismatches} mismatches")
    assert len(served) == n + len(range(0, n, 12))
    assert mismatches == 0


@pytest.mark.slow
def test_a_replay_stays_equal_while_materialize_is_killed_at_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """`make bench-features` runs the same with 250 times the users; one command of the load covers one user here."""
    command = [sys.executable, str(ROOT / "tests/bench/features_replay.py"), "--users", "12", "--users-at-once", "1"]
    done = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=240).stdout)
    with capsys.disabled():
        print(f"\nreplay under kills: {done}")
    assert done["kills"] > 12  # after each user's load, and around them
    assert done["answers"] > done["rows"] > 300
    assert (done["mismatches"], done["doubled_or_lost"]) == (0, 0)


def test_kill_9_of_the_server_loses_no_append_older_than_the_last_sync(tmp_path: Path) -> None:
    server = valkey.start(tmp_path, "secret", append_only=True)
    with redis.Redis.from_url(server.url) as connection:
        Store(connection).append("u", "t1", NOON, 1, "m")
        connection.waitaof(1, 0, 5_000)
    os.kill(server.pid, signal.SIGKILL)
    child.stop(server.pid)
    again = valkey.start(tmp_path, "secret", append_only=True)
    try:
        with redis.Redis.from_url(again.url) as connection:
            assert Store(connection).append("u", "t1", NOON, 1, "m").repeated
    finally:
        child.stop(again.pid)


def test_an_address_that_is_none_is_a_wrong_setting() -> None:
    with pytest.raises(BadConfigError, match="FRAUD_REDIS_URL"), connect("127.0.0.1:6379"):
        pass


def test_access_without_the_password_is_refused(valkey_url: str) -> None:
    host = valkey_url.rsplit("@", 1)[1]
    with redis.Redis.from_url(f"redis://{host}") as stranger, pytest.raises(redis.AuthenticationError):
        stranger.get("h:{u}")
