"""Serving replicas on several hosts behind two proxies, while replicas, proxies and networks fail.

The sequences and features are those of one replica, and the prediction logs of all hosts are shipped once.
"""

import json
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from tests import netns, s3, serving_hosts
from tests.served_attempts import Attempt, answered, checked, failed, logged, prediction_ids
from tests.serving_hosts import NAME, Platform, Proxy, seconds_without_answers
from tests.valkey_cluster import until

from fraud.lake import catalog

Report = Callable[..., None]
pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    if reason := netns.missing():
        pytest.skip(reason)
    for program in ("haproxy", "keepalived"):
        if shutil.which(program) is None:
            pytest.skip(f"NOT TESTED: {program} is not installed; `make test-long` installs it as root")
    with serving_hosts.running(tmp_path_factory.mktemp("hosts")) as made:
        serving_hosts.start_keepalived(made)
        yield made


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str]) -> Report:
    """Prints a line of the table of docs/scale.md."""

    def line(fault: str, attempts: list[Attempt], *more: str) -> None:
        with capsys.disabled():
            print(f"\n{fault:<46}| {len(answered(attempts)):>6,} answers | {len(failed(attempts)):>3} failed |", *more)

    return line


def connected(platform: Platform, replicas: int) -> None:
    """Wait until both proxies count so many replicas with a connection to the store."""
    for proxy in platform.proxies:
        until(
            lambda proxy=proxy: proxy.state().startswith(f"{replicas} connected"),  # type: ignore[misc]
            f"{replicas} replicas at {proxy.host.name}",
        )


def test_replicas_on_several_hosts_answer_as_one(platform: Platform, report: Report) -> None:
    load = platform.load("plain")
    load.more(4_000)
    attempts = load.finished()
    assert failed(attempts) == []
    assert checked(platform, "plain", attempts) == set()
    shares = [len(replica.records("plain-")) for replica in platform.replicas]
    assert min(shares) > 0
    repeats = [of["answer"] for of in attempts if of["answer"]["repeated"]]
    assert len(repeats) > len(attempts) / 50
    by_transaction = {of["answer"]["transaction_id"]: of["answer"] for of in attempts if not of["answer"]["repeated"]}
    assert all(of == {**by_transaction[of["transaction_id"]], "repeated": True} for of in repeats)
    for attempt in attempts[::40]:
        expected = {**by_transaction[attempt["sent"]["transaction_id"]], "repeated": True}
        for replica in platform.replicas:
            assert replica.predict(**attempt["sent"]) == expected, replica.host.name
    report("no fault", attempts, f"by replica {shares}, {len(repeats)} repeats")


def test_a_killed_replica_fails_no_request_and_comes_back(platform: Platform, report: Report) -> None:
    load, victim = platform.load("killed"), platform.replicas[0]
    load.more(1_000)
    victim.kill()
    killed = time.time()
    load.more(1_000)
    written = victim.records("killed-")
    assert written
    victim.start()
    connected(platform, 3)
    load.more(1_000)
    attempts = load.finished()
    assert len(victim.records("killed-")) > len(written)
    assert failed(attempts) == []
    lost = checked(platform, "killed", attempts)
    # Records are written in the order of the answers, and those that wait in memory are lost with the process.
    ended = [of["ended"] for of in answered(attempts) if of["answer"]["prediction_id"] in lost]
    assert all(end * 1e6 > written[-1]["served_us"] for end in ended)
    gap = seconds_without_answers(attempts, killed)
    report("a replica killed -9, started again", attempts, f"longest gap {gap:.2f} s, {len(lost)} answers not logged")


def test_replicas_replaced_one_by_one_fail_no_request_and_lose_no_record(platform: Platform, report: Report) -> None:
    load = platform.load("replaced")
    load.more(500)
    for replica in platform.replicas:
        replica.stop()
        load.more(300)
        replica.start()
        connected(platform, 3)
    load.more(300)
    attempts = load.finished()
    assert failed(attempts) == []
    assert checked(platform, "replaced", attempts) == set()
    report("three replicas replaced one by one", attempts)


def test_a_replica_that_is_cut_off_fails_no_request_and_comes_back(platform: Platform, report: Report) -> None:
    load, victim = platform.load("cut"), platform.replicas[1]
    load.more(1_000)
    with victim.host.disconnected(carrier=True):
        cut = time.time()
        connected(platform, 2)
        load.more(1_500)
    connected(platform, 3)
    served = len(victim.records("cut-"))
    load.more(1_000)
    attempts = load.finished()
    assert failed(attempts) == []
    assert checked(platform, "cut", attempts) == set()
    assert len(victim.records("cut-")) > served
    report(
        "a replica's host cut off the network", attempts, f"longest gap {seconds_without_answers(attempts, cut):.2f} s"
    )


