"""The online store as a cluster whose servers have hosts of their own: hosts and networks that fail, slots that move,
the jobs, and TLS.

Sequences and features are compared with those of one server, bit for bit, as in test_serving_hosts.py.
"""

import json
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
from confluent_kafka import Consumer, Producer, TopicPartition
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig
from redis.crc import key_slot
from tests import netns, store_hosts
from tests.integration.features import online_platform
from tests.served_attempts import Attempt, answered, checked, content, failed, logged, on_one_replica
from tests.served_order import order_of
from tests.store_hosts import (
    Bed,
    certificates,
    degraded,
    payment_of,
    publish,
    slot_of,
    tls_url,
    unreachable,
    users_of,
    waits,
)
from tests.valkey_cluster import meanwhile, until

from fraud.embedded.servers import kafka
from fraud.features import feast_store

Report = Callable[..., None]
pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    if reason := netns.missing():
        pytest.skip(reason)
    with store_hosts.running(tmp_path_factory.mktemp("hosts")) as made:
        yield made


@pytest.fixture(scope="module")
def tls(bed: Bed) -> Iterator[Bed]:
    if shutil.which("redis-server") is None:
        pytest.skip("NOT TESTED: redis-server is not installed; `make test-long` installs it as root")
    with store_hosts.over_tls(bed) as made:
        yield made


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str]) -> Report:
    """Prints a line of the table of docs/scale.md."""

    def line(event: str, attempts: list[Attempt], *more: str) -> None:
        with capsys.disabled():
            figures = f"{len(answered(attempts)):>6,} answers | {len(degraded(attempts)):>4} degraded"
            print(f"\n{event:<46}| {figures} | {len(failed(attempts))} failed |", *more)

    return line


@pytest.mark.parametrize("fault", ["cut off by the switch", "without link"])
def test_a_primary_whose_host_is_lost_degrades_its_own_users_until_its_replica_is_promoted(
    bed: Bed, report: Report, fault: str
) -> None:
    attempts, figures = lose_primary(bed, fault.split(maxsplit=1)[0], carrier=fault != "without link")
    report(f"a primary's host {fault}", attempts, figures)


def lose_primary(bed: Bed, prefix: str, *, carrier: bool) -> tuple[list[Attempt], str]:
    """Take the host of a primary off the network during a load, and back. Returns the attempts and figures."""
    cluster = bed.cluster
    load = bed.load(prefix)
    load.more(600)
    victim = bed.shard_of(f"{prefix}-u0")
    partner = cluster.partner(victim)
    of_victim = {user for user in (f"{prefix}-u{n}" for n in range(40)) if bed.shard_of(user) is victim}
    # Their payments are on the replica before the fault: WAIT waits for the replication, which is asynchronous.
    early = [user for user in (f"{prefix}-e{n}" for n in range(100)) if bed.shard_of(user) is victim][:10]
    kept = [payment_of(user, number) for number in range(4) for user in early]
    for payment in kept[:-10]:
        assert not bed.serving.predict(**payment)["degraded"]
    assert victim.client.wait(1, 10_000) == 1
    with bed.host_of(victim).disconnected(carrier=carrier):
        lost = time.time()
        until(lambda: bed.serving.metric("serving_store_up") == 0, "the loss of the host")
        until(lambda: partner.role() == "master", "the promotion")
        until(lambda: bed.serving.metric("serving_store_up") == 1, "the promoted replica in use")
        back = time.time()
        load.more(800)
    until(victim.follows_in_step, "the returned host's server as a replica")
    cluster.agree()
    assert partner.role() == "master"
    assert bed.shard_of(f"{prefix}-u0") is partner
    load.more(600)
    attempts = load.finished()
    assert failed(attempts) == []
    without = degraded(attempts)
    assert without
    assert users_of(without) <= of_victim
    assert [of for of in without if of["began"] > back] == []
    others = [of for of in attempts if of["sent"]["user_id"] not in of_victim]
    assert checked(bed, prefix, others) == set()
    for payment in kept[-10:]:
        assert not bed.serving.predict(**payment)["degraded"]
    order_of(kept, [record for record in logged(bed, prefix) if record["user_id"] in early])
    # Of the users of the lost host: two payments with one sequence are one that the replica did not have.
    sequences: dict[str, dict[str, int]] = {user: {} for user in of_victim}
    for record in bed.records(prefix):
        if record["user_id"] in of_victim and not record["degraded"]:
            sequences[record["user_id"]].setdefault(record["transaction_id"], record["sequences"]["user"])
    gone = sum(len(own) - len({*own.values()}) for own in sequences.values())
    return attempts, f"{back - lost:.1f} s, {waits(attempts)}, {gone} payments lost"


