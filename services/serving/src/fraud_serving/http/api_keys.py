"""Who may ask: API keys, kept only as hashes, in a file that is read again when it changes.

A key is `<client>.<secret>`. The file has one line per key, `<client> <BLAKE2b-256 of the whole key, hex>`; a client
with two lines is rotating, a removed line is revoked.

    python -m fraud_serving.http.api_keys new CLIENT FILE       prints a new key once and adds its hash
    python -m fraud_serving.http.api_keys ensure CLIENT FILE    adds `<client>.$SERVING_KEY` unless it is there
    python -m fraud_serving.http.api_keys retire CLIENT FILE    keeps only the newest key of the client
    python -m fraud_serving.http.api_keys revoke CLIENT FILE    removes every key of the client
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
_SHORTEST: Final = 24


def hash_of(key: bytes) -> bytes:
    """32 bytes. The secret has 256 random bits, so a plain hash cannot be searched."""
    return blake2b(key, digest_size=32).digest()


class ApiKeys:
    """The clients and their keys. Raises ValueError naming the line when the file is wrong at start."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = self._stat()
        self._hashes = _read(path)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="api-keys", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def client_of(self, key: bytes) -> str | None:
        """The client whose key this is, None when it is nobody's; a wrong secret takes as long as a right one."""
        client = key.partition(b".")[0]
        got, found = hash_of(key), False
        for known in self._hashes.get(client, ()):
            found |= hmac.compare_digest(known, got)
        return client.decode("ascii", "replace") if found else None

    def _stat(self) -> tuple[int, int, int]:
        found = self._path.stat()
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _watch(self) -> None:
        while not self._stop.wait(_CHECK_S):
            try:
                stamp = self._stat()
                if stamp != self._stamp:
                    self._hashes, self._stamp = _read(self._path), stamp
                    _log.info("API keys are read again: %d clients", len(self._hashes))
            except (OSError, ValueError) as error:
                _log.error("API keys stay as they were: %s", error)


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
        raise ValueError(f"a client's name has letters, digits, - and _, at most 64; got {client!r}")
    return client


def _add(client: str, key: str, path: Path) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a") as file:
        file.write(f"{client} {hash_of(key.encode()).hex()}\n")


def add(client: str, path: Path) -> str:
    """A new key of `client`, its hash added to the file (mode 600). Raises ValueError for a bad name."""
    key = f"{_checked(client)}.{secrets.token_urlsafe(32)}"
    _add(client, key, path)
    return key


def _ensure(client: str, path: Path, secret: str) -> str:
    key = f"{_checked(client)}.{secret}"
    known = _read(path).get(client.encode(), ()) if path.exists() else ()
    if len(secret) < _SHORTEST:
        raise ValueError(f"SERVING_KEY is too short: expected {_SHORTEST} random characters at least")
    if hash_of(key.encode()) in known:
        return f"{client}: the key is there"
    _add(client, key, path)
    return f"{client}: key added"


def _revoke(client: str, path: Path, *, but_newest: bool) -> str:
    _checked(client)
    lines = path.read_text().splitlines(keepends=True)
    own = [number for number, line in enumerate(lines) if line.partition(" ")[0] == client]
    gone = set(own[:-1] if but_newest else own)
    kept = [line for number, line in enumerate(lines) if number not in gone]
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
    return _revoke(client, path, but_newest=command == "retire")


if __name__ == "__main__":
    print(_main(sys.argv[1:]))  # noqa: T201 - the one time a new key is shown
