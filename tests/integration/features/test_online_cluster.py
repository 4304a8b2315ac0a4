"""The jobs on a cluster of three Valkey servers: the content of one server, also while slots move."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import redis
from pydantic import SecretStr
from tests import valkey_cluster
from tests.integration.features import online_platform as platform
from tests.integration.features.online_platform import content, fill, load, with_declaration
from tests.served_answers import THREE, TWO_ENTITIES
from tests.valkey_cluster import Cluster

from fraud.core.contract import id_hash
from fraud.core.plan import Plan
from fraud.embedded.servers import valkey
from fraud.errors import BadConfigError, UnavailableError
from fraud.features import feast_store, ingest_events
from fraud.features.feast_snapshot import views
from fraud.features.online_store import OnlineHistory, connect
from fraud.inspection.cost import measured
from fraud.job import Context
from fraud.monitoring import platform_metrics
from fraud.registry.online_state import online_state
from fraud.streams.redis_client import cluster_address, open_client, server_infos

USER = Plan(THREE).windows[0].layout
NOON = 1_767_268_800_123_457


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with valkey_cluster.running(valkey.binary(), tmp_path_factory.mktemp("cluster"), replicas=0) as cluster:
        yield cluster


@pytest.fixture
def several(cluster: Cluster) -> Iterator[redis.Redis]:
    with open_client(cluster.url) as client:
        client.flushall()
        yield client


def whole(cluster: Cluster) -> dict[str, Any]:
    """The content of all servers."""
    return {key: value for node in cluster.nodes for key, value in content(node.client).items()}


def on_cluster(context: Context, cluster: Cluster) -> Context:
    settings = context.settings.model_copy(update={"redis_url": SecretStr(cluster.url)})
    return Context(settings, context.params, context.declaration, context.log, context.live_declarations)


def test_materialize_leaves_what_it_leaves_on_one_server(
    context: Context, cluster: Cluster, client: redis.Redis, several: redis.Redis
) -> None:
    two = with_declaration(context, TWO_ENTITIES, THREE)
    fill(two, platform.rows())
    assert load(on_cluster(two, cluster), live=True) == load(two, live=True)
    assert whole(cluster) == content(client)
    assert all(node.client.keys("h:*") for node in cluster.nodes)
    assert load(on_cluster(two, cluster), live=True).days_loaded == 0
    # Another declaration: layouts and a daily table are removed from all servers.
    three = with_declaration(context, THREE, THREE)
    back = load(on_cluster(three, cluster), live=True)
    assert back == load(three, live=True)
    assert len(back.removed) == 3
    assert whole(cluster) == content(client)


def test_materialize_while_slots_move_loses_nothing(
    context: Context, cluster: Cluster, client: redis.Redis, several: redis.Redis
) -> None:
    two = with_declaration(context, TWO_ENTITIES)
    fill(two, platform.rows(3, 400))
    load(two)
    keys = [layout.history_key(id_) for layout in (w.layout for w in Plan(TWO_ENTITIES).windows) for id_ in ("u1", "a")]
    done, moves = Event(), count()

    def move() -> None:
        while not done.is_set():
            slot = several.keyslot(keys[next(moves) % len(keys)])  # type: ignore[attr-defined]
            cluster.move_slot(slot, next(node for node in cluster.nodes if node is not cluster.primary(slot)))

    with ThreadPoolExecutor(1) as pool:
        moving = pool.submit(move)
        try:
            for _ in range(3):
                several.flushall()
                load(on_cluster(two, cluster))
        finally:
            done.set()
        moving.result()
    assert next(moves) > 3
    assert whole(cluster) == content(client)


def test_events_of_a_stream_and_rejected_ones(context: Context, cluster: Cluster, several: redis.Redis) -> None:
    for number, amount in ((0, 1.5), (1, 2.5), (1, 2.5), (2, -1.0)):
        event = {
            "transaction_id": f"t{number}", "user_id": "u", "merchant_id": "m", "merchant_category": "grocery",
            "event_timestamp": f"2026-01-01T00:{number:02}:00Z", "amount": amount,
        }  # fmt: skip
        several.xadd("transactions", {"event": json.dumps(event)})
    result = ingest_events.run(ingest_events.Config(idle_seconds=0.05, batch=2), on_cluster(context, cluster))
    assert (result.appended, result.repeated, result.rejected) == (2, 1, 1)
    assert OnlineHistory(several).read(USER, "u")[2]["amount"].tolist() == [15_000, 25_000]
    assert len(several.xrange("{transactions}:rejected")) == 1


def test_appends_and_orders_of_many_users_after_the_scripts_are_lost(cluster: Cluster, several: redis.Redis) -> None:
    store, users = OnlineHistory(several), [f"u{number}" for number in range(50)]
    for number in range(3):
        if number == 2:
            cluster.nodes[1].client.script_flush()
        for user in users:
            prior = store.append(USER, user, f"{user}-{number}", NOON + number, (5, id_hash("m")))
            assert (prior.sequence, prior.repeated) == (number, False)
    orders = dict(store.orders(USER, users))
    assert {len(order.event_us) for order in orders.values()} == {3}
    assert orders["u7"].ids.tolist() == [id_hash(f"u7-{number}") for number in range(3)]
    assert store.append(USER, "u7", "u7-1", NOON + 1, (5, id_hash("m"))).repeated


def test_a_load_after_a_server_lost_its_scripts_counts_each_event_once(
    context: Context, cluster: Cluster, client: redis.Redis, several: redis.Redis
) -> None:
    """As after the promotion of a replica, which has no script. The other servers execute their calls once."""
    fill(context, platform.rows())
    one = load(context)
    load(on_cluster(context, cluster))
    several.flushall()
    cluster.nodes[1].client.script_flush()
    assert load(on_cluster(context, cluster)) == one


def test_the_gate_the_metrics_and_the_cost_of_a_declaration(
    context: Context, cluster: Cluster, several: redis.Redis
) -> None:
    fill(context, platform.rows())
    own, plan = on_cluster(context, cluster), Plan(THREE)
    assert not online_state(own.settings, plan).passed
    load(own)
    assert online_state(own.settings, plan).passed
    infos = server_infos(several)
    assert len(infos) == 3
    found = {(sample.name, sample.labels.get("shard")): sample.value
             for family in platform_metrics.services(own.settings, [THREE]) for sample in family.samples}  # fmt: skip
    assert {shard for name, shard in found if name == "fraud_online_store_keys"} == set(infos)
    keys = sum(found["fraud_online_store_keys", shard] for shard in infos)
    assert keys == sum(len(node.client.keys("*")) for node in cluster.nodes)
    assert all(found["fraud_online_store_memory_bytes", shard] > 0 for shard in infos)
    [history] = measured("three", THREE, own, 1_000).histories
    assert (history.measured, history.loaded) == (True, True)
    assert not [key for key in whole(cluster) if key.startswith("check:")]


def test_feast_reads_its_views_from_the_cluster(context: Context, cluster: Cluster, several: redis.Redis) -> None:
    """Its keys of an entity are one hash: no command of Feast uses two slots."""
    from fraud.features import build_features  # noqa: PLC0415 - as the other imports of Feast

    two = with_declaration(context, TWO_ENTITIES)
    fill(two, platform.rows())
    build_features.run(build_features.Config(), two)
    one, own = load(two), load(on_cluster(two, cluster))
    assert own.feast_days == one.feast_days > 0
    settings = two.settings

    def online(url: str) -> list[dict[str, list[float | int | None]]]:
        store = feast_store.open_store(settings.project, settings.feast_registry.get_secret_value(), url)
        ids = {"user_id": ["u1", "u2", "?"], "terminal_id": ["a", "b", "?"], "merchant_id": ["m1", "m2", "?"]}
        return [feast_store.online(store, view, ids[view.id_column]) for view in views(TWO_ENTITIES)]

    assert online(cluster.url) == online(settings.redis_url.get_secret_value())
    assert any(value is not None for view in online(cluster.url) for values in view.values() for value in values)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h:1/2", None),
        ("redis+cluster://h", ((("h", 6379),), None, None, False, None)),
        ("rediss+cluster://u%40:p%2C@h:1,[::1]:2/0", ((("h", 1), ("::1", 2)), "u@", "p,", True, None)),
        (
            "rediss+cluster://h,i?ssl_ca_certs=/a%40/ca.pem",
            ((("h", 6379), ("i", 6379)), None, None, True, "/a@/ca.pem"),
        ),
    ],
)
def test_addresses(url: str, expected: tuple[Any, ...] | None) -> None:
    found = cluster_address(url)
    assert (None if found is None else (found.nodes, found.user, found.password, found.tls, found.ca)) == expected


@pytest.mark.parametrize(
    "url",
    [
        "redis+cluster://",
        "redis+cluster://h,",
        "redis+cluster://h:x",
        "redis+cluster://h/1",
        "redis://h?ssl_ca_certs=/ca.pem",
        "rediss://h?ssl_cert_reqs=none",
        "redis+cluster://h?ssl_ca_certs=/ca.pem",
        "rediss+cluster://h?ssl_cert_reqs=none",
        "rediss+cluster://h?ssl_ca_certs=",
        "rediss+cluster://h?ssl_ca_certs=/ca.pem&db=1",
    ],
)
def test_a_wrong_address_is_refused_without_its_password(url: str) -> None:
    with (
        pytest.raises(BadConfigError, match="FRAUD_REDIS_URL is wrong") as caught,
        connect(url.replace("//", "//:hush@")),
    ):
        pass
    assert "hush" not in str(caught.value)


def test_a_lost_server_is_unavailable(tmp_path: Path) -> None:
    with valkey_cluster.running(valkey.binary(), tmp_path, replicas=0) as cluster, connect(cluster.url) as store:
        cluster.nodes[2].kill()
        users = [f"u{number}" for number in range(20)]
        reads: list[Callable[[], object]] = [lambda user=user: store.read(USER, user) for user in users]  # type: ignore[misc]
        failed = 0
        for read in reads:
            try:
                read()
            except UnavailableError:
                failed += 1
                break
        assert failed == 1
    with pytest.raises(UnavailableError, match="does not answer"), connect(cluster.url):
        pass
