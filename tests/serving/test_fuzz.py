"""Thousands of random requests: every answer is a decision or an error with a reason, and the process stays up.

The own fuzzer always runs, in short, and so does schemathesis (from the tools' environment, for it does not fit
into the serving lock); `-m slow` runs 12,000 cases of the one and 300 examples an operation of the other.
"""

import json
import random
import socket
import subprocess
from collections import Counter
from pathlib import Path

import httpx
import pytest
from servers import Serving

SCHEMATHESIS = Path(__file__).parents[2] / ".venv/tools/bin/schemathesis"
PAYMENT: dict[str, object] = {
    "transaction_id": "t", "user_id": "fuzz", "merchant_id": "m", "event_timestamp": "2026-03-04T03:00:00Z",
    "amount": 100.0, "merchant_category": "travel", "distance_from_home": 3.0, "hour_of_day": 3, "day_of_week": 2,
    "transaction_velocity": 1.0,
}  # fmt: skip
NUMBERS = (
    "NaN",
    "Infinity",
    "-Infinity",
    "1e308",
    "-1e308",
    "1e999",
    "5e-324",
    "-0.0",
    "0",
    "9" * 400,
    "1.",
    "01",
    "+1",
)
TEXTS = ("", "x" * 15_000, "\u0000", "\ud800", "🂡" * 3_000, "*1\r\n$4\r\nPING\r\n", "'; DROP TABLE users;--", "../..")
ENCODINGS = ("utf-16", "utf-32", "utf-7", "cp500", "utf-8-sig")


def value(rng: random.Random) -> str:
    """A JSON value, or almost one."""
    depth = rng.choice((1, 10, 500, 3_000))
    return rng.choice(
        (
            rng.choice(NUMBERS), json.dumps(rng.choice(TEXTS)), "[" * depth + "]" * rng.choice((depth, depth - 1, 0)),
            '{"a":' * depth + "1" + "}" * depth, rng.choice(("null", "true", "false", "nul", "undefined", "")),
            str(rng.choice((-1, 0, 1, 23, 24, 2**31, 2**63, 2**64, 10**40))), repr(rng.lognormvariate(0, 20)),
        )
    )  # fmt: skip


def body(rng: random.Random) -> bytes:
    """One body: a valid one with fields replaced, doubled or dropped, and sometimes with changed bytes."""
    fields = [(name, json.dumps(good)) for name, good in PAYMENT.items() if rng.random() > 0.15]
    for _ in range(rng.randrange(4)):
        name = rng.choice([*PAYMENT, "amonut", "", "\u0000", "__proto__"])
        fields.insert(rng.randrange(len(fields) + 1), (name, value(rng)))
    text = "{" + ",".join(f"{json.dumps(name)}:{good}" for name, good in fields) + "}"
    kind = rng.randrange(8)
    if kind == 0:
        return rng.randbytes(rng.randrange(2_000))
    if kind == 1:
        return text.encode(rng.choice(ENCODINGS), "surrogatepass")
    data = bytearray(text.encode("utf-8", "surrogatepass"))
    if kind == 2:
        for _ in range(rng.randrange(1, 20)):
            data[rng.randrange(len(data))] = rng.randrange(256)
    if kind == 3:
        del data[rng.randrange(len(data)) :]
    if kind == 4:
        return b'{"transactions":[' + bytes(data) + b"," * rng.randrange(3) + b"]}"
    return bytes(data)


def fuzz(serving: Serving, cases: int, seed: int) -> Counter[int]:
    """Statuses of `cases` requests, on both paths."""
    rng, statuses = random.Random(seed), Counter[int]()  # noqa: S311 - cases that can be had again
    for number in range(cases):
        data, path = body(rng), "/predict/batch" if rng.random() < 0.3 else "/predict"
        query = rng.choice(("", "", "", "?explain=true", "?explain=%00", "?x"))
        answer = serving.client.post(path + query, content=data)
        statuses[answer.status_code] += 1
        assert answer.status_code in (200, 413, 422), (seed, number, data[:500], answer.text)
        content = answer.json()
        assert answer.status_code == 200 or content["reason"]
    return statuses


def lines(serving: Serving) -> str:
    """The server's output."""
    return (serving.folder / "serving.log").read_text()


def test_whatever_is_sent_is_decided_or_refused_in_words(serving: Serving) -> None:
    assert fuzz(serving, 500, 0)[422] > 200
    assert "Traceback" not in lines(serving)


@pytest.mark.slow
def test_twelve_thousand_bad_requests_bring_no_5xx_and_no_crash(serving: Serving) -> None:
    assert serving.process is not None
    statuses = fuzz(serving, 12_000, 1)
    print(f"\n{sum(statuses.values())} cases: {dict(sorted(statuses.items()))}, 0 of 5xx, 0 crashes")
    assert serving.process.poll() is None
    assert "Traceback" not in lines(serving)


@pytest.mark.parametrize(
    "raw",
    [
        b"\x00" * 100, b"POST /predict\r\n\r\n", b"POST /predict HTTP/9.9\r\n\r\n", b"POST  /predict HTTP/1.1\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n12345",
        b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999999\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n",
        b"POST /predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n",
        b"POST /predict HTTP/1.1\r\n" + b"a: " + b"b" * 200_000 + b"\r\n\r\n",
    ],
)  # fmt: skip
def test_bytes_that_are_no_http_are_a_4xx_or_a_closed_line(serving: Serving, raw: bytes) -> None:
    with socket.create_connection(("127.0.0.1", serving.port), timeout=5) as line:
        line.sendall(raw)
        line.shutdown(socket.SHUT_WR)
        got = line.recv(65536)
    assert got == b"" or got.startswith(b"HTTP/1.1 4")
    assert serving.client.get("/health").status_code == 200
    assert "Traceback" not in lines(serving)


def schemathesis(serving: Serving, examples: int, folder: Path) -> None:
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    done = subprocess.run(
        [
            SCHEMATHESIS, "run", f"http://127.0.0.1:{serving.port}/openapi.json", "--checks", checks,
            "--max-examples", str(examples), "--seed", "1", "--no-color", "--suppress-health-check", "all",
        ],
        cwd=folder, check=False, capture_output=True, text=True,
    )  # fmt: skip
    print(done.stdout[-1500:])
    assert done.returncode == 0, done.stdout + done.stderr
    assert httpx.get(f"http://127.0.0.1:{serving.port}/health", trust_env=False).status_code == 200


def test_schemathesis_finds_nothing_between_the_document_and_the_server(serving: Serving, tmp_path: Path) -> None:
    schemathesis(serving, 20, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_schemathesis_finds_nothing_in_many_more_examples(serving: Serving, tmp_path: Path) -> None:
    schemathesis(serving, 300, tmp_path)
