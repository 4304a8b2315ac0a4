"""Common HTTP clients with their defaults: one payment, a batch, and one more on the same connection."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from expected import probability
from relay import Relay
from servers import Serving

CLIENTS = Path(__file__).with_name("clients")
ML_PYTHON = Path(__file__).parents[2] / ".venv/ml/bin/python"
"""requests and aiohttp are in the lock of this environment."""
PAYMENT = {"merchant_category": "travel", "hour_of_day": 3, "day_of_week": 2, "distance_from_home": 3.0}
REQUESTS = (
    ("/predict", json.dumps(PAYMENT | {"amount": 100.0})),
    ("/predict/batch", json.dumps({"transactions": [PAYMENT | {"amount": 200.0}, PAYMENT | {"amount": 300.0}]})),
    ("/predict?explain=true", json.dumps(PAYMENT | {"amount": 400.0})),
    ("/predict", json.dumps(PAYMENT | {"amount": 500.0})),
)
WITH = {"java": "javac", "go": "go", "node": "node", "curl": "curl"}
"""Programs that must be installed. A Java runtime alone cannot compile the client."""


def command(client: str, url: str) -> list[str]:
    """The client's command line."""
    tool, _, mode = client.partition(" ")
    pairs = [word for request in REQUESTS for word in request]
    if tool == "curl":
        calls = [["-s", f"--{mode}", "-w", "\n%{http_code}\n", "-d", body, url + path] for path, body in REQUESTS]
        return ["curl", *calls[0], *(word for call in calls[1:] for word in ("--next", *call))]
    if tool == "java":
        return ["java", str(CLIENTS / "Client.java"), url, mode, *pairs]
    if tool == "go":
        return ["go", "run", str(CLIENTS / "client.go"), url, *pairs]
    if tool == "node":
        return ["node", str(CLIENTS / "client.mjs"), url, mode, *pairs]
    return [sys.executable if mode == "httpx" else str(ML_PYTHON), str(CLIENTS / "client.py"), url, mode, *pairs]


CLIENT_NAMES = (
    "java sized", "java chunked", "curl http1.1", "curl http2", "go", "node fetch", "node http", "python httpx",
    "python requests", "python aiohttp",
)  # fmt: skip


@pytest.mark.parametrize("client", CLIENT_NAMES)
def test_a_client_with_its_defaults_gets_its_decisions_over_one_connection(
    serving: Serving, client: str, tmp_path: Path
) -> None:
    needed = WITH.get(client.partition(" ")[0])
    if needed and not shutil.which(needed):
        pytest.skip(f"{needed} is not installed, so this client was not tried")
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "GOCACHE": str(tmp_path / "go")}
    with Relay(serving.port) as relay:
        done = subprocess.run(
            command(client, f"http://127.0.0.1:{relay.port}"), check=False, capture_output=True, text=True,
            timeout=280, env=environment,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[1::2] == ["200"] * 4, done.stdout
    one, batch, explained, last = map(json.loads, lines[::2])
    answers = [one, *batch["predictions"], explained, last]
    by_hand = [probability(0, amount, distance_known=True) for amount in (100.0, 200.0, 300.0, 400.0, 500.0)]
    assert [answer["fraud_probability"] for answer in answers] == pytest.approx(by_hand, abs=1e-6)
    # fetch opens a second connection when the first is not yet free at the moment of the next call.
    assert relay.connections <= (2 if client == "node fetch" else 1)
    offers_upgrade = client.startswith("java") or client == "curl http2"
    assert (b"upgrade: h2c" in relay.sent.lower()) is offers_upgrade
    assert (b"transfer-encoding: chunked" in relay.sent.lower()) is (client == "java chunked")


def test_http2_without_an_upgrade_is_refused_in_words(serving: Serving) -> None:
    """`curl --http2-prior-knowledge` and gRPC clients send this first."""
    with socket.create_connection(("127.0.0.1", serving.port), timeout=5) as line:
        line.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        got = b""
        while piece := line.recv(65536):
            got += piece
    assert got.startswith(b"HTTP/1.1 400 ")
    assert b"expected an HTTP/1.1 request" in got
