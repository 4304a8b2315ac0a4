"""`fraud score` as a process of its own, and what a fault in it leaves: whole days or none, and the same bytes after.

The table printed at the end is that of docs/batch.md.
"""

import datetime as dt
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import mlflow
import pytest

from fraud.core.plan import Plan
from fraud.errors import UnavailableError
from fraud.job import Context
from fraud.lake import catalog
from fraud.lake.dataset import Dataset
from fraud.registry.model_versions import MODEL_NAME, PRODUCTION
from fraud.scoring import score
from fraud.scoring.onnx_session import OnnxModel
from fraud.scoring.scorer import Scorer

LAST = dt.date(2026, 3, 9)
DAYS = [str(LAST - dt.timedelta(days=back)) for back in (1, 0)]
OBJECTS = 20
"""Per day: enough for a group of its own (score.SLICES_AT_ONCE), and a blow falls between two of them."""
HOLDS = """
import signal, sys
from fraud.cli import main
from fraud.lake import table

write_record = table.write_record

def write_and_hold(*arguments):
    write_record(*arguments)
    signal.pause()

table.write_record, sys.argv[0] = write_and_hold, "fraud"
main()
"""
"""`fraud` that stops in its first commit, between the record and the entry of the log, until it is killed."""
Make = Callable[..., Any]


def until(condition: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.01)


def _parent(pid: int) -> int:
    """0 for a process that has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


class Job:
    """A running `fraud score`, in a session of its own. `holds`: in its commit, which takes too short to be met."""

    def __init__(self, context: Context, master: str, log: Path, *, holds: bool = False) -> None:
        settings = context.settings
        env = {
            **os.environ, "FRAUD_HOME": str(settings.home), "FRAUD_PROJECT": str(settings.project),
            "FRAUD_MLFLOW_URL": settings.mlflow_url, "FRAUD_SPARK_MASTER": master,
        }  # fmt: skip
        self._lake, self._log = Path(settings.lake_uri.removeprefix("file://")), log
        fraud = [sys.executable, "-c", HOLDS] if holds else [str(Path(sys.executable).with_name("fraud"))]
        command = [*fraud, "score", f"--from={DAYS[0]}", f"--to={DAYS[1]}"]
        with log.open("wb") as sink:
            self.process = subprocess.Popen(command, env=env, stderr=sink, stdout=sink, start_new_session=True)

    def members(self, name: str = "", program: str = "", other: str = "\n") -> list[int]:
        """Processes of the session, zombies left out: `name` in the command line, which starts with a `program`.

        Those with `other` in the command line are left out, too.
        """
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
                line = stat.with_name("cmdline").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if (
                int(fields[3]) == self.process.pid
                and fields[0] != "Z"
                and name in line
                and other not in line
                and line.partition("\0")[0].endswith(program)
            ):
                found.append(int(stat.parent.name))
        return sorted(found)

    def strike(self, who: str, blow: signal.Signals) -> None:
        """Send the signal to a process of the job; to a Python worker while it has a task."""
        if who == "worker":
            until(self._killed_with_its_task, 60)
        else:
            os.kill(self.process.pid if who == "driver" else self.jvm()[-1], blow)

    def _killed_with_its_task(self) -> bool:
        """Kill the workers, unless an executor has reported that a task failed.

        A worker is kept for later tasks, and nothing fails when it is killed between two. The one that takes its place
        is forked for a task. The workers are listed before the log is read: the worker of a task's second try comes
        after the report of the first.
        """
        daemons = self.members("pyspark.daemon")
        workers = [pid for pid in daemons if _parent(pid) in daemons]
        if "Exception in task" in self._log.read_text():
            return True
        for pid in workers:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return False

    def jvm(self) -> list[int]:
        """Spark's JVM; the scripts and the launcher before it name the same class, and go by themselves."""
        return self.members("org.apache.spark.deploy.SparkSubmit", "/java", "org.apache.spark.launcher.Main")

    def reached(self, stage: str) -> bool:
        assert self.process.poll() is None, self._log.read_text()[-3000:]
        if stage == "starting":
            return bool(self.jvm())
        if stage == "scoring":
            return len(list(self._lake.glob("scores/dt=*/*.parquet"))) > 3
        return any(self._lake.glob("scores/_partitions/*"))


@pytest.fixture(scope="module")
def matrix(request: pytest.FixtureRequest) -> Iterator[list[tuple[str, ...]]]:
    rows: list[tuple[str, ...]] = []
    yield rows
    write_line = request.config.pluginmanager.getplugin("terminalreporter").write_line
    head = ("fault", "while", "exit code", "days published", "processes left", "after a rerun")
    for row in [head, *rows]:
        write_line(" | ".join(f"{cell:<23}" for cell in row))


