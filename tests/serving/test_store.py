"""The online store slow, down, back, or without its script: every request is answered within the deadline."""

import itertools
import re
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from expected import probability
from servers import Registry, Serving, Valkey, until

ROOT = Path(__file__).parents[2]
FIRST = datetime(2026, 3, 4, 3, 0, tzinfo=UTC)


def payment(number: int) -> dict[str, object]:
    return {
        "transaction_id": f"t{number}", "user_id": "u", "merchant_id": "m", "amount": 100.0,
        "merchant_category": "travel", "event_timestamp": (FIRST + timedelta(seconds=number)).isoformat(),
        "distance_from_home": 3.0, "transaction_velocity": 40.0,
    }  # fmt: skip


WITHOUT_HISTORY = probability(0, 100.0, distance_known=True)


@pytest.fixture
def serving(start: Callable[..., Serving], store: Valkey, registry: Registry, versions: list[str]) -> Serving:
    registry.promote(versions[0])
    return start(store.url, registry, SERVING_STORE_DEADLINE_MS="200")


def test_the_proxys_check_tells_a_replica_without_the_store_from_one_with_it(serving: Serving, store: Valkey) -> None:
    [check] = re.findall(r'http-check expect string "(.*)"\n', (ROOT / "infra/proxy/haproxy.cfg").read_text())
    expected = check.replace('\\"', '"')
    until(lambda: expected in serving.client.get("/ready").text, "the connection to the store")
    store.stop()
    until(lambda: expected not in serving.client.get("/ready").text, "the loss of the store")
    assert serving.client.get("/ready").status_code == 200


def test_without_the_store_the_request_alone_decides_and_the_store_is_taken_up_again(
    serving: Serving, store: Valkey
) -> None:
    assert serving.predict(**payment(1))["history"] == "store"
    store.stop()
    for number in range(2, 12):
        answer = serving.predict(**payment(number))
        assert (answer["history"], answer["degraded"]) == ("none", True)
        # the transaction_velocity of the request does not replace the store's
        assert answer["fraud_probability"] == pytest.approx(WITHOUT_HISTORY, abs=1e-6)
    assert serving.metric('serving_degraded_total{reason="store"}') == 10
    assert serving.metric("serving_store_up") == 0
    assert serving.client.get("/ready").json() == {
        "ready": True, "model_version": answer["model_version"], "store_connected": False,
    }  # fmt: skip
    store.start()
    until(lambda: not serving.predict(**payment(20))["degraded"], "recovery")
    assert serving.metric("serving_store_up") == 1


def test_a_hanging_store_costs_a_request_no_more_than_the_deadline(serving: Serving, store: Valkey) -> None:
    """The store is stopped until the last answer, so every wait was ended by the deadline, never by a reply."""
    serving.predict(**payment(1))

    def errors(kind: str) -> float:
        return serving.metric(f'serving_store_errors_total{{kind="{kind}"}}')

    store.signal(signal.SIGSTOP)
    try:
        answer = serving.predict(**payment(2))
        assert (answer["history"], answer["degraded"]) == ("none", True)
        assert (errors("timeout"), errors("down")) == (1, 0)
        for number in range(3, 12):
            assert serving.predict(**payment(number))["degraded"]
        until(lambda: errors("hung") == 1, "the connection is closed")
        until(lambda: serving.metric("serving_store_up") == 0, "the store counts as down")
        waited = errors("timeout")
        for number in range(12, 22):
            assert serving.predict(**payment(number))["degraded"]
        assert errors("timeout") == waited
        # One attempt for each answer. The close of the connection ends at most one wait before its deadline.
        assert errors("timeout") + errors("down") in (19, 20)
    finally:
        store.signal(signal.SIGCONT)
    until(lambda: not serving.predict(**payment(30))["degraded"], "recovery")


def test_a_server_that_starts_before_its_store_answers_without_it(
    start: Callable[..., Serving], store: Valkey, registry: Registry, versions: list[str]
) -> None:
    registry.promote(versions[0])
    store.stop()
    serving = start(store.url, registry)
    assert serving.predict(**payment(1))["degraded"]
    store.start()
    until(lambda: not serving.predict(**payment(1))["degraded"], "connection")


def test_a_store_that_forgot_the_script_gets_it_again(serving: Serving, store: Valkey) -> None:
    serving.predict(**payment(1))
    assert store.command("SCRIPT", "FLUSH").startswith(b"+OK")
    assert serving.predict(**payment(2))["degraded"]
    assert not serving.predict(**payment(3))["degraded"]


def test_a_store_that_is_full_degrades_and_recovers(serving: Serving, store: Valkey) -> None:
    store.command("CONFIG", "SET", "maxmemory", "1")
    assert serving.predict(**payment(1))["degraded"]
    store.command("CONFIG", "SET", "maxmemory", "0")
    assert not serving.predict(**payment(2))["degraded"]


def test_requests_under_way_when_the_store_dies_are_all_answered(serving: Serving, store: Valkey) -> None:
    numbers, slowest, done = itertools.count(), [0.0] * 8, threading.Event()

    def call(caller: int) -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{serving.port}", timeout=30, trust_env=False) as client:
            while not done.is_set():
                began = time.perf_counter()
                assert client.post("/predict", json=payment(next(numbers))).status_code == 200
                slowest[caller] = max(slowest[caller], time.perf_counter() - began)

    with ThreadPoolExecutor(8) as pool:
        callers = [pool.submit(call, caller) for caller in range(8)]
        try:
            for _ in range(15):
                before = next(numbers)
                until(lambda before=before: next(numbers) > before + 100, "traffic")
                store.stop()
                store.start()
                until(lambda: serving.metric("serving_store_up") == 1, "recovery")
        finally:
            done.set()
        for caller in callers:
            caller.result()
    assert max(slowest) < 2
