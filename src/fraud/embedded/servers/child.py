"""Start and end of one server process by its process id."""

import os
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

_POLL_SECONDS: Final = 0.02


def spawn(command: Sequence[str], env: Mapping[str, str], log: Path, *, detach: bool) -> int:
    """Start a process with its output appended to `log`, and return its process id.

    With `detach` it runs in its own session and outlives the caller. Otherwise, where `setpriv` is installed, the
    kernel ends it with the caller, also after kill -9.
    """
    arguments = list(command)
    setpriv = shutil.which("setpriv")
    if not detach and setpriv:
        arguments = [setpriv, "--pdeathsig", "TERM", *arguments]
    write_log = (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    no_input = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    streams = [no_input, write_log, (os.POSIX_SPAWN_DUP2, 1, 2)]
    return os.posix_spawn(arguments[0], arguments, dict(env), file_actions=streams, setsid=detach)


def stop(pid: int, seconds: float = 10.0) -> None:
    """End a process: SIGTERM, then SIGKILL after `seconds`. Does nothing when it has ended already."""
    deadline = time.monotonic() + seconds
    killed = False
    try:
        os.kill(pid, signal.SIGTERM)
        while not ended(pid):
            os.kill(pid, 0)
            if not killed and time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                killed = True
            time.sleep(_POLL_SECONDS)
    except ProcessLookupError:
        return


def kill(pid: int) -> None:
    """End an own child with SIGKILL, as `kill -9` does, and collect its exit status."""
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def ended(pid: int) -> bool:
    """Whether an own child has ended; collects its exit status. False for a process that is not an own child."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return False
