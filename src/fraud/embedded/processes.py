"""Local processes that outlive the command that started them, and that a later command can end.

A service is recorded by process id *and* start time, so that a process that got the same id later is never signalled.
Each service runs in its own session. The session outlives its first process, so the children of a killed process are
found by it; the kernel does not reuse the session's number while a member lives. Processes that a service starts in
another session (Airflow's jobs) are found by the stack's mark in their environment.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from fraud.errors import FraudError
from fraud.secret_file import write_private

MARK: Final = "FRAUD_EMBEDDED"
_POLL_SECONDS: Final = 0.05
_LEFTOVER_SECONDS: Final = 3.0
_STARTED_FIELD: Final = 19
_PARENT_FIELD: Final = 1
_SESSION_FIELD: Final = 3
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")


class ServiceFailedError(FraudError):
    """A step of the stack failed. The message has the step, its log file and the log's last lines."""

    def __init__(self, step: str, why: str, log: Path) -> None:
        super().__init__(f"{step}: {why}", got="\n" + last_lines(log), hint=f"read {log}")


class Process(NamedTuple):
    """A process, distinct from a later one with the same id. `started` is in clock ticks after boot."""

    pid: int
    started: int


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from `state` on. None without such a process, or for a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields


def identify(pid: int) -> Process | None:
    fields = _stat(pid)
    return Process(pid, int(fields[_STARTED_FIELD])) if fields else None


def is_running(process: Process) -> bool:
    return identify(process.pid) == process


def started_at(process: Process) -> datetime:
    """The start time of a process, by this machine's clock."""
    since_boot = process.started / os.sysconf("SC_CLK_TCK")
    return datetime.fromtimestamp(time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + since_boot, UTC)


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def in_session(session: int) -> list[Process]:
    """Every process of a session."""
    found = ((pid, _stat(pid)) for pid in _pids())
    return [
        Process(pid, int(fields[_STARTED_FIELD]))
        for pid, fields in found
        if fields and int(fields[_SESSION_FIELD]) == session
    ]


def marked(mark: str) -> list[Process]:
    """Every process except this one whose initial environment contains `MARK=mark`."""
    expected = f"{MARK}={mark}".encode()
    found = []
    for pid in _pids():
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if expected in environment.split(b"\0") and pid != os.getpid() and (process := identify(pid)):
            found.append(process)
    return found


def apart(processes: Iterable[Process], sessions: Container[int]) -> list[Process]:
    """The `processes` that are in none of the sessions and do not descend from a process in one of them."""
    return [process for process in processes if not _descends(process.pid, sessions)]


def _descends(pid: int, sessions: Container[int]) -> bool:
    while pid > 1 and (fields := _stat(pid)):
        if int(fields[_SESSION_FIELD]) in sessions:
            return True
        pid = int(fields[_PARENT_FIELD])
    return False


def end_all(find: Callable[[], list[Process]], grace: float) -> None:
    """Send SIGTERM to the processes of `find()`, and SIGKILL after `grace` seconds, until it returns none."""
    signalled: set[Process] = set()
    deadline = time.monotonic() + grace
    while processes := find():
        late = time.monotonic() > deadline
        for process in processes:
            if late or process not in signalled:
                signalled.add(process)
                try:
                    os.kill(process.pid, signal.SIGKILL if late else signal.SIGTERM)
                except ProcessLookupError:
                    continue
        time.sleep(_POLL_SECONDS)


def start(name: str, command: Sequence[str], env: Mapping[str, str], folder: Path, log: Path) -> Process:
    """Start a service in its own session, with output appended to `log`, and record it as `folder/name.json`.

    Processes of an earlier start of the service are ended first. Raises ServiceFailedError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    end_all(lambda: members(name, folder), _LEFTOVER_SECONDS)
    log.parent.mkdir(parents=True, exist_ok=True)
    streams = (
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    )
    for entry in list(Path("/proc/self/fd").iterdir()):  # a service must not inherit open files and locks
        with suppress(OSError):  # the descriptor of the listing itself is already closed
            if int(entry.name) > 2:
                os.set_inheritable(int(entry.name), False)
    pid = os.posix_spawn(command[0], list(command), dict(env), file_actions=streams, setsid=True)
    process = identify(pid)
    if process is None:
        raise ServiceFailedError(name, "it ended at once", log)
    _record(name, folder, process, was_ready=False)
    return process


def record_ready(name: str, folder: Path) -> None:
    """Record that the running service has become ready."""
    process = running_process(name, folder)
    if process is not None:
        _record(name, folder, process, was_ready=True)


def was_ready(name: str, folder: Path) -> bool:
    """Whether the running service has been ready since its start."""
    return running_process(name, folder) is not None and bool(
        json.loads((folder / f"{name}.json").read_text())["was_ready"]
    )


def _record(name: str, folder: Path, process: Process, *, was_ready: bool) -> None:
    record = {**process._asdict(), "boot": _BOOT.read_text(), "was_ready": was_ready}
    write_private(folder / f"{name}.json", json.dumps(record))


def _recorded(name: str, folder: Path) -> Process | None:
    """The first process of the last start, running or not; None when it belongs to an earlier boot."""
    path = folder / f"{name}.json"
    record = json.loads(path.read_text()) if path.is_file() else {}
    return Process(record["pid"], record["started"]) if record.get("boot") == _BOOT.read_text() else None


def running_process(name: str, folder: Path) -> Process | None:
    """The first process of the service that `start` recorded under this name, if it runs."""
    process = _recorded(name, folder)
    return process if process is not None and is_running(process) else None


def members(name: str, folder: Path) -> list[Process]:
    """Every running process of the recorded service's session, also when its first process has ended."""
    process = _recorded(name, folder)
    if process is None or identify(process.pid) not in (process, None):  # the id belongs to another process now
        return []
    return in_session(process.pid)


def stop(name: str, folder: Path, grace: float = 20.0) -> bool:
    """End a recorded service: its first process, then the rest of its session. False when no process of it ran."""
    process = running_process(name, folder)
    if process is not None:
        # The first process is signalled first, so that it can end its children in order.
        end_all(lambda: [process] if is_running(process) else [], grace)
    left = members(name, folder)
    end_all(lambda: members(name, folder), _LEFTOVER_SECONDS)
    (folder / f"{name}.json").unlink(missing_ok=True)
    return process is not None or bool(left)


def run_step(name: str, command: Sequence[str], env: Mapping[str, str], log: Path, cwd: Path) -> str:
    """Run a command and return its standard output. Standard error goes to `log`. Raises ServiceFailedError."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as errors:
        finished = subprocess.run(
            command, env=dict(env), cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
            check=False,
        )  # fmt: skip
    if finished.returncode:
        raise ServiceFailedError(name, f"ended with exit code {finished.returncode}", log)
    return finished.stdout.decode()


def last_lines(log: Path, count: int = 15) -> str:
    """The last lines of a log, indented. JSON lines are shortened to level, event and exceptions."""
    lines = log.read_text(errors="replace").splitlines()[-count:] if log.is_file() else ["(no log)"]
    return "\n".join(f"    {part}" for line in lines for part in _readable(line).splitlines())


def _readable(line: str) -> str:
    """`level event` of a JSON line, and the exceptions that Airflow adds to it."""
    try:
        entry = json.loads(line)
    except json.JSONDecodeError:
        return line
    if not isinstance(entry, dict) or "event" not in entry:
        return line
    raised = [f"{error.get('exc_type')}: {error.get('exc_value')}" for error in entry.get("error_detail") or ()]
    return "\n".join([f"{entry.get('level', '')} {entry['event']}".strip(), *raised])
