"""Two commands on one stack: the second one is refused, or ends the first; a killed command leaves no lock."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fraud.embedded import lock
from fraud.errors import UnavailableError

HOLD = """
import signal, sys
from pathlib import Path
from fraud.embedded import lock
with lock.exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    signal.pause()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another command that holds the lock of the stack."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_command_is_refused_with_the_process_of_the_first(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    with pytest.raises(UnavailableError, match=rf"process {holder.pid} \("), lock.exclusive(tmp_path):
        pass
    assert holder.poll() is None


def test_down_ends_the_running_command(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with lock.exclusive(tmp_path, end_other=True):
        assert holder.wait(10) == -signal.SIGTERM


def test_a_killed_command_releases_the_lock(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()
    with lock.exclusive(tmp_path):
        pass
    with lock.exclusive(tmp_path):  # a command that ended releases it too
        pass
