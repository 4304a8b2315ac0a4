"""API keys. The file holds only their hashes and is read again when it changes.

A key is `<client>.<secret>`. The file has one line per key, `<client> <BLAKE2b-256 of the whole key, hex>`; a client
has two lines while its key is rotated. Removing a line revokes the key.

    python -m fraud_serving.api_keys new CLIENT FILE       prints a new key once and adds its hash
    python -m fraud_serving.api_keys ensure CLIENT FILE    adds `<client>.$SERVING_KEY` unless it is there
    python -m fraud_serving.api_keys retire CLIENT FILE    removes the client's keys except the newest
    python -m fraud_serving.api_keys revoke CLIENT FILE    removes every key of the client
"""

import hmac
import logging
import os
import re
import secrets
import sys
import threading
from hashlib import blake2b
from pathlib import Path
from typing import Final

_log = logging.getLogger(__name__)
_CLIENT: Final = re.compile(r"^[A-Za-z0-9_-]{1,64}$")
_HASH: Final = re.compile(r"^[0-9a-f]{64}$")
_CHECK_S: Final = 2.0
_MIN_SECRET_LENGTH: Final = 24


def hash_of(key: bytes) -> bytes:
    """32 bytes. No salt or slow hash is needed: the secret has 256 random bits."""
    return blake2b(key, digest_size=32).digest()


class ApiKeys:
    """Clients by key. Raises ValueError naming the line if the file is invalid at start."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._version = self._file_version()
        self._hashes = _read(path)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="api-keys", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def client_of(self, key: bytes) -> str | None:
        """The client of this key, None for an unknown key. Compares in constant time."""
        client = key.partition(b".")[0]
        digest, valid = hash_of(key), False
        for stored in self._hashes.get(client, ()):
            valid |= hmac.compare_digest(stored, digest)
        return client.decode("ascii", "replace") if valid else None

    def _file_version(self) -> tuple[int, int, int]:
        status = self._path.stat()
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _watch(self) -> None:
        while not self._stop.wait(_CHECK_S):
            try:
                version = self._file_version()
                if version != self._version:
                    self._hashes, self._version = _read(self._path), version
                    _log.info("API keys reloaded: %d clients", len(self._hashes))
            except (OSError, ValueError) as error:
                _log.error("API keys not reloaded, the previous ones stay valid: %s", error)


def _read(path: Path) -> dict[bytes, tuple[bytes, ...]]:
    hashes: dict[bytes, tuple[bytes, ...]] = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        client, _, digest = line.strip().partition(" ")
        if not _CLIENT.match(client) or not _HASH.match(digest.strip()):
            raise ValueError(f"{path}:{number}: expected `<client> <64 hex digits>`")
        name = client.encode()
        hashes[name] = (*hashes.get(name, ()), bytes.fromhex(digest.strip()))
    return hashes


def _checked(client: str) -> str:
    if not _CLIENT.match(client):
        raise ValueError(f"expected a client name of 1 to 64 letters, digits, - and _, got {client!r}")
    return client


def _add(client: str, key: str, path: Path) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a") as file:
        file.write(f"{client} {hash_of(key.encode()).hex()}\n")


def add(client: str, path: Path) -> str:
    """Create a key of `client` and add its hash to the file (mode 600). Raises ValueError for an invalid name."""
    key = f"{_checked(client)}.{secrets.token_urlsafe(32)}"
    _add(client, key, path)
    return key


def _ensure(client: str, path: Path, secret: str) -> str:
    key = f"{_checked(client)}.{secret}"
    hashes = _read(path).get(client.encode(), ()) if path.exists() else ()
    if len(secret) < _MIN_SECRET_LENGTH:
        raise ValueError(f"SERVING_KEY: expected at least {_MIN_SECRET_LENGTH} random characters, got {len(secret)}")
    if hash_of(key.encode()) in hashes:
        return f"{client}: key exists"
    _add(client, key, path)
    return f"{client}: key added"


def _revoke(client: str, path: Path, *, keep_newest: bool) -> str:
    _checked(client)
    lines = path.read_text().splitlines(keepends=True)
    own = [number for number, line in enumerate(lines) if line.partition(" ")[0] == client]
    revoked = set(own[:-1] if keep_newest else own)
    kept = [line for number, line in enumerate(lines) if number not in revoked]
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.writelines(kept)
    temporary.replace(path)
    return f"{client}: {len(lines) - len(kept)} keys revoked"


def _main(arguments: list[str]) -> str:
    if len(arguments) != 3 or arguments[0] not in ("new", "ensure", "retire", "revoke"):
        sys.exit(__doc__)
    command, client, path = arguments[0], arguments[1], Path(arguments[2])
    if command == "new":
        return add(client, path)
    if command == "ensure":
        return _ensure(client, path, os.environ.get("SERVING_KEY", ""))
    return _revoke(client, path, keep_newest=command == "retire")


if __name__ == "__main__":
    print(_main(sys.argv[1:]))  # noqa: T201 - a new key is shown once
