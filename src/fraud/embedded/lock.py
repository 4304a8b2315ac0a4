"""A lock that allows one command at a time on a stack. The kernel releases it when its holder ends for any reason."""

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

from fraud.embedded import sockets
from fraud.errors import UnavailableError

_POLL_SECONDS: Final = 0.05
_ENDS_SECONDS: Final = 60.0
"""A drill undoes its faults before it ends."""


@contextmanager
def exclusive(folder: Path, *, end_other: bool = False) -> Iterator[None]:
    """Hold the lock of the stack whose processes are recorded in `folder`.

    `end_other` sends SIGTERM to another holder and waits for its end. Otherwise a held lock raises UnavailableError
    with the holder's process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "command.lock").open("a+") as file:
        if not _acquire(file):
            other = _holder(file)
            if not end_other:
                raise UnavailableError(
                    "another command is running on this stack", got=_described(other), hint="wait for it, or make down"
                )
            _end(file, other)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _acquire(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(file: IO[str]) -> int | None:
    """The process id in the file; None before the holder has written it."""
    file.seek(0)
    text = file.read()
    return int(text) if text.isdigit() else None


def _described(pid: int | None) -> str:
    return sockets.describe(pid) if pid else ""


def _end(file: IO[str], other: int | None) -> None:
    """Send SIGTERM to the holder and wait for the lock. Raises UnavailableError when the holder does not end."""
    if other is not None:
        with suppress(ProcessLookupError):
            os.kill(other, signal.SIGTERM)
    deadline = time.monotonic() + _ENDS_SECONDS
    while not _acquire(file):
        if time.monotonic() > deadline:
            raise UnavailableError("another command on this stack does not end", got=_described(other), hint="kill it")
        time.sleep(_POLL_SECONDS)
