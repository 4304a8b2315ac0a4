"""The faults of a killed drill are undone by the next command: real processes, stopped and limited."""

import json
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fraud.embedded import processes
from fraud.embedded.fire_drill import undo
from fraud.embedded.fire_drill.undo import Undo
from fraud.embedded.processes import Process
from fraud.embedded.stack import Stack

DRILL = """
import os, signal, sys
from pathlib import Path
from fraud.embedded import processes
from fraud.embedded.fire_drill import undo
from fraud.embedded.stack import Stack
home, pid = Path(sys.argv[1]), int(sys.argv[2])
with undo.Undo(Stack(home, home, {}, "", {})).after(undo.stopped([processes.identify(pid)])):
    os.kill(pid, signal.SIGSTOP)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def victim() -> Iterator[Process]:
    with subprocess.Popen(["/bin/sleep", "60"]) as running:
        found = processes.identify(running.pid)
        assert found is not None
        yield found
        running.kill()


def stack(home: Path) -> Stack:
    return Stack(home, home, {}, "", {})


def state(process: Process) -> str:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]


def becomes(process: Process, expected: str) -> bool:
    deadline = time.monotonic() + 5
    while state(process) != expected and time.monotonic() < deadline:
        time.sleep(0.01)
    return state(process) == expected


def test_a_process_that_a_killed_drill_stopped_runs_again(tmp_path: Path, victim: Process) -> None:
    drill = subprocess.run([sys.executable, "-c", DRILL, str(tmp_path), str(victim.pid)], check=False)
    assert drill.returncode == -signal.SIGKILL
    assert becomes(victim, "T")
    assert Undo(stack(tmp_path)).repair_all() == ["stopped"]
    assert becomes(victim, "S")
    assert Undo(stack(tmp_path)).repair_all() == []


def test_a_fault_that_ends_leaves_no_entry(tmp_path: Path, victim: Process) -> None:
    before = resource.prlimit(victim.pid, resource.RLIMIT_FSIZE)
    with Undo(stack(tmp_path)).after(undo.limited(victim, before)):
        resource.prlimit(victim.pid, resource.RLIMIT_FSIZE, (1, before[1]))
    assert resource.prlimit(victim.pid, resource.RLIMIT_FSIZE) == before
    assert list(tmp_path.iterdir()) == []


def test_an_entry_that_needs_the_registry_is_kept_until_it_runs(tmp_path: Path, victim: Process) -> None:
    path = tmp_path / "drill-undo.json"
    path.write_text(json.dumps([undo.renamed("3", "4"), undo.stopped([victim])]))
    assert Undo(stack(tmp_path)).repair_all() == ["stopped"]
    assert json.loads(path.read_text()) == [undo.renamed("3", "4")]


def test_a_process_that_has_ended_is_not_signalled(tmp_path: Path, victim: Process) -> None:
    (tmp_path / "drill-undo.json").write_text(json.dumps([undo.stopped([Process(victim.pid, victim.started - 1)])]))
    stop_victim(victim)
    Undo(stack(tmp_path)).repair_all()
    assert state(victim) == "T"


def stop_victim(victim: Process) -> None:
    subprocess.run(["/bin/kill", "-STOP", str(victim.pid)], check=True)
    assert becomes(victim, "T")
