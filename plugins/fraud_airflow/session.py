"""End a job with all processes of its session, including those in other process groups.

`start` runs the job in a new session and starts a guard process. The guard reads a pipe whose writing end only the task
holds. When the task ends for any reason, SIGKILL included, the pipe closes and the guard ends the session.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

GRACE_SECONDS = 3.0
"""Between SIGTERM and SIGKILL. Airflow kills a task 5 s after its SIGTERM."""


def members(session: int) -> list[int]:
    """Process ids of a session, zombies excluded."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # "pid (comm) state ppid pgrp session ...": comm may contain any character, also a closing parenthesis.
            state, _parent, _group, its_session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(its_session) == session and state not in "ZX":
            found.append(int(entry.name))
    return found


def _signal(session: int, number: signal.Signals) -> bool:
    """Send a signal to every member. False when there is none."""
    pids = members(session)
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
    return bool(pids)


def end(session: int, grace: float = GRACE_SECONDS) -> None:
    """SIGTERM to every process of the session, SIGKILL to those still there after `grace` seconds."""
    if not _signal(session, signal.SIGTERM):
        return
    deadline = time.monotonic() + grace
    while members(session) and time.monotonic() < deadline:
        time.sleep(0.05)
    while _signal(session, signal.SIGKILL):
        time.sleep(0.01)


class Session:
    """A started job. `process` is its first process; the session's id is that process's id."""

    def __init__(self, process: subprocess.Popen[str], guard: subprocess.Popen[bytes]) -> None:
        self.process, self._guard = process, guard

    @property
    def streams(self) -> tuple[IO[str], IO[str]]:
        """Standard output and standard error, as text."""
        if self.process.stdout is None or self.process.stderr is None:
            raise RuntimeError("the job was started without pipes")
        return self.process.stdout, self.process.stderr

    def end(self) -> None:
        """End every process of the job, the guard included. Safe to call twice."""
        end(self.process.pid)
        self._guard.kill()
        self._guard.wait()
        self.process.wait()
        for stream in (self.process.stdout, self.process.stderr, self._guard.stdin):
            if stream is not None:
                stream.close()


def start(command: Sequence[str], *, env: Mapping[str, str], cwd: Path) -> Session:
    """Start a command in a new session, with its guard process."""
    process = subprocess.Popen(
        command, env=dict(env), cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, errors="replace", start_new_session=True,
    )  # fmt: skip
    guard = subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, str(process.pid)], env={}, stdin=subprocess.PIPE, start_new_session=True
    )
    return Session(process, guard)


if __name__ == "__main__":
    sys.stdin.buffer.read()
    end(int(sys.argv[1]))
