"""Services as processes: found again by a later command, never mistaken for a stranger, ended to the last child."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from fraud.embedded import processes
from fraud.embedded.processes import Process, ServiceFailedError, identify, is_running, run_step

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)


def start(tmp_path: Path, command: list[str], **env: str) -> Process:
    return processes.start("it", command, {**os.environ, **env}, tmp_path / "run", tmp_path / "it.log")


def test_a_service_is_found_again_and_stopped(tmp_path: Path) -> None:
    started = start(tmp_path, SLEEP)
    assert processes.remembered("it", tmp_path / "run") == started
    assert processes.stop("it", tmp_path / "run") is True
    assert not is_running(started)
    assert processes.remembered("it", tmp_path / "run") is None
    assert processes.stop("it", tmp_path / "run") is False


def open_files(pid: int) -> set[str]:
    """What a process holds open; it opens and closes files while it starts."""
    held = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            held.add(str(descriptor.readlink()))
    return held


def test_a_service_keeps_none_of_its_starters_files_open(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as lock:
        os.set_inheritable(lock.fileno(), True)
        started = start(tmp_path, SLEEP)
        held = open_files(started.pid)
        processes.stop("it", tmp_path / "run")
    assert str(tmp_path / "lock") not in held


def test_a_stranger_with_the_same_process_id_is_left_alone(tmp_path: Path) -> None:
    stranger = subprocess.Popen(SLEEP)
    try:
        known = identify(stranger.pid)
        assert known is not None
        (tmp_path / "it.json").write_text(json.dumps({"pid": known.pid, "started": known.started - 1}))
        assert processes.stop("it", tmp_path) is False
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_stopping_ends_children_that_ignore_being_asked(tmp_path: Path) -> None:
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    parent = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {deaf!r}]); time.sleep(600)"
    started = start(tmp_path, [sys.executable, "-c", parent])
    until(lambda: len(processes.in_session(started.pid)) == 2)
    processes.stop("it", tmp_path / "run", grace=1.0)
    assert processes.in_session(started.pid) == []


def test_what_a_service_started_elsewhere_is_found_by_the_stacks_mark(tmp_path: Path) -> None:
    mark = f"mark-{os.getpid()}"
    apart = f"import subprocess, time; subprocess.Popen({SLEEP!r}, start_new_session=True); time.sleep(600)"
    started = start(tmp_path, [sys.executable, "-c", apart], **{processes.MARK: mark})
    until(lambda: len(processes.marked(mark)) == 2)
    processes.stop("it", tmp_path / "run")
    assert not is_running(started)
    assert len(processes.marked(mark)) == 1
    processes.end_all(lambda: processes.marked(mark), 2.0)
    assert processes.marked(mark) == []


def test_a_failing_step_names_itself_its_log_and_the_logs_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "logs/step.log"
    command = [sys.executable, "-c", "import sys; sys.exit('the disk is full')"]
    with pytest.raises(ServiceFailedError) as raised:
        run_step("simulate", command, os.environ, log, tmp_path)
    message = str(raised.value)
    assert message.startswith("simulate: ended with exit code 1")
    assert "    the disk is full" in message
    assert str(log) in message
