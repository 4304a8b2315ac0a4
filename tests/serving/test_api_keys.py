"""The command that maintains the file of keys: new, ensure, retire, revoke. test_limits.py tests a running server."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fraud_serving.api_keys import ApiKeys

SECRET = "a-secret-of-the-compose-stack-0123456789"


def run(*arguments: str, key: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fraud_serving.api_keys", *arguments]
    return subprocess.run(command, env={**os.environ, "SERVING_KEY": key}, check=False, capture_output=True, text=True)


def test_a_key_is_made_rotated_retired_and_revoked(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    other = run("new", "till-7", str(file)).stdout.strip()
    old = run("new", "checkout", str(file)).stdout.strip()
    new = run("new", "checkout", str(file)).stdout.strip()

    def clients() -> list[str | None]:
        keys = ApiKeys(file)
        return [keys.client_of(key.encode()) for key in (old, new, other)]

    assert clients() == ["checkout", "checkout", "till-7"]
    assert not any(key in file.read_text() for key in (old, new, other))
    assert run("retire", "checkout", str(file)).stdout == "checkout: 1 keys revoked\n"
    assert clients() == [None, "checkout", "till-7"]
    assert run("revoke", "checkout", str(file)).stdout == "checkout: 1 keys revoked\n"
    assert clients() == [None, None, "till-7"]
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_given_key_is_added_once_and_a_short_one_never(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    assert [run("ensure", "checkout", str(file), key=SECRET).stdout for _ in range(2)] == [
        "checkout: key added\n", "checkout: key exists\n",
    ]  # fmt: skip
    assert ApiKeys(file).client_of(f"checkout.{SECRET}".encode()) == "checkout"
    assert run("ensure", "checkout", str(file), key="short").returncode != 0
    assert len(file.read_text().splitlines()) == 1


@pytest.mark.parametrize("client", ["a b", "../keys", "", "x" * 65])
def test_a_client_has_a_plain_name(tmp_path: Path, client: str) -> None:
    assert run("new", client, str(tmp_path / "keys")).returncode != 0
    assert not (tmp_path / "keys").exists()