def test_a_replica_that_loses_the_store_gets_no_requests_while_others_have_it(
    platform: Platform, report: Report
) -> None:
    load, host = platform.load("alone"), platform.replicas[2].host
    load.more(500)
    route = ("blackhole", f"{platform.store.address}/32")
    host.run("ip", "route", "add", *route)
    connected(platform, 2)
    assert "3 ready" in platform.active().state()
    noticed = time.time()
    load.more(1_000)
    host.run("ip", "route", "delete", *route)
    connected(platform, 3)
    load.more(500)
    attempts = load.finished()
    assert failed(attempts) == []
    degraded = [of for of in answered(attempts) if of["answer"]["degraded"]]
    assert [of for of in degraded if of["began"] > noticed] == []
    report("a replica cut off the store", attempts, f"{len(degraded)} degraded until the proxies noticed, 0 after")


FAULTS: Final = {"killed": "killed -9", "down": "host without link", "cut": "host cut off by the switch"}
each_fault = pytest.mark.parametrize("fault", FAULTS)


def fail_proxy(platform: Platform, proxy: Proxy, prefix: str, address: str, fault: str) -> tuple[list[Attempt], str]:
    """A load while a proxy fails and comes back. Returns its attempts and the figures of the fault."""
    load = platform.load(prefix, address)
    load.more(500)
    began = time.time()
    if fault == "killed":
        proxy.kill_haproxy()
        load.more(1_000)
        proxy.start(len(platform.replicas))
    else:
        with proxy.host.disconnected(carrier=fault == "cut"):
            load.more(1_000)
    back = time.time()
    load.more(1_000)
    attempts = load.finished()
    during = [attempt for attempt in attempts if attempt["ended"] < back]
    gaps = seconds_without_answers(during, began), seconds_without_answers(attempts, back)
    return attempts, f"{gaps[0]:.2f} s without answers, {gaps[1]:.2f} s after its return"


@each_fault
def test_the_virtual_address_moves_from_a_failed_proxy(platform: Platform, report: Report, fault: str) -> None:
    failing, prefix = platform.active(), f"vrrp{fault}"
    attempts, figures = fail_proxy(platform, failing, prefix, platform.virtual_address, fault)
    assert checked(platform, prefix, attempts) == set()
    assert platform.active()
    report(f"VRRP: active proxy, {FAULTS[fault]}", attempts, figures)


@each_fault
def test_clients_of_a_name_with_two_addresses_use_the_other_proxy(
    platform: Platform, report: Report, fault: str
) -> None:
    prefix = f"dns{fault}"
    attempts, figures = fail_proxy(platform, platform.proxies[0], prefix, NAME, fault)
    assert checked(platform, prefix, attempts) == set()
    report(f"DNS: first proxy, {FAULTS[fault]}", attempts, figures)


def test_the_logs_of_all_hosts_are_shipped_once(
    platform: Platform, report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = platform.load("shipped")
    load.more(2_000)
    with s3.running(tmp_path / "s3", platform.storage) as server:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        lake, (first, *_) = server.uri("lake"), platform.replicas

        def ship_all() -> list[dict[str, Any]]:
            """Ship from all hosts at the same time. Returns the results of the jobs."""
            jobs = [
                platform.job(replica, lake, server.environment, "ship-predictions") for replica in platform.replicas
            ]
            printed = [job.communicate(timeout=300)[0] for job in jobs]
            assert [job.returncode for job in jobs] == [0, 0, 0], first.disk.with_suffix(".job.log").read_text()[
                -4_000:
            ]
            return [json.loads(text) for text in printed]

        def objects(ending: str) -> list[str]:
            return [name for name in server.names("lake/predictions") if name.endswith(ending)]

        kills = 0
        for ending in (".parquet", "/00000000000000000000.json"):  # before the commit, after it
            job = platform.job(first, lake, server.environment, "ship-predictions")
            until(lambda ending=ending: objects(ending), "an object of the job", 120)  # type: ignore[misc]
            os.kill(server.pid, signal.SIGSTOP)
            kills += job.poll() is None
            job.kill()
            job.communicate()
            os.kill(server.pid, signal.SIGCONT)
        ship_all()  # while answers are logged
        load.more(1_000)
        attempts = load.finished()
        logged(platform, "shipped")
        ship_all()
        again = ship_all()
        assert [(result["rows"], result["repeated"]) for result in again] == [(0, 0)] * 3
        predictions = catalog.PREDICTIONS.at(lake).open()
        rows = predictions.read_range("2000-01-01", "9999-12-31", ["prediction_id"])
        assert rows is not None
        found = Counter(rows["prediction_id"].to_pylist())
    expected = {record["prediction_id"] for record in platform.records("")}
    assert found == Counter(expected)
    assert prediction_ids(attempts) <= expected
    report(
        "logs of three hosts shipped to S3", attempts, f"{len(found):,} rows, {kills} jobs killed, 0 twice, 0 missing"
    )
