"""Services as processes: found by a later command, distinguished from other processes, ended with all children."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fraud.embedded import processes
from fraud.embedded.processes import Process, ServiceFailedError, identify, is_running, run_step

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true in time"
        time.sleep(0.02)


def start(tmp_path: Path, command: list[str], **env: str) -> Process:
    return processes.start("it", command, {**os.environ, **env}, tmp_path / "run", tmp_path / "it.log")


def test_a_service_is_found_again_and_stopped(tmp_path: Path) -> None:
    started = start(tmp_path, SLEEP)
    assert processes.running_process("it", tmp_path / "run") == started
    assert processes.stop("it", tmp_path / "run") is True
    assert not is_running(started)
    assert processes.running_process("it", tmp_path / "run") is None
    assert processes.stop("it", tmp_path / "run") is False


def open_files(pid: int) -> set[str]:
    """The open files of a process. It opens and closes files while it starts."""
    files = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            files.add(str(descriptor.readlink()))
    return files


def test_a_service_inherits_no_open_file(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as lock:
        os.set_inheritable(lock.fileno(), True)
        started = start(tmp_path, SLEEP)
        files = open_files(started.pid)
        processes.stop("it", tmp_path / "run")
    assert str(tmp_path / "lock") not in files


def test_another_process_with_the_same_id_is_not_signalled(tmp_path: Path) -> None:
    other = subprocess.Popen(SLEEP)
    try:
        process = identify(other.pid)
        assert process is not None
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        record = {"pid": process.pid, "started": process.started - 1, "boot": boot, "was_ready": True}
        (tmp_path / "it.json").write_text(json.dumps(record))
        assert processes.members("it", tmp_path) == []
        assert processes.stop("it", tmp_path) is False
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_stopping_ends_children_that_ignore_sigterm(tmp_path: Path) -> None:
    child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    parent = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(600)"
    started = start(tmp_path, [sys.executable, "-c", parent])
    until(lambda: len(processes.in_session(started.pid)) == 2)
    processes.stop("it", tmp_path / "run", grace=1.0)
    assert processes.in_session(started.pid) == []


CHILD_WITHOUT_MARK = (
    f"import subprocess, time; subprocess.Popen({SLEEP!r}, env={{}}); open('ready', 'w').close(); time.sleep(600)"
)
"""A service whose child lacks the stack's mark in its environment, like children of Airflow that set their title."""


@pytest.fixture
def orphan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    """The child of a service whose first process was killed."""
    monkeypatch.chdir(tmp_path)
    parent = start(tmp_path, [sys.executable, "-c", CHILD_WITHOUT_MARK])
    until((tmp_path / "ready").exists)
    (child,) = (process for process in processes.in_session(parent.pid) if process != parent)
    os.kill(parent.pid, signal.SIGKILL)
    until(lambda: not is_running(parent))
    yield child
    if is_running(child):
        os.kill(child.pid, signal.SIGKILL)


def test_children_of_a_killed_service_are_found_and_stopped(tmp_path: Path, orphan: Process) -> None:
    run = tmp_path / "run"
    assert processes.running_process("it", run) is None
    assert processes.members("it", run) == [orphan]
    assert processes.stop("it", run) is True
    assert not is_running(orphan)
    assert processes.stop("it", run) is False


def test_a_start_ends_leftovers_of_an_earlier_start(tmp_path: Path, orphan: Process) -> None:
    started = start(tmp_path, SLEEP)
    try:
        assert not is_running(orphan)
        assert processes.members("it", tmp_path / "run") == [started]
    finally:
        processes.stop("it", tmp_path / "run")


def test_a_session_of_an_earlier_boot_is_ignored(tmp_path: Path, orphan: Process) -> None:
    path = tmp_path / "run/it.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "boot": "another"}))
    assert processes.members("it", tmp_path / "run") == []
    assert is_running(orphan)


def test_readiness_is_recorded_for_one_process(tmp_path: Path) -> None:
    run = tmp_path / "run"
    start(tmp_path, SLEEP)
    assert processes.was_ready("it", run) is False
    processes.record_ready("it", run)
    assert processes.was_ready("it", run) is True
    processes.stop("it", run)
    start(tmp_path, SLEEP)
    assert processes.was_ready("it", run) is False
    processes.stop("it", run)


def test_the_start_time_of_a_process_is_known(tmp_path: Path) -> None:
    before = datetime.now(UTC)
    started = start(tmp_path, SLEEP)
    after = datetime.now(UTC)
    processes.stop("it", tmp_path / "run")
    tick = timedelta(seconds=1 / os.sysconf("SC_CLK_TCK"))
    assert before - tick <= processes.started_at(started) <= after


def test_processes_in_other_sessions_are_found_by_the_stacks_mark(tmp_path: Path) -> None:
    mark = f"mark-{os.getpid()}"
    program = f"import subprocess, time; subprocess.Popen({SLEEP!r}, start_new_session=True); time.sleep(600)"
    started = start(tmp_path, [sys.executable, "-c", program], **{processes.MARK: mark})
    until(lambda: len(processes.marked(mark)) == 2)
    processes.stop("it", tmp_path / "run")
    assert not is_running(started)
    assert len(processes.marked(mark)) == 1
    processes.end_all(lambda: processes.marked(mark), 2.0)
    assert processes.marked(mark) == []


def test_the_error_of_a_step_has_its_name_its_log_and_the_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "logs/step.log"
    command = [sys.executable, "-c", "import sys; sys.exit('the disk is full')"]
    with pytest.raises(ServiceFailedError) as raised:
        run_step("simulate", command, os.environ, log, tmp_path)
    message = str(raised.value)
    assert message.startswith("simulate: ended with exit code 1")
    assert "    the disk is full" in message
    assert str(log) in message
