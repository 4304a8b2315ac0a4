"""Limits, keys and ports: what is refused, with which status, and what stays open."""

import json
import re
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from servers import Registry, Serving, Valkey, until

from fraud.embedded.sockets import free_port
from fraud_serving import api_keys

PAYMENT = {"amount": 100.0, "merchant_category": "travel", "hour_of_day": 3, "day_of_week": 2}


@pytest.mark.parametrize(("path", "limit"), [("/predict", 16_384), ("/predict/batch", 8_388_608)])
def test_a_body_over_the_limit_is_a_413(serving: Serving, path: str, limit: int) -> None:
    assert serving.client.post(path, content=b" " * (limit + 1)).status_code == 413
    assert serving.client.post(path, content=b" " * limit).status_code == 422


def test_a_body_that_does_not_say_its_length_is_held_to_the_limit_too(serving: Serving) -> None:
    answer = serving.client.post("/predict", content=(b" " * 1_000 for _ in range(1_000)))
    assert answer.status_code == 413


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
def test_another_method_is_a_405_that_says_which_is_allowed(serving: Serving, path: str, method: str) -> None:
    answer = serving.client.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def test_too_many_at_once_are_told_to_come_back(
    start: Callable[..., Serving], shared_store: Valkey, registry: Registry, versions: list[str]
) -> None:
    registry.promote(versions[0])
    serving = start(shared_store.url, registry, SERVING_MAX_IN_FLIGHT="1")
    statuses: list[tuple[int, str | None]] = []

    def call() -> None:
        answer = httpx.post(
            f"http://127.0.0.1:{serving.port}/predict/batch", json={"transactions": [PAYMENT] * 5_000}, timeout=30,
            trust_env=False,
        )  # fmt: skip
        statuses.append((answer.status_code, answer.headers.get("retry-after")))

    def both() -> bool:
        """Call again if no two calls met at the server."""
        callers = [threading.Thread(target=call) for _ in range(8)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        return len(set(statuses)) > 1

    until(both, "a call while another one is in progress")
    assert set(statuses) == {(200, None), (429, "1")}
    assert serving.predict(**PAYMENT)["is_fraud"] is False


def test_keys_are_asked_for_rotated_and_revoked_without_a_restart(
    start: Callable[..., Serving], shared_store: Valkey, registry: Registry, versions: list[str], tmp_path: Path
) -> None:
    registry.promote(versions[0])
    file = tmp_path / "keys"
    old = api_keys.add("checkout", file)
    serving = start(shared_store.url, registry, SERVING_OPEN="", SERVING_API_KEYS=str(file))

    def status(key: str | None, path: str = "/predict") -> int:
        headers = {} if key is None else {"X-API-Key": key}
        return serving.client.post(path, json=PAYMENT, headers=headers).status_code

    assert status(old) == 200
    assert [status(key) for key in (None, "", "checkout.", "checkout." + "x" * 43, "unknown.x", old + "x")] == [401] * 6
    for without in (serving.client.post("/predict", json=PAYMENT), serving.client.get("/model")):
        assert (without.status_code, without.json()["error"]) == (401, "key")
        assert without.headers["www-authenticate"] == "ApiKey"
    assert serving.client.get("/model", headers={"X-API-Key": old}).status_code == 200
    assert serving.client.get("/health").status_code == 200
    assert old not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    new = api_keys.add("checkout", file)
    until(lambda: status(new) == 200, "the new key")
    assert status(old) == 200
    file.write_text(file.read_text().splitlines()[1] + "\n")
    until(lambda: status(old) == 401, "the revoked key")
    assert status(new) == 200
    file.write_text("nonsense\n")
    assert status(new) == 200


def test_with_an_internal_port_the_public_one_has_no_metrics(
    start: Callable[..., Serving], shared_store: Valkey, registry: Registry, versions: list[str]
) -> None:
    registry.promote(versions[0])
    port = free_port()
    serving = start(shared_store.url, registry, SERVING_INTERNAL_PORT=str(port))
    assert serving.client.get("/metrics").status_code == 404
    internal = f"http://127.0.0.1:{port}"
    assert httpx.get(f"{internal}/metrics", trust_env=False).status_code == 200
    assert httpx.get(f"{internal}/ready", trust_env=False).status_code == 200
    head = httpx.head(f"{internal}/ready", trust_env=False)
    assert (head.status_code, head.content) == (200, b"")
    absent = httpx.post(f"{internal}/predict", json=PAYMENT, trust_env=False)
    assert (absent.status_code, absent.json()["error"]) == (404, "path")
    process = serving.process
    assert process is not None
    serving.stop()
    assert process.returncode == -15


def test_metrics_have_the_names_and_buckets_that_outsiders_rely_on(serving: Serving) -> None:
    serving.predict(**PAYMENT)
    text = serving.client.get("/metrics").text
    for outcome in ("fraud", "legitimate"):
        assert re.search(rf'^model_predictions_total{{outcome="{outcome}"}} \d', text, re.MULTILINE)
    for name in ("model_prediction_confidence", "model_input_amount", "model_inference_duration_seconds"):
        assert re.search(rf"^# TYPE {name} histogram$", text, re.MULTILINE)
    bounds = re.findall(r'^model_inference_duration_seconds_bucket{le="([^"]+)"}', text, re.MULTILINE)
    assert [b for b in bounds if b != "+Inf" and float(b) >= 0.005] == [
        "0.005", "0.01", "0.025", "0.05", "0.1", "0.2", "0.25", "0.5", "1.0",
    ]  # fmt: skip
    # the handbook's, and 0.2 for the alert on 200 ms
    assert "+Inf" in bounds
    assert sum(b != "+Inf" and float(b) < 0.005 for b in bounds) >= 3


def test_histograms_count_each_answer_once_in_the_right_bucket(serving: Serving) -> None:
    def counts() -> list[float]:
        return [serving.metric(f'model_input_amount_bucket{{le="{bound}"}}') for bound in ("50.0", "100.0", "+Inf")]

    before = counts()
    for amount in (50.0, 50.01, 100.0, 1e6):
        serving.predict(**(PAYMENT | {"amount": amount}))
    assert [after - b for after, b in zip(counts(), before, strict=True)] == [1, 3, 4]


def test_metric_series_are_bounded_whatever_is_sent(serving: Serving) -> None:
    def series() -> set[str]:
        text = serving.client.get("/metrics").text
        return {line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")}

    serving.predict(**PAYMENT)
    before = series()
    for n in range(200):
        serving.client.request("POST" if n % 2 else "PUT", f"/predict/{n}" if n % 3 else "/predict", content=b"{")
        serving.predict(**(PAYMENT | {"merchant_category": f"category {n}", "amount": 1.0 + n}))
    assert series() == before
    assert len(before) < 200


def test_a_clients_rate_is_held_to_and_another_client_does_not_notice(
    start: Callable[..., Serving], shared_store: Valkey, registry: Registry, versions: list[str], tmp_path: Path
) -> None:
    registry.promote(versions[0])
    file = tmp_path / "keys"
    greedy, modest = api_keys.add("greedy", file), api_keys.add("modest", file)
    serving = start(
        shared_store.url, registry, SERVING_OPEN="", SERVING_API_KEYS=str(file), SERVING_CLIENT_RATE="10",
        SERVING_CLIENT_BURST_SECONDS="2", SERVING_ACCESS_LOG="all",
    )  # fmt: skip

    def ask(key: str, rows: int = 1) -> httpx.Response:
        body = {"transactions": [PAYMENT] * rows}
        return serving.client.post("/predict/batch", json=body, headers={"X-API-Key": key})

    assert ask(greedy, 60).status_code == 200  # 20 saved up; 40 are owed
    refused = ask(greedy)
    assert (refused.status_code, refused.json()["error"]) == (429, "rate")
    assert 3 <= int(refused.headers["retry-after"]) <= 4  # 40 owed at 10 a second
    assert ask(modest).status_code == 200
    serving.stop()
    lines = [json.loads(line) for line in (serving.folder / "serving.log").read_text().splitlines()]
    requests = [(line["client"], line["endpoint"], line["status"]) for line in lines if line["event"] == "request"]
    assert requests == [
        ("greedy", "/predict/batch", 200), ("greedy", "/predict/batch", 429), ("modest", "/predict/batch", 200),
    ]  # fmt: skip


def test_by_default_only_refusals_are_in_the_access_log_and_nothing_of_the_payment(
    start: Callable[..., Serving], shared_store: Valkey, registry: Registry, versions: list[str]
) -> None:
    registry.promote(versions[0])
    serving = start(shared_store.url, registry)
    serving.predict(**PAYMENT)
    serving.client.post("/predict", json={"user_id": "secret-user", "amount": 1.0})
    serving.stop()
    text = (serving.folder / "serving.log").read_text()
    lines = [json.loads(line) for line in text.splitlines() if '"event":"request"' in line]
    assert [(line["endpoint"], line["status"]) for line in lines] == [("/predict", 422)]
    assert set(lines[0]) == {"served_us", "client", "endpoint", "status", "duration_us", "bytes", "event"}
    assert "secret-user" not in text


@pytest.mark.parametrize(("which", "lines"), [("refused", 0), ("all", 1)])
def test_a_payment_too_many_is_sent_away_at_once_counted_and_a_line_only_where_all_are(
    start: Callable[..., Serving], store: Valkey, registry: Registry, versions: list[str], which: str, lines: int
) -> None:
    registry.promote(versions[0])
    serving = start(
        store.url, registry, SERVING_MAX_IN_FLIGHT="1", SERVING_STORE_DEADLINE_MS="900", SERVING_ACCESS_LOG=which
    )
    waits = PAYMENT | {
        "transaction_id": "t", "user_id": "u", "merchant_id": "m", "event_timestamp": "2026-03-04T03:00:00Z",
    }  # fmt: skip
    statuses: list[int] = []

    def call() -> None:
        answer = httpx.post(f"http://127.0.0.1:{serving.port}/predict", json=waits, timeout=30, trust_env=False)
        statuses.append(answer.status_code)

    store.signal(signal.SIGSTOP)  # a request for a history is in progress until the deadline
    caller = threading.Thread(target=call)
    try:
        caller.start()
        until(lambda: serving.metric("serving_in_flight") == 1, "a request in progress")
        refused = serving.client.post("/predict", json=PAYMENT)
    finally:
        store.signal(signal.SIGCONT)
        caller.join()
    assert (refused.status_code, refused.json()["error"], refused.headers["retry-after"]) == (429, "overloaded", "1")
    assert serving.predict(**PAYMENT)["is_fraud"] is False
    assert statuses == [200]
    assert serving.metric('serving_requests_total{endpoint="/predict",status="429"}') == 1
    serving.stop()
    assert (serving.folder / "serving.log").read_text().count('"status":429') == lines


@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
def test_a_body_that_does_not_come_is_given_up(
    start: Callable[..., Serving], shared_store: Valkey, registry: Registry, versions: list[str], path: str
) -> None:
    registry.promote(versions[0])
    serving = start(shared_store.url, registry, SERVING_BODY_DEADLINE_SECONDS="0.2")
    with socket.create_connection(("127.0.0.1", serving.port), timeout=5) as line:
        line.sendall(f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\n{{".encode())
        got = b""
        while piece := line.recv(65536):  # until it hangs up
            got += piece
    assert got.startswith(b"HTTP/1.1 408 ")
    assert serving.metric("serving_in_flight") == 0
    assert serving.metric(f'serving_requests_total{{endpoint="{path}",status="408"}}') == 1


def test_requests_sent_before_the_last_was_answered_are_answered_in_order(serving: Serving) -> None:
    bodies = [json.dumps(PAYMENT | {"amount": amount}).encode() for amount in (1.0, 2.0, 3.0, -1.0)]
    head = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n%b\r\n"
    sent = b"".join(head % (len(body), b"expect: 100-continue\r\n" * (n == 2)) + body for n, body in enumerate(bodies))
    with socket.create_connection(("127.0.0.1", serving.port), timeout=5) as line:
        line.sendall(sent + b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        got = b""
        while piece := line.recv(65536):
            got += piece
    statuses = re.findall(rb"HTTP/1.1 (\d+) ", got)
    assert [s for s in statuses if s != b"100"] == [b"200", b"200", b"200", b"422", b"200"]


def test_a_body_in_pieces_of_one_byte_is_one_request(serving: Serving) -> None:
    body = json.dumps(PAYMENT).encode()
    with socket.create_connection(("127.0.0.1", serving.port), timeout=5) as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body:
            line.sendall(bytes([byte]))
        assert line.recv(65536).startswith(b"HTTP/1.1 200 ")
