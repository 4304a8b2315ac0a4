"""A PostgreSQL server process for a test, from the system's package."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.netns import Host

UNPRIVILEGED: Final = 65534
"""The id of Debian's user without rights."""


def programs() -> Path | None:
    """The folder of the newest server's programs. None if no server is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


@contextmanager
def running(bin_folder: Path, host: Host | None = None, databases: Sequence[str] = ("fraud",)) -> Iterator[str]:
    """The SQLAlchemy URL of the first of some empty databases. The server refuses to run as root: it gets another user.

    With `host`, on that host and for its network; otherwise on this machine and for it.
    """
    folder, port = Path(tempfile.mkdtemp(prefix="fraud-postgres-")), _free_port()
    address = host.address if host else "127.0.0.1"
    user = UNPRIVILEGED if os.geteuid() == 0 else None
    if user:
        shutil.chown(folder, user)
    try:
        create = [bin_folder / "initdb", "--pgdata", folder / "data", "--username", "fraud", "--auth", "trust"]
        subprocess.run([*create, "--no-sync", "--encoding", "UTF8"], check=True, capture_output=True, user=user)
        serve = [bin_folder / "postgres", "-D", folder / "data", "-h", address, "-p", str(port), "-k", folder]
        if host:  # a namespace is entered as root
            with (folder / "data/pg_hba.conf").open("a") as rules:
                rules.write("host all all samenet trust\n")
            as_user = ("setpriv", f"--reuid={UNPRIVILEGED}", f"--regid={UNPRIVILEGED}", "--clear-groups")
            serve, user = host.command(*as_user, *serve), None
        with (folder / "log").open("wb") as log, subprocess.Popen(serve, stdout=log, stderr=log, user=user) as server:
            try:
                _wait_for(bin_folder, address, port, server)
                for name in databases:
                    subprocess.run(
                        [bin_folder / "createdb", "-h", address, "-p", str(port), "-U", "fraud", name], check=True
                    )
                yield f"postgresql+psycopg2://fraud@{address}:{port}/{databases[0]}"
            finally:
                server.send_signal(signal.SIGINT)  # does not wait for clients
    finally:
        shutil.rmtree(folder)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _wait_for(bin_folder: Path, address: str, port: int, server: subprocess.Popen[bytes]) -> None:
    ready = [bin_folder / "pg_isready", "--quiet", "-h", address, "-p", str(port), "-t", "1"]
    ends = time.monotonic() + 30
    while subprocess.run(ready, check=False).returncode:
        if server.poll() is not None or time.monotonic() > ends:
            raise RuntimeError("PostgreSQL did not start")