@pytest.mark.parametrize("lost", ["requests", "replies"])
def test_serving_that_is_cut_off_one_shard_degrades_its_users_until_it_is_back(
    bed: Bed, report: Report, lost: str
) -> None:
    load = bed.load(lost)
    load.more(600)
    victim = bed.shard_of(f"{lost}-u0")
    of_victim = {user for user in (f"{lost}-u{n}" for n in range(40)) if bed.shard_of(user) is victim}
    serving, shard = bed.serving.host, [bed.host_of(node) for node in (victim, bed.cluster.partner(victim))]
    with ExitStack() as cut:
        for host in shard:
            cut.enter_context(unreachable(serving, host) if lost == "requests" else unreachable(host, serving))
        until(lambda: bed.serving.metric("serving_store_up") == 0, "the loss of the shard")
        load.more(800)
    until(lambda: bed.serving.metric("serving_store_up") == 1, "the shard's return")
    back = time.time()
    load.more(600)
    attempts = load.finished()
    assert failed(attempts) == []
    without = degraded(attempts)
    assert users_of(without) == of_victim
    assert [of for of in without if of["began"] > back] == []
    assert victim.role() == "master"
    figures = waits(attempts)
    # A degraded payment may have arrived or not. Sent again, it has one sequence in either case.
    for attempt in {of["sent"]["transaction_id"]: of for of in without}.values():
        attempts.append({**attempt, "answer": bed.serving.predict(**attempt["sent"])})
    assert checked(bed, lost, [of for of in attempts if not of["answer"]["degraded"]]) == set()
    report(f"serving cut off one shard, {lost} lost", attempts, figures)


