"""The command line: what it imports, what it prints, and how failures that are no bug of ours end."""

import os
import queue
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fraud.cli import still_running
from fraud.job_list import JOBS

FRAUD = str(Path(sys.executable).with_name("fraud"))
SLOW = "mlflow pandas onnx matplotlib numba dvc sklearn feast evidently pyspark duckdb pandera torch scipy"
"""What takes a second and more to import."""
HELP = f"""
import sys
import threading
from fraud import cli
sys.argv = ["fraud", "--help"]
try:
    cli.main()
finally:
    print(*sorted(set("{SLOW} pydantic structlog numpy pyarrow".split()) & sys.modules.keys()), file=sys.stderr)
"""
JOB_MODULES = f"""
import importlib, sys
from fraud.cli import still_running
from fraud.job_list import JOBS
for name in JOBS:
    importlib.import_module(JOBS[name].module)
print(*sorted(set("{SLOW}".split()) & sys.modules.keys()))
"""


def fraud(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([FRAUD, *arguments], capture_output=True, env={**os.environ, **environment}, check=False)


def test_help_imports_the_list_of_jobs_alone_and_glues_no_words() -> None:
    ended = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True)
    assert ended.stderr.split() == []
    listed = dict(re.fullmatch(r"  (\S+)  +(\S.*)", line).groups() for line in ended.stdout.splitlines()[3:])  # type: ignore[union-attr]
    assert listed == {name: job.help for name, job in JOBS.items()}


def test_flags_of_every_job_are_checked_before_anything_slow_is_imported() -> None:
    ended = subprocess.run([sys.executable, "-c", JOB_MODULES], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == []


def test_help_of_a_job_starts_with_what_it_does() -> None:
    assert b"Verify and print the promotion history, with the exports." in fraud("history", "--help").stdout


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"labels: [unclosed", "is not YAML in UTF-8"),
        (b"labels: {maturity_days: 7} # Pr\xe4mie", "is not YAML in UTF-8"),
        (b"", "the file as a whole"),
        (b"- a list", "the file as a whole"),
    ],
    ids=["not-yaml", "latin-1", "empty", "list"],
)
def test_parameters_that_cannot_be_read_are_a_configuration_error(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "params.yaml").write_bytes(content)
    ended = fraud("gates", FRAUD_PROJECT=str(tmp_path), FRAUD_HOME=str(tmp_path))
    assert (ended.returncode, b"Traceback" in ended.stderr) == (2, False)
    assert f"{tmp_path}/params.yaml" in ended.stderr.decode()
    assert problem in ended.stderr.decode()


@pytest.mark.skipif(os.getuid() != 0, reason="takes another user id, which root alone may")
def test_a_user_id_without_a_login_name_is_recorded_by_its_number() -> None:
    code = "import os, pwd; from fraud.settings import Settings; os.setuid(54321); print(Settings().actor)"
    names = ("LOGNAME", "USER", "LNAME", "USERNAME", "FRAUD_ACTOR")
    unnamed = {name: value for name, value in os.environ.items() if name not in names}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=unnamed, check=True)
    assert ended.stdout.strip() == "uid 54321"


def test_a_job_that_takes_long_is_not_silent() -> None:
    lines: queue.Queue[dict[str, object]] = queue.Queue()

    class Log:
        def info(self, event: str, **facts: object) -> None:
            lines.put({"event": event, **facts})

    with still_running(Log(), every_s=0.01):  # type: ignore[arg-type]
        told = [lines.get(timeout=30) for _ in range(2)]
    assert [line["event"] for line in told] == ["still running", "still running"]
    assert not [thread for thread in threading.enumerate() if "tell" in thread.name]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_without_a_character_gets_an_escape(encoding: str) -> None:
    ended = fraud("nothing-\u2713-\u00e9", PYTHONIOENCODING=encoding)
    assert ended.returncode == 2
    shown = {"ascii": r"nothing-\u2713-\xe9", "latin-1": "nothing-\\u2713-\xe9", "utf-8": "nothing-\u2713-\xe9"}
    assert shown[encoding].encode(encoding) in ended.stderr
