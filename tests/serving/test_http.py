"""The HTTP connection, byte by byte: offers to upgrade, framing, limits of the head, methods, HEAD, compression."""

import gzip
import json
import socket
import zlib
from collections.abc import Callable

import pytest
from expected import probability
from raw_http import Response, chunked, request, send
from servers import Serving, Valkey

PAYMENT = {
    "amount": 100.0, "merchant_category": "travel", "hour_of_day": 3, "day_of_week": 2, "distance_from_home": 3.0,
}  # fmt: skip
ONE = json.dumps(PAYMENT).encode()
BATCH = json.dumps({"transactions": [PAYMENT, PAYMENT]}).encode()
BY_HAND = probability(0, 100.0, distance_known=True)
H2C = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA")
LAST = request("/health", b"", "Connection: close", method="GET")


def decided(response: Response) -> bool:
    """Whether every payment has the probability computed by hand."""
    answer = response.json()
    answers = answer.get("predictions", [answer])
    got = [one["fraud_probability"] for one in answers]
    return response.status == 200 and got == pytest.approx([BY_HAND] * len(got), abs=1e-6)


UPGRADES = {
    "h2c": request("/predict", ONE, *H2C),
    "h2c in chunks": chunked("/predict", ONE, *H2C),
    "h2c, batch": request("/predict/batch", BATCH, *H2C),
    "h2c, batch in chunks": chunked("/predict/batch", BATCH, *H2C),
    "h2c, reasons": request("/predict?explain=true", ONE, *H2C),
    "h2c in other words": request("/predict", ONE, "CONNECTION: keep-alive,upgrade", "UPGRADE: H2C,h2c"),
    "h2c and Expect": request("/predict", ONE, *H2C, "Expect: 100-continue"),
    "TLS": request("/predict", ONE, "Connection: Upgrade", "Upgrade: TLS/1.0"),
    "websocket": request(
        "/predict", ONE, "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    ),
    "an Upgrade header that Connection does not name": request("/predict", ONE, "Upgrade: h2c"),
}  # fmt: skip


@pytest.mark.parametrize("split", ["whole", "head and body", "bytes"])
@pytest.mark.parametrize("kind", UPGRADES)
def test_an_offer_to_upgrade_is_ignored_and_the_connection_goes_on(serving: Serving, kind: str, split: str) -> None:
    raw = UPGRADES[kind]
    head, _, body = raw.partition(b"\r\n\r\n")
    pieces = {
        "whole": [raw],
        "head and body": [head + b"\r\n\r\n", body],
        "bytes": [bytes([byte]) for byte in raw],
    }[split]
    again = [request("/predict", ONE), raw, LAST]
    got = [response for response in send(serving.port, [*pieces, *again]) if response.status != 100]
    assert [response.status for response in got] == [200] * 4
    assert all(decided(response) for response in got[:3])
    assert got[3].json() == {"live": True}


def test_offers_to_upgrade_may_be_sent_before_the_last_is_answered(serving: Serving) -> None:
    raw = b"".join([UPGRADES["h2c"], UPGRADES["h2c in chunks"], request("/health", b"", *H2C, method="GET")] * 3)
    got = send(serving.port, raw + LAST)
    assert [response.status for response in got] == [200] * 10
    assert [decided(response) for response in got[:2]] == [True, True]


def test_a_get_that_offers_a_websocket_is_answered_as_a_get(serving: Serving) -> None:
    offer = ("Connection: Upgrade", "Upgrade: websocket")
    got = send(serving.port, [request(path, b"", *offer, method="GET") for path in ("/predict", "/health")] + [LAST])
    assert [response.status for response in got] == [405, 200, 200]


TARGETS = {
    "/predict?": 200,
    "http://checkout.test:8000/predict": 200,
    "http://checkout.test/predict?explain=true": 200,
    "/%70redict": 200,
    "/predict#part": 200,
    "/predict/": 404,
    "//predict": 404,
    "/Predict": 404,
    "/predict%": 404,
    "/predict%zz": 404,
    "/predict%ff": 404,
    "/predict%00": 404,
    "/../predict": 404,
    "/" + "x" * 8_191: 404,
    "/" + "x" * 8_192: 414,
    "/predict?" + "x" * 8_192: 414,
    "*": 404,
    "predict": 400,
    "?explain=true": 400,
    "http://checkout.test": 400,
    "/pre dict": 400,
    "/predict\x01": 400,
    "/prédict": 400,
}
KINDS = {400: "http", 404: "path", 405: "method", 414: "target_too_long", 415: "content_encoding"}


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target[:30])
def test_every_request_target_is_a_decision_or_an_error_in_words(serving: Serving, target: str) -> None:
    got = send(serving.port, request(target, ONE, "Connection: close"))
    assert [response.status for response in got] == [TARGETS[target]]
    if got[0].status == 200:
        assert decided(got[0])
    else:
        is_problem(got[0])