@pytest.fixture
def expected(
    context: Context, features: Dataset, scores: Dataset, register: Make, features_of: Make, linear_model: Make,
    tmp_path: Path,
) -> list[list[str]]:  # fmt: skip
    """Two days to score; the names by content that each day's objects must have, computed without Spark."""
    register(linear_model())
    scorer = Scorer(OnnxModel(linear_model()), "1", Plan(context.declaration), 0.2)
    elsewhere = catalog.SCORES.at(f"file://{tmp_path}/other")
    names = []
    for day in DAYS:
        slices = [features_of(dt.date.fromisoformat(day), 100, seed=i) for i in range(OBJECTS)]
        features.publish(day, iter(slices))
        answers = [scorer.score(table.select(scorer.input.names).cast(scorer.input))[0] for table in slices]
        names.append([f"{scores.uri}/dt={day}/{elsewhere.put(day, table).name}" for table in answers])
    return names


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("spark")
@pytest.mark.parametrize(
    ("who", "stage", "blow", "master", "code"),
    [
        ("driver", "starting", signal.SIGKILL, "local[1]", -9),
        ("JVM", "starting", signal.SIGKILL, "local[1]", 75),
        ("driver", "scoring", signal.SIGKILL, "local[1]", -9),
        ("driver", "scoring", signal.SIGTERM, "local[1]", 143),
        ("JVM", "scoring", signal.SIGKILL, "local[1]", 75),
        ("worker", "scoring", signal.SIGKILL, "local[1]", 75),
        ("worker", "scoring", signal.SIGKILL, "local[1,4]", 0),
        ("driver", "publishing", signal.SIGKILL, "local[1]", -9),
    ],
)
def test_a_blow_leaves_whole_days_or_none_no_process_and_the_same_bytes_after_a_rerun(
    context: Context, expected: list[list[str]], scores: Dataset, matrix: list[tuple[str, ...]], tmp_path: Path,
    who: str, stage: str, blow: signal.Signals, master: str, code: int,
) -> None:  # fmt: skip
    job = Job(context, master, tmp_path / "log", holds=stage == "publishing")
    until(lambda: job.reached(stage), 240)
    job.strike(who, blow)
    assert job.process.wait(timeout=120) == code, (tmp_path / "log").read_text()[-3000:]
    until(lambda: not job.members(), 120)
    published = scores.partitions()
    assert published == (DAYS if code == 0 else [])
    for day in published:
        assert scores.object_uris(day) == expected[DAYS.index(day)]
    score.run(score.Config.model_validate({"from": DAYS[0], "to": DAYS[1]}), context)
    assert [scores.object_uris(day) for day in DAYS] == expected
    for day in DAYS:
        scores.verify(day)
    name = f"{blow.name} {who}" + (", 4 tries" if "," in master else "")
    matrix.append((name, stage, str(code), str(len(published)), "0", "byte-identical"))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("spark")
def test_the_alias_moved_while_tasks_run_leaves_one_version_in_every_day(
    context: Context, expected: list[list[str]], scores: Dataset, register: Make, linear_model: Make,
    matrix: list[tuple[str, ...]], tmp_path: Path,
) -> None:  # fmt: skip
    job = Job(context, "local[1]", tmp_path / "log")
    until(lambda: job.reached("scoring"), 240)
    second = register(linear_model(bias=-3.0))
    assert job.process.wait(timeout=120) == 0
    client = mlflow.MlflowClient(context.settings.mlflow_url)
    assert str(client.get_model_version_by_alias(MODEL_NAME, PRODUCTION).version) == second
    assert [scores.object_uris(day) for day in DAYS] == expected
    matrix.append(("alias moved", "scoring", "0", "2", "0", "one version"))


@contextmanager
def small_disk(at: Path, size: str) -> Iterator[None]:
    """A file system of its own at `at`; skips where this user may not mount one."""
    at.mkdir(parents=True)
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", at], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("a full disk needs one to fill, and mounting a small one needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", at], check=True)


@pytest.mark.usefixtures("spark")
@pytest.mark.parametrize(
    ("stage", "size"), [("scoring", "96k"), pytest.param("publishing", "4m", marks=pytest.mark.slow)]
)
def test_a_full_disk_publishes_nothing_and_with_room_again_the_bytes_are_the_same(
    context: Context, expected: list[list[str]], scores: Dataset, matrix: list[tuple[str, ...]],
    monkeypatch: pytest.MonkeyPatch, stage: str, size: str,
) -> None:  # fmt: skip
    folder = Path(scores.uri.removeprefix("file://"))
    config = score.Config.model_validate({"from": DAYS[0], "to": DAYS[1]})
    with small_disk(folder, size):
        commit = Dataset.commit

        def fill_then_commit(self: Dataset, *arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - commit's own
            with (folder / "filler").open("wb", buffering=0) as filler:
                while _room(filler.fileno()):
                    pass
            return commit(self, *arguments, **named)

        if stage == "publishing":
            monkeypatch.setattr(Dataset, "commit", fill_then_commit)
        with pytest.raises(UnavailableError, match="No space left on device"):
            score.run(config, context)
        assert scores.partitions() == []
        monkeypatch.undo()
        (folder / "filler").unlink(missing_ok=True)
        subprocess.run(["mount", "-o", "remount,size=16m", folder], check=True)
        score.run(config, context)
        assert [scores.object_uris(day) for day in DAYS] == expected
    matrix.append(("disk full", stage, "75", "0", "-", "byte-identical"))


def _room(file: int) -> bool:
    """Writes a page; False when there is no place for one."""
    try:
        return os.write(file, b"\0" * 4096) == 4096
    except OSError:
        return False
