"""Measurements of a stack's disk, databases and processes."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.soak import resources

from fraud.embedded import processes
from fraud.embedded.stack import Stack
from fraud.settings import Settings

READS = "import sys; print('up', flush=True); sys.stdin.read()"


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    project = tmp_path / "project"
    project.mkdir()
    return Stack.open(Settings(home=tmp_path / "home", project=project), usual_ports=False)


@pytest.fixture
def stray(stack: Stack) -> Iterator[subprocess.Popen[bytes]]:
    """A process with the stack's mark that belongs to no service."""
    env = {"PATH": os.defpath, processes.MARK: stack.mark}
    with subprocess.Popen(
        [sys.executable, "-c", READS], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as made:
        assert made.stdout is not None
        assert made.stdout.readline() == b"up\n"
        yield made
        made.kill()


def test_a_stray_process_is_an_orphan(stack: Stack, stray: subprocess.Popen[bytes]) -> None:
    (found,) = resources.orphans(stack)
    assert found.startswith(f"{stray.pid} ")
    assert "sys.stdin.read" in found


def test_a_service_is_no_orphan(stack: Stack, tmp_path: Path) -> None:
    env = {"PATH": os.defpath, processes.MARK: stack.mark}
    command = [sys.executable, "-c", "import time\nprint('up', flush=True)\nwhile True: time.sleep(60)"]
    first = processes.start("serving", command, env, stack.run, tmp_path / "log")
    try:
        while not (tmp_path / "log").read_text():  # before that it has hardly any memory
            assert processes.is_running(first)
        assert resources.orphans(stack) == []
        usage = resources.measure(stack, tmp_path / "absent")
        service = usage.services["serving"]
        assert (service.started, service.processes) == (first.started, 1)
        assert 1 < service.memory_mb < 100
        assert service.open_files >= 3
        assert resources.Usage.of(usage.as_dict()) == usage
    finally:
        processes.stop("serving", stack.run, grace=1.0)


def test_sizes_are_of_the_files_and_hard_links_count_once(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "a").write_bytes(bytes(1_500_000))
    (tmp_path / "inner/b").write_bytes(bytes(500_000))
    (tmp_path / "inner/c").hardlink_to(tmp_path / "a")
    assert resources.size_mb(tmp_path) == 2.0
    assert resources.size_mb(tmp_path / "a") == 1.5


def test_rows_of_all_tables_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "some.db"
    assert resources.rows_of(path) is None
    with closing(sqlite3.connect(path)) as database:
        database.executescript(
            "CREATE TABLE a (x); CREATE TABLE b (x); INSERT INTO a VALUES (1), (2); INSERT INTO b VALUES (1)"
        )
    assert resources.rows_of(path) == 3
