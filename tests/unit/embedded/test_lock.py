"""Two commands on one stack: the second names the first, or ends it; a killed one leaves no lock."""

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
with lock.alone(Path(sys.argv[1])):
    print("held", flush=True)
    signal.pause()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another command that works on the stack."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_command_is_refused_and_names_the_first(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(UnavailableError, match=rf"process {holder.pid} \("), lock.alone(tmp_path):
        pass
    assert holder.poll() is None


def test_down_ends_the_command_at_work(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with lock.alone(tmp_path, end_other=True):
        assert holder.wait(10) == -signal.SIGTERM


def test_a_killed_command_leaves_the_stack_free(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()
    with lock.alone(tmp_path):
        pass
    with lock.alone(tmp_path):  # nor does one that ended
        pass