def is_problem(response: Response) -> None:
    """An error has the documented body, with the expected `error`."""
    problem = response.json()
    assert response.headers["content-type"] == "application/json"
    assert problem["error"] == KINDS[response.status]
    assert len(problem["reason"]) > 10


HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\n"
BODY = b"Content-Length: %d\r\n\r\n%b" % (len(ONE), ONE)
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(ONE), ONE)
FRAMING = {
    "two lengths": HEAD + b"Content-Length: %d\r\n" % len(ONE) + BODY,
    "two lengths that differ": HEAD + b"Content-Length: 1\r\n" + BODY,
    "a list of lengths": HEAD + b"Content-Length: 5, 5\r\n\r\n12345",
    "a length with a sign": HEAD + b"Content-Length: +5\r\n\r\n12345",
    "a negative length": HEAD + b"Content-Length: -1\r\n\r\n",
    "a length that is no number": HEAD + b"Content-Length: 0x5\r\n\r\n12345",
    "an empty length": HEAD + b"Content-Length:\r\n\r\n",
    "a length beyond 64 bits": HEAD + b"Content-Length: 99999999999999999999\r\n\r\n",
    "a length and chunks": HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS,
    "chunks and a length": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n" + CHUNKS,
    "chunked twice": HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS,
    "identity, then chunked": HEAD + b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS,
    "gzip and chunked": HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + CHUNKS,
    "chunked, then identity": HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n" + CHUNKS,
    "xchunked": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n" + CHUNKS,
    "identity": HEAD + b"Transfer-Encoding: identity\r\n\r\n" + ONE,
    "chunks in HTTP/1.0": HEAD.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS,
    "a space before the colon": HEAD + b"Content-Length : 5\r\n\r\n12345",
    "a folded header": HEAD + b"Transfer-Encoding:\r\n chunked\r\n\r\n" + CHUNKS,
    "a vertical tab": HEAD + b"Transfer-Encoding: \x0bchunked\r\n\r\n" + CHUNKS,
    "line feeds alone": (HEAD + BODY).replace(b"\r\n", b"\n"),
    "a carriage return in a header": HEAD + b"X: a\rTransfer-Encoding: chunked\r\n" + BODY,
    "a null in a header": HEAD + b"X: a\0b\r\n" + BODY,
    "a chunk with a sign": HEAD + b"Transfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n",
    "a chunk in other digits": HEAD + b"Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n",
    "a chunk of line feeds": HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\nabc\n0\n\n",
    "a chunk beyond 64 bits": HEAD + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
    "HTTP/2.0": HEAD.replace(b"1.1", b"2.0") + BODY,
    "HTTP/0.9": HEAD.replace(b"1.1", b"0.9") + BODY,
    "no version": b"GET /health\r\n\r\n",
    "a method in lower case": b"post /predict HTTP/1.1\r\n" + BODY,
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    "the PROXY protocol": b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 8000\r\n" + HEAD + BODY,
}
HIDDEN = request("/predict", ONE)
"""Bytes appended by an attacker: the server must not handle them as a request."""


@pytest.mark.parametrize("kind", FRAMING)
def test_a_request_whose_framing_is_in_doubt_is_a_400_and_nothing_after_it_is_read(serving: Serving, kind: str) -> None:
    decided_before = serving.metric('serving_requests_total{endpoint="/predict",status="200"}')
    before = serving.metric('serving_requests_total{endpoint="malformed",status="400"}')
    got = send(serving.port, FRAMING[kind] + HIDDEN)
    assert [(response.status, response.headers["connection"]) for response in got] == [(400, "close")]
    is_problem(got[0])
    assert serving.metric('serving_requests_total{endpoint="malformed",status="400"}') == before + 1
    assert serving.metric('serving_requests_total{endpoint="/predict",status="200"}') == decided_before


@pytest.mark.parametrize("broken", ["two lengths", "xchunked", "a chunk with a sign"])
def test_requests_before_a_malformed_one_are_answered_first(serving: Serving, broken: str) -> None:
    good = [request("/predict", ONE), request("/predict/batch", BATCH), chunked("/predict", ONE)]
    got = send(serving.port, b"".join([*good, FRAMING[broken], HIDDEN]))
    assert [response.status for response in got] == [200, 200, 200, 400]
    assert all(decided(response) for response in got[:3])