def test_slots_that_move_between_hosts_under_load_lose_and_change_nothing(bed: Bed, report: Report) -> None:
    cluster, rng = bed.cluster, random.Random(5)  # noqa: S311 - an order of moves
    slots = [slot_of(f"moved-u{n}") for n in range(40)]
    moved = {"slots": 0, "ranges": 0}

    def move() -> None:
        primaries = cluster.primaries()
        for slot in rng.sample(slots, 8):
            cluster.move_slot(slot, rng.choice([node for node in primaries if node is not cluster.primary(slot)]))
            moved["slots"] += 1
        first, last, port = max(cluster.table(primaries[0]), key=lambda of: of[1] - of[0])
        target = rng.choice([node for node in primaries if node.port != port])
        cluster.move_range(first, (first + last) // 2, target)
        moved["ranges"] += 1

    load = bed.load("moved")
    load.more(300)
    with meanwhile(move):
        load.more(2_500)
    load.more(300)
    attempts = load.finished()
    assert failed(attempts) == []
    assert checked(bed, "moved", attempts) == set()
    kinds = {kind: bed.serving.metric(f'serving_store_redirects_total{{kind="{kind}"}}') for kind in ("moved", "ask")}
    assert min(*moved.values(), *kinds.values()) > 0
    report("slots move between hosts", attempts, f"{moved}, {kinds}")
    cluster.agree()


def test_materialize_loads_what_was_paid_also_while_a_primary_is_lost(bed: Bed, report: Report, tmp_path: Path) -> None:
    load = bed.load("jobs")
    load.more(1_500)
    attempts = load.finished()
    publish(tmp_path / "lake", [*{of["sent"]["transaction_id"]: of["sent"] for of in attempts}.values()])

    def materialized(url: str, home: str) -> dict[str, Any]:
        given = {
            "FRAUD_HOME": str(tmp_path / home),
            "FRAUD_LAKE_URI": f"file://{tmp_path}/lake",
            "FRAUD_REDIS_URL": url,
        }
        code, result, errors = bed.job("client", given, "materialize")
        assert code == 0, errors
        return result

    def emptied() -> None:
        for node in bed.cluster.primaries():
            node.client.flushall()

    def whole() -> dict[str, Any]:
        return {key: value for node in primaries for key, value in online_platform.content(node.client).items()}

    with redis.Redis.from_url(bed.single_url) as one:
        one.flushall()
        expected = materialized(bed.single_url, "one")
        on_one = online_platform.content(one)
    assert expected["appended"] > 1_000
    primaries = bed.cluster.primaries()
    emptied()
    assert materialized(bed.cluster.url, "cluster") == expected
    assert whole() == on_one
    emptied()
    victim = bed.cluster.nodes[0] if bed.cluster.nodes[0] in primaries else bed.cluster.partner(bed.cluster.nodes[0])
    partner = bed.cluster.partner(victim)
    assert victim.client.wait(1, 10_000) == 1
    with bed.host_of(victim).disconnected(carrier=True):
        until(lambda: partner.role() == "master", "the promotion")
        primaries = [partner if node is victim else node for node in primaries]
        assert materialized(bed.cluster.url, "lost") == expected
        assert whole() == on_one
    until(victim.follows_in_step, "the returned host's server as a replica")
    bed.cluster.agree()
    assert whole() == on_one
    report("fraud materialize, a primary's host lost", attempts, f"{expected['appended']} payments, as on one server")


def test_a_job_that_waits_for_a_lost_host_continues_on_the_promoted_replica(bed: Bed, tmp_path: Path) -> None:
    victim = bed.cluster.primary(key_slot(b"transactions"))
    partner = bed.cluster.partner(victim)
    given = {"FRAUD_HOME": str(tmp_path), "FRAUD_REDIS_URL": bed.cluster.url}
    job = bed.start_job("client", given, "ingest-events", "--idle-seconds", "8")
    until(lambda: victim.client.xinfo_consumers("transactions", "online-history"), "the job waiting for events")
    assert victim.client.wait(1, 10_000) == 1
    with bed.host_of(victim).disconnected(carrier=True):
        until(lambda: partner.role() == "master", "the promotion")
        partner.client.xadd("transactions", {"event": json.dumps(payment_of("event-u", 0))})
        printed, errors = job.communicate()
    assert job.returncode == 0, errors
    assert json.loads(printed)["appended"] == 1
    until(victim.follows_in_step, "the returned host's server as a replica")
    bed.cluster.agree()


def test_over_tls_slots_move_and_a_lost_primary_is_replaced(tls: Bed, report: Report) -> None:
    rng, cluster = random.Random(6), tls.cluster  # noqa: S311 - an order of moves

    def move() -> None:
        for slot in rng.sample([slot_of(f"tlsmoved-u{n}") for n in range(40)], 8):
            others = [node for node in cluster.primaries() if node is not cluster.primary(slot)]
            cluster.move_slot(slot, rng.choice(others))

    load = tls.load("tlsmoved")
    load.more(300)
    with meanwhile(move):
        load.more(800)
    attempts = load.finished()
    assert failed(attempts) == []
    assert checked(tls, "tlsmoved", attempts) == set()
    kinds = {kind: tls.serving.metric(f'serving_store_redirects_total{{kind="{kind}"}}') for kind in ("moved", "ask")}
    assert min(kinds.values()) > 0
    report("TLS: slots move between hosts", attempts, f"{kinds}")
    cluster.agree()
    attempts, figures = lose_primary(tls, "tlslost", carrier=True)
    report("TLS: a primary's host cut off by the switch", attempts, figures)


def test_over_tls_the_stream_decides(tls: Bed, tmp_path: Path) -> None:
    host = tls.hosts["stream"]
    brokers = f"{host.address}:9092"
    command = [part.replace(kafka.address(9092), brokers) for part in kafka.command(9092)]
    with (tmp_path / "kafka.log").open("wb") as log:
        host.start(*command, stdout=log, stderr=log)
    kafka.wait_until_ready(brokers, 60)
    kafka.create_topics(brokers, dict.fromkeys(("transactions", "decisions", "transactions.rejected"), 1))
    stream = tls.tls_replica("stream", tls.folder / "certificates/ca.pem")
    for name in ("SERVING_OPEN", "SERVING_PORT"):
        del stream.environment[name]
    stream.environment |= {"STREAM_BROKERS": brokers, "SERVING_INTERNAL_PORT": "8000"}
    stream.module = "fraud_serving.stream"
    stream.start()
    payments = [payment_of(f"stream-u{user}", number) for number in range(3) for user in range(20)]
    producer = Producer({"bootstrap.servers": brokers, "max.in.flight": 1})
    for payment in payments:
        producer.produce("transactions", json.dumps(payment).encode(), payment["user_id"])
    assert producer.flush(60) == 0
    consumer = Consumer({"bootstrap.servers": brokers, "group.id": "reader", "auto.offset.reset": "earliest"})
    consumer.assign([TopicPartition("decisions", 0, 0)])
    decisions: list[dict[str, Any]] = []

    def all_decided() -> bool:
        decisions.extend(json.loads(message.value()) for message in consumer.consume(100, 0.1))
        return len(decisions) >= len(payments)

    until(all_decided, "the decisions", 120)
    consumer.close()
    assert [content(of) for of in decisions] == [content(of) for of in on_one_replica(tls, payments)]


def test_over_tls_the_jobs_load_the_store_and_refuse_another_ca_or_name(tls: Bed, tmp_path: Path) -> None:
    payments = [payment_of(f"job-u{user}", number) for number in range(3) for user in range(20)]
    publish(tmp_path / "lake", payments)
    named(tls, "client")
    given = {"FRAUD_HOME": str(tmp_path / "home"), "FRAUD_LAKE_URI": f"file://{tmp_path}/lake"}
    ca, other = tls.folder / "certificates/ca.pem", certificates(tmp_path / "other", [tls.hosts["client"]]).ca

    def materialize(url: str) -> tuple[int, dict[str, Any], str]:
        return tls.job("client", {**given, "FRAUD_REDIS_URL": url}, "materialize")

    code, result, errors = materialize(tls_url(tls.cluster, ca))
    assert (code, result.get("appended")) == (0, len(payments)), errors
    for url, reason in (
        (tls_url(tls.cluster, other), "self-signed certificate in certificate chain"),
        (tls_url(tls.cluster, ca, "alias"), "Hostname mismatch, certificate is not valid for 'alias'"),
    ):
        code, _, errors = materialize(url)
        assert code == 2, errors
        assert "the certificate of the online store is not accepted" in errors
        assert reason in errors


def named(bed: Bed, host: str) -> None:
    """Add a name of the first store's host, which is in no certificate, to the table of a host."""
    table = netns.table(bed.hosts[host])
    table.write_text(f"{table.read_text()}{bed.hosts['store0'].address}\talias\n")


def test_over_tls_serving_refuses_another_ca_or_name(tls: Bed, tmp_path: Path) -> None:
    named(tls, "refused")
    other = certificates(tmp_path / "other", [tls.hosts["client"]]).ca
    for ca, names, reason in (
        (other, (), "self-signed certificate in certificate chain"),
        (tls.folder / "certificates/ca.pem", ("alias",), "Hostname mismatch, certificate is not valid for 'alias'"),
    ):
        replica = tls.tls_replica("refused", ca, *names)
        replica.start()
        assert replica.metric("serving_store_up") == 0
        assert replica.predict(**payment_of("refused-u", 0))["degraded"]
        replica.stop()
        assert f"not reachable: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: {reason}" in (
            replica.disk.with_suffix(".log").read_text()
        )


def test_one_server_over_tls_is_used_by_serving_the_jobs_and_feast(tls: Bed, tmp_path: Path) -> None:
    host, given = tls.hosts["store0"], certificates(tmp_path / "own", [tls.hosts["store0"]])
    options = {
        "port": "0", "tls-port": "7000", "bind": host.address, "requirepass": "secret", "save": "", "dir": tmp_path,
        "tls-auth-clients": "no", "tls-ca-cert-file": given.ca, "tls-cert-file": given.certificate,
        "tls-key-file": given.key,
    }  # fmt: skip
    words = [part for name, value in options.items() for part in (f"--{name}", value)]
    host.start("redis-server", *words, stdout=subprocess.DEVNULL)
    until(lambda: 7000 in host.ports(), "the server")
    url = f"rediss://:secret@{host.address}:7000/0?ssl_ca_certs="
    replica = tls.tls_replica("refused", given.ca)
    replica.environment["SERVING_REDIS_URL"] = f"{url}/data/ca.pem"
    replica.start()
    assert not replica.predict(**payment_of("single-u", 0))["degraded"]
    replica.stop()
    publish(tmp_path / "lake", [payment_of("single-u", number) for number in range(2)])
    variables = {"FRAUD_HOME": str(tmp_path / "home"), "FRAUD_LAKE_URI": f"file://{tmp_path}/lake"}
    code, result, errors = tls.job("client", {**variables, "FRAUD_REDIS_URL": f"{url}{given.ca}"}, "materialize")
    assert (code, result.get("appended")) == (0, 2), errors
    address = feast_store.redis_address(f"{url}{given.ca}")
    assert RedisOnlineStore()._get_client(RedisOnlineStoreConfig(**address)).ping()
