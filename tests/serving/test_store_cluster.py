"""The online store on a cluster of three shards with replicas: the answers of one server, also while slots move and
while a shard is down, for all users of the other shards."""

import random
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from kafka import Broker, Client, Stream
from plans import client, plan
from servers import Registry, Serving, Valkey, until
from stream_checks import all_decided, by_transaction, transactions
from tests import valkey_cluster
from tests.valkey_cluster import SLOTS, Cluster, meanwhile

from fraud.core.daily import Snapshot, Table
from fraud_serving.store.commands import HistoryAppend, PublishedSnapshot
from fraud_serving.store.slots import key_slot, most_stated, parse_ranges

FIRST = datetime(2026, 3, 4, 10, 0, tzinfo=UTC)
DAY = 20_516
"""FIRST's day since 1970."""
LONGEST_DEADLINE = {"SERVING_STORE_DEADLINE_MS": "1000"}
MODEL = 5
"""With histories of users and devices, and a daily table of merchants."""
IDS = ("u1", "a}b", "}", "{x}", "{", "ü-ß", "a b", "1" * 64)


@pytest.fixture(scope="module")
def cluster(backends: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with valkey_cluster.running(backends["valkey"], tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


def cluster_client(cluster: Cluster) -> redis.RedisCluster:
    node = cluster.primaries()[0]
    return redis.RedisCluster(host=node.host, port=node.port, password=valkey_cluster.PASSWORD)


def publish(store: Any, table: Table) -> None:  # noqa: ANN401 - a client of either kind
    """A snapshot with a row for every second merchant."""
    snapshot = Snapshot(DAY, f"day{DAY}-{'a' * 12}", [1.0, 0.01])
    for number in range(0, 40, 2):
        store.set(table.row_key(snapshot.id, f"m{number}"), table.pack([float(number), number / 100]))
    store.hset(table.pointer_key, str(DAY), snapshot.to_json())


def payments(seed: int, size: int) -> list[dict[str, object]]:
    """A sequence of payments of 100 users with 30 devices at 40 merchants."""
    rng = random.Random(seed)  # noqa: S311 - payments of a test
    return [
        {
            "transaction_id": f"s{seed}-{number}", "user_id": f"s{seed}-u{rng.randrange(100)}",
            "device_id": rng.choice([None, *(f"s{seed}-d{device}" for device in range(30))]),
            "merchant_id": f"m{rng.randrange(40)}", "amount": round(rng.uniform(1, 500), 2),
            "merchant_category": rng.choice(["grocery", "travel", "other"]), "country": rng.choice(["us", "fr", None]),
            "card_present": rng.random() < 0.5, "distance_from_home": rng.choice([None, 3.0, 800.0]),
            "event_timestamp": (FIRST + timedelta(seconds=13 * number)).isoformat(),
        }
        for number in range(size)
    ]  # fmt: skip


def without_id(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name != "prediction_id"}


def replayed(serving: Serving, sequence: list[dict[str, object]]) -> list[dict[str, Any]]:
    """The answers: single requests, then batches, then some payments again. A user's payments keep their order."""
    half = len(sequence) // 2
    answers = [serving.predict(**payment) for payment in sequence[:half]]
    for start in range(half, len(sequence), 100):
        done = serving.client.post("/predict/batch", json={"transactions": sequence[start : start + 100]})
        assert done.status_code == 200, done.text
        answers += done.json()["predictions"]
    again = [serving.predict(**payment) for payment in sequence[::37]]
    assert [answer["prediction_id"] for answer in again] == [answer["prediction_id"] for answer in answers[::37]]
    return [without_id(answer) for answer in answers + again]


@pytest.fixture
def both(
    start: Callable[..., Serving], shared_store: Valkey, cluster: Cluster, registry: Registry, versions: list[str]
) -> tuple[Serving, Serving]:
    """Serving on one server, and on the cluster."""
    registry.promote(versions[MODEL])
    [table] = plan(registry, MODEL).tables
    with client(shared_store) as single, cluster_client(cluster) as several:
        publish(single, table)
        publish(several, table)
    one = start(shared_store.url, registry, folder="one", **LONGEST_DEADLINE)
    return one, start(cluster.url, registry, folder="cluster", **LONGEST_DEADLINE)


def slot_of(user: str) -> int:
    return key_slot(f"{{user_id:{user}}}".encode())


def redirects(serving: Serving) -> dict[str, float]:
    return {k: serving.metric(f'serving_store_redirects_total{{kind="{k}"}}') for k in ("moved", "ask", "tryagain")}


def test_slots_are_those_of_the_server(cluster: Cluster, registry: Registry) -> None:
    compiled, ask = plan(registry, MODEL), cluster.nodes[0].ask
    appends = [(windows.layout, HistoryAppend(windows.layout)) for windows in compiled.windows]
    [table] = compiled.tables
    row = PublishedSnapshot(table, Snapshot(DAY, "day-a", [1.0, 0.01]))
    for id_ in IDS:
        for layout, append in appends:
            expected = ask("KEYSLOT", layout.history_key(id_))
            assert ask("KEYSLOT", layout.ids_key(id_)) == expected
            assert key_slot(append.command(id_, b"", b"")) == expected
        assert key_slot(row.command(id_)) == ask("KEYSLOT", table.row_key("day-a", id_))
    for key in ("", "a", "{}a", "{}{a}", "x{a}y{b}", "x{", "}{a", "{{a}}", "daily:0123abcd"):
        assert key_slot(key.encode()) == ask("KEYSLOT", key), key


def test_the_table_of_most_nodes_counts() -> None:
    nodes = [[b"10.0.0.1", 7001, b"a", []], [b"", 7002, b"b", []]]
    primaries, known = parse_ranges([[0, 8191, nodes[0], nodes[1]], [8192, 16383, nodes[1]]], "10.0.0.9")
    assert (primaries[0], primaries[8191], primaries[8192]) == (
        ("10.0.0.1", 7001),
        ("10.0.0.1", 7001),
        ("10.0.0.9", 7002),
    )
    assert known == {("10.0.0.1", 7001), ("10.0.0.9", 7002)}
    cut_off = [("10.0.0.1", 7001)] * SLOTS
    assert most_stated([cut_off, primaries, primaries]) == primaries
    with pytest.raises(ValueError, match="CLUSTER SLOTS"):
        parse_ranges([[0, 1]], "10.0.0.9")


def test_the_answers_are_those_of_one_server(both: tuple[Serving, Serving]) -> None:
    one, several = both
    sequence = payments(1, 2_000)
    expected = replayed(one, sequence)
    assert replayed(several, sequence) == expected
    assert not any(answer["degraded"] for answer in expected)
    assert redirects(several) == {"moved": 0, "ask": 0, "tryagain": 0}


def test_slots_that_move_under_load_lose_and_change_nothing(both: tuple[Serving, Serving], cluster: Cluster) -> None:
    one, several = both
    sequence = payments(2, 2_000)
    slots = sorted({slot_of(str(payment["user_id"])) for payment in sequence})
    rng = random.Random(3)  # noqa: S311 - an order of moves
    moved = 0

    def move() -> None:
        nonlocal moved
        slot = rng.choice(slots)
        target = rng.choice([node for node in cluster.primaries() if node is not cluster.primary(slot)])
        cluster.move_slot(slot, target)
        moved += 1

    expected = replayed(one, sequence)
    with meanwhile(move):
        found = replayed(several, sequence)
    assert found == expected
    seen = redirects(several)
    print(f"\n{len(found)} answers while {moved} slots moved key by key: 0 different, redirections {seen}")
    assert seen["moved"] > 0
    assert seen["ask"] > 0


def test_ranges_that_move_at_once_under_load_lose_and_change_nothing(
    both: tuple[Serving, Serving], cluster: Cluster
) -> None:
    one, several = both
    sequence = payments(4, 1_500)
    moved = 0

    def move() -> None:
        nonlocal moved
        nodes = cluster.primaries()
        first, last, port = max(Cluster.table(nodes[0]), key=lambda of: of[1] - of[0])
        target = nodes[moved % len(nodes)]
        if target.port != port:
            cluster.move_range(first, (first + last) // 2, target)
        moved += 1

    expected = replayed(one, sequence)
    with meanwhile(move):
        found = replayed(several, sequence)
    assert found == expected
    print(f"\n{len(found)} answers while half of a range moved {moved} times: {redirects(several)}")
    assert redirects(several)["moved"] > 0


def test_the_stream_decides_as_requests_to_one_server_while_slots_move(
    start: Callable[..., Serving], backends: dict[str, Any], shared_store: Valkey, cluster: Cluster,
    registry: Registry, versions: list[str], tmp_path: Path,
) -> None:  # fmt: skip
    registry.promote(versions[0])
    one, sent, moved = start(shared_store.url, registry, folder="one"), transactions(800), list[int]()
    slots = sorted({slot_of(of["user_id"]) for of in sent})

    def move() -> None:
        slot = slots[len(moved) % len(slots)]
        cluster.move_slot(slot, next(node for node in cluster.primaries() if node is not cluster.primary(slot)))
        moved.append(slot)

    with ExitStack() as stack:
        broker = Broker(backends["kafka"], tmp_path / "kafka")
        stack.callback(broker.stop)
        broker.start()
        topics = stack.enter_context(closing(Client(broker.bootstrap)))
        stream = Stream(tmp_path / "stream", broker.bootstrap, cluster.url, registry, **LONGEST_DEADLINE)
        stack.enter_context(closing(stream))
        stream.start()
        with meanwhile(move):
            until(lambda: moved, "the first move")
            for transaction in sent:
                topics.transaction(transaction)
            decisions = by_transaction(all_decided(topics, sent))
        redirected = stream.metric('serving_store_redirects_total{kind="moved"}')
    for transaction in sent:
        [decision] = decisions[transaction["transaction_id"]]
        expected = one.predict(**transaction) | {"transaction_id": transaction["transaction_id"]}
        assert without_id(decision) == without_id(expected)
    print(f"\n{len(sent)} messages while {len(moved)} slots moved: 0 lost, 0 different, {redirected:.0f} MOVED")
    assert redirected > 0


class Payers:
    """Threads that pay for users in order, one payment of a user at a time, until the end of the block."""

    def __init__(self, serving: Serving, users: list[str], threads: int = 6) -> None:
        self._serving, self._shares = serving, [users[n::threads] for n in range(threads)]
        self.answers: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._done = threading.Event()

    def _pay(self, users: list[str]) -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{self._serving.port}", timeout=30, trust_env=False) as http:
            number = 0
            while not self._done.is_set():
                for user in users:
                    answer = http.post("/predict", json=of_user(user, number))
                    assert answer.status_code == 200, answer.text
                    self.answers[user].append(answer.json())
                number += 1

    @contextmanager
    def paying(self) -> Iterator[None]:
        with ThreadPoolExecutor(len(self._shares)) as pool:
            running = [pool.submit(self._pay, users) for users in self._shares]
            try:
                yield
            finally:
                self._done.set()
            for each in running:
                each.result()


def of_user(user: str, number: int) -> dict[str, object]:
    return {
        "transaction_id": f"{user}-{number}", "user_id": user, "merchant_id": "m", "amount": 10.0,
        "event_timestamp": (FIRST + timedelta(seconds=number)).isoformat(),
    }  # fmt: skip


def test_a_killed_shard_degrades_its_own_users_alone_and_comes_back(
    start: Callable[..., Serving], cluster: Cluster, registry: Registry, versions: list[str], tmp_path: Path
) -> None:
    registry.promote(versions[0])  # users only: no other entity can be on the killed shard
    serving = start(cluster.url, registry, folder="killed", **LONGEST_DEADLINE)
    # Slots are where earlier tests have left them.
    victim = cluster.primary(slot_of("k0"))
    replica = cluster.partner(victim).client
    of_victim = {f"k{n}" for n in range(60) if cluster.primary(slot_of(f"k{n}")) is victim}
    early = [user for user in (f"e{n}" for n in range(200)) if cluster.primary(slot_of(user)) is victim][:20]
    assert early
    payers = Payers(serving, [f"k{n}" for n in range(60)])
    with payers.paying():
        until(lambda: sum(map(len, [*payers.answers.values()])) > 600, "load")
        # Acknowledged, and on the replica: replication is asynchronous, WAIT waits for it.
        for number in range(3):
            assert not any(serving.predict(**of_user(user, number))["degraded"] for user in early)
        assert victim.client.wait(1, 10_000) >= 1
        # The replica takes over within some seconds. It waits until every user of the shard had an answer without it.
        replica.config_set("cluster-replica-no-failover", "yes")
        victim.kill()
        until(lambda: serving.metric("serving_store_up") == 0, "the loss of the shard")
        until(lambda: all(payers.answers[user][-1]["degraded"] for user in of_victim), "degraded users")
        replica.config_set("cluster-replica-no-failover", "no")
        until(lambda: serving.metric("serving_store_up") == 1, "the promoted replica in use", 60)
        back = {user: len(payers.answers[user]) for user in payers.answers}
        until(lambda: all(len(payers.answers[user]) > at + 5 for user, at in back.items()), "load after it")
    for user, answers in payers.answers.items():
        if user not in of_victim:
            assert not any(answer["degraded"] for answer in answers), user
        assert not any(answer["degraded"] for answer in answers[-4:]), user
    records = {record["transaction_id"]: record for record in until(lambda: all_records(serving), "the records")}
    for user in {*payers.answers} - of_victim:
        found = [records[f"{user}-{number}"]["sequences"]["user"] for number in range(len(payers.answers[user]))]
        assert found == [*range(len(found))]
    for user in early:
        answer = serving.predict(**of_user(user, 3))
        assert (answer["degraded"], answer["repeated"]) == (False, False)
        assert serving.predict(**of_user(user, 3))["repeated"]
    last = {record["transaction_id"]: record for record in until(lambda: all_records(serving), "the records")}
    assert [last[f"{user}-3"]["sequences"]["user"] for user in early] == [3] * len(early)
    lost = 0
    for user in of_victim:
        number = len(payers.answers[user]) - 1
        acknowledged = sum(not answer["degraded"] for answer in payers.answers[user][:-1])
        lost += max(0, acknowledged - records[f"{user}-{number}"]["sequences"]["user"])
    degraded = sum(answer["degraded"] for of in payers.answers.values() for answer in of)
    total = sum(map(len, payers.answers.values()))
    print(
        f"\n{total} answers, {degraded} degraded, all of the {len(of_victim)} users of the killed shard; of their "
        f"acknowledged payments {lost} were not on the replica yet"
    )
    victim.start()
    until(victim.follows_in_step, "the killed server as a replica")
    cluster.agree()


def all_records(serving: Serving) -> list[dict[str, Any]] | None:
    """The records, once those of all answers are on disk."""
    answered = serving.metric('serving_requests_total{endpoint="/predict",status="200"}')
    records = serving.records()
    return records if len(records) + serving.metric("serving_repeated_total") >= answered else None


def test_a_serving_process_starts_while_a_shard_is_down(
    start: Callable[..., Serving], backends: dict[str, Any], registry: Registry, versions: list[str], tmp_path: Path
) -> None:
    registry.promote(versions[0])
    with valkey_cluster.running(backends["valkey"], tmp_path / "bare", replicas=0) as bare:
        lost = bare.nodes[0]
        lost.kill()
        serving = start(bare.url, registry, folder="early", SERVING_STORE_DEADLINE_MS="200")
        up = {f"p{n}": bare.primary(slot_of(f"p{n}")) is not lost for n in range(30)}
        assert {*up.values()} == {True, False}
        for user, reachable in up.items():
            assert serving.predict(**of_user(user, 0))["degraded"] is not reachable
        assert serving.client.get("/ready").json()["store_connected"] is False
        lost.start()
        bare.agree()  # it refuses commands for some seconds
        until(lambda: serving.metric("serving_store_up") == 1, "the shard's return", 60)
        assert not any(serving.predict(**of_user(user, 1))["degraded"] for user in up)