def test_a_body_longer_than_its_length_is_answered_and_the_rest_refused(serving: Serving) -> None:
    got = send(serving.port, request("/predict", ONE) + b'{"amount": 5}')
    assert [response.status for response in got] == [200, 400]
    assert decided(got[0])


@pytest.mark.parametrize("path", ["/predict", "/predict/batch", "/health"])
@pytest.mark.parametrize("pieces", [1, 7])
def test_headers_beyond_the_limit_are_a_431(serving: Serving, path: str, pieces: int) -> None:
    raw = request(path, ONE, *(f"X-{n}: {'v' * 1_000}" for n in range(66)), "Connection: close")
    size = len(raw) // pieces + 1
    got = send(serving.port, [raw[start : start + size] for start in range(0, len(raw), size)])
    assert [response.status for response in got] == [431]
    assert got[0].json()["error"] == "head_too_large"


def test_a_header_without_end_is_given_up_and_the_answer_reaches_a_client_that_still_sends(serving: Serving) -> None:
    with socket.create_connection(("127.0.0.1", serving.port), timeout=10) as line:
        line.sendall(b"POST /predict HTTP/1.1\r\nX: ")
        for _ in range(50):
            line.sendall(b"v" * 65_536)
        assert line.recv(100).startswith(b"HTTP/1.1 431 ")
        with pytest.raises(ConnectionError):  # it is not read for ever
            send_until_closed(line)


def send_until_closed(line: socket.socket) -> None:
    while True:
        line.sendall(b"v" * 65_536)


@pytest.mark.long
@pytest.mark.timeout(150)
def test_a_connection_that_completes_no_head_is_closed_like_an_idle_one(serving: Serving) -> None:
    address = ("127.0.0.1", serving.port)
    beginnings = [b"", b"POST /predict HTTP/1.1\r\nHo", request("/health", method="GET") + b"\r\n\r\n"]
    lines = [socket.create_connection(address, timeout=100) for _ in beginnings]
    for line, beginning in zip(lines, beginnings, strict=True):
        line.sendall(beginning)
    for line in lines:
        while line.recv(65536):  # until it is closed; fails after 100 s
            pass
        line.close()


def test_a_large_batch_does_not_count_towards_the_head_of_the_next_request(serving: Serving) -> None:
    large = json.dumps({"transactions": [PAYMENT] * 3_000}).encode()
    following = request("/predict", ONE)
    raw = request("/predict/batch", large) + following[:20]
    got = send(serving.port, [raw, following[20:], LAST])
    assert [response.status for response in got] == [200, 200, 200]


