"""A PostgreSQL server process for a test, from the system's package."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from fraud.embedded.sockets import free_port

UNPRIVILEGED: Final = 65534
"""The id of Debian's user without rights."""


def programs() -> Path | None:
    """The folder of the newest server's programs. None if no server is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


@contextmanager
def running(bin_folder: Path) -> Iterator[str]:
    """The SQLAlchemy URL of an empty database `fraud`. The server refuses to run as root: it gets another user."""
    folder, port = Path(tempfile.mkdtemp(prefix="fraud-postgres-")), free_port()
    user = UNPRIVILEGED if os.geteuid() == 0 else None
    if user:
        shutil.chown(folder, user)
    try:
        create = [bin_folder / "initdb", "--pgdata", folder / "data", "--username", "fraud", "--auth", "trust"]
        subprocess.run([*create, "--no-sync", "--encoding", "UTF8"], check=True, capture_output=True, user=user)
        serve = [bin_folder / "postgres", "-D", folder / "data", "-h", "127.0.0.1", "-p", str(port), "-k", folder]
        with (folder / "log").open("wb") as log, subprocess.Popen(serve, stdout=log, stderr=log, user=user) as server:
            try:
                _wait_for(bin_folder, port, server)
                subprocess.run(
                    [bin_folder / "createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "fraud", "fraud"], check=True
                )
                yield f"postgresql+psycopg2://fraud@127.0.0.1:{port}/fraud"
            finally:
                server.send_signal(signal.SIGINT)  # does not wait for clients
    finally:
        shutil.rmtree(folder)


def _wait_for(bin_folder: Path, port: int, server: subprocess.Popen[bytes]) -> None:
    ready = [bin_folder / "pg_isready", "--quiet", "-h", "127.0.0.1", "-p", str(port), "-t", "1"]
    ends = time.monotonic() + 30
    while subprocess.run(ready, check=False).returncode:
        if server.poll() is not None or time.monotonic() > ends:
            raise RuntimeError("PostgreSQL did not start")