@pytest.mark.parametrize("coding", ["gzip", "br"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_an_answer_before_the_body_is_read_reaches_a_client_that_closes(
    serving: Serving, version: str, coding: str
) -> None:
    """Python's urllib sends `Connection: close` with every request."""
    headers = ("Connection: close", f"Content-Encoding: {coding}")
    got = send(serving.port, request("/predict", bytes(8_000_000), *headers, version=version))
    assert [(one.status, one.headers["connection"]) for one in got] == [(413 if coding == "gzip" else 415, "close")]


def test_old_and_unusual_clients_are_answered(serving: Serving) -> None:
    old = send(serving.port, request("/predict", ONE, "Expect: 100-continue", version="1.0"))
    assert [(response.status, response.headers["connection"]) for response in old] == [(200, "close")]
    assert decided(old[0])
    lines = send(serving.port, b"\r\n" + request("/predict", ONE) + b"\r\n\r\n" + request("/predict", ONE) + LAST)
    assert [response.status for response in lines] == [200, 200, 200]
    waiting = send(serving.port, [request("/predict", ONE, "Expect: 100-continue"), LAST])
    assert [response.status for response in waiting] == [100, 200, 200]
    no_body = send(serving.port, [b"POST /predict HTTP/1.1\r\nHost: x\r\n\r\n", LAST])
    assert [response.status for response in no_body] == [422, 200]
    tunnel = send(serving.port, b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\n\r\n")
    assert [response.status for response in tunnel] == [405]


def test_trailers_are_not_headers(serving: Serving) -> None:
    got = send(serving.port, [chunked("/predict", ONE, trailers="Content-Encoding: br\r\nExpect: x\r\n"), LAST])
    assert [response.status for response in got] == [200, 200]
    assert decided(got[0])


@pytest.mark.parametrize("path", ["/health", "/ready", "/model", "/metrics", "/docs", "/openapi.json"])
def test_head_is_answered_as_get_without_the_body(serving: Serving, path: str) -> None:
    head, last = send(serving.port, request(path, b"", method="HEAD") + request(path, b"", "Connection: close",
                      method="HEAD"), method="HEAD")  # fmt: skip
    (get,) = send(serving.port, request(path, b"", "Connection: close", method="GET"))
    assert (head.status, last.status, get.status) == (200, 200, 200)
    assert get.body
    if path != "/metrics":  # it counts the requests
        assert head.headers == {name: value for name, value in get.headers.items() if name != "connection"}


@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
def test_head_of_a_decision_is_a_405(serving: Serving, path: str) -> None:
    (got,) = send(serving.port, request(path, b"", "Connection: close", method="HEAD"), method="HEAD")
    assert (got.status, got.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "QUERY"])
@pytest.mark.parametrize("path", ["/health", "/ready", "/model", "/metrics", "/docs", "/openapi.json"])
def test_another_method_is_a_405_that_names_those_that_are_allowed(serving: Serving, path: str, method: str) -> None:
    (got,) = send(serving.port, request(path, b"", "Connection: close", method=method))
    assert (got.status, got.headers["allow"]) == (405, "GET, HEAD")
    is_problem(got)


def test_ready_without_a_model_is_a_503_to_head_too(start: Callable[..., Serving], shared_store: Valkey) -> None:
    serving = start(shared_store.url, None, "/health")
    answers = [serving.client.request(method, "/ready") for method in ("GET", "HEAD")]
    assert [(answer.status_code, answer.text != "") for answer in answers] == [(503, True), (503, False)]


@pytest.mark.parametrize("host", ["[", "[::1", "a:b:c", "a b", "<script>alert(1)</script>", "", "\x7f", "é"])
def test_the_page_does_not_trust_the_host_header(serving: Serving, host: str) -> None:
    raw = f"GET /docs HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
    (got,) = send(serving.port, raw)
    assert got.status in (200, 400)
    assert b"<script>alert(1)" not in got.body


CODINGS = ["gzip", "GZIP", "x-gzip"]


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize(("path", "body"), [("/predict", ONE), ("/predict/batch", BATCH)])
def test_a_gzip_body_is_read(serving: Serving, path: str, body: bytes, coding: str) -> None:
    small = gzip.compress(body)
    header = f"Content-Encoding: {coding}"
    got = send(serving.port, [request(path, small, header), chunked(path, small, header), LAST])
    assert [response.status for response in got] == [200, 200, 200]
    assert all(decided(response) for response in got[:2])


@pytest.mark.parametrize(("path", "limit"), [("/predict", 16_384), ("/predict/batch", 8_388_608)])
def test_the_limit_of_a_body_holds_for_its_content(serving: Serving, path: str, limit: int) -> None:
    header = "Content-Encoding: gzip"
    within, beyond, bomb = (
        gzip.compress(b" " * size) for size in (limit, limit + 1, 200_000_000 if limit > 1e6 else 10**7)
    )
    assert len(bomb) < limit
    got = send(serving.port, [request(path, body, header) for body in (within, beyond, bomb)] + [LAST])
    assert [response.status for response in got] == [422, 413, 413, 200]
    assert str(limit) in got[1].json()["reason"]


NOT_GZIP = {
    "not compressed": ONE,
    "empty": b"",
    "cut off": gzip.compress(ONE)[:-5],
    "zlib": zlib.compress(ONE),
    "damaged": gzip.compress(ONE)[:-8] + bytes(8),
    "two members": gzip.compress(ONE[:10]) + gzip.compress(ONE[10:]),
    "bytes after it": gzip.compress(ONE) + b"more",
}


@pytest.mark.parametrize("kind", NOT_GZIP)
def test_a_body_that_is_not_the_gzip_it_claims_to_be_is_a_422(serving: Serving, kind: str) -> None:
    got = send(serving.port, [request("/predict", NOT_GZIP[kind], "Content-Encoding: gzip"), LAST])
    assert [response.status for response in got] == [422, 200]
    assert "Content-Encoding" in got[0].json()["reason"]


@pytest.mark.parametrize("coding", ["br", "zstd", "deflate", "gzip, gzip", "compress", "gzip\r\nContent-Encoding: br"])
@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
def test_another_encoding_is_a_415_that_names_the_one_that_is_read(serving: Serving, path: str, coding: str) -> None:
    got = send(serving.port, [request(path, ONE, f"Content-Encoding: {coding}"), LAST])
    assert [response.status for response in got] == [415, 200]
    assert got[0].headers["accept-encoding"] == "gzip"
    is_problem(got[0])
    assert "gzip" in got[0].json()["reason"]


@pytest.mark.parametrize("coding", ["identity", ""])
def test_a_body_that_says_it_is_not_compressed_is_read_as_it_is(serving: Serving, coding: str) -> None:
    got = send(serving.port, [request("/predict", ONE, f"Content-Encoding: {coding}"), LAST])
    assert [response.status for response in got] == [200, 200]
