"""A job is killed at every step of a commit: between the writes of objects, record, commit, checkpoint and clean-up.

kill_at.c counts the calls that change files, or send bytes to the object store, and kills the process at one of them.
Whatever the step, a reader sees the old version or the new one, and a rerun makes the table of a clean run.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import fsspec
import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from tests import s3

from fraud.lake.dataset import Dataset

SOURCE: Final = Path(__file__).with_name("kill_at.c")
COMMITS: Final = 18
"""Newest version of the table before the job that is killed, whose commit writes a checkpoint and cleans up the log."""
JOB: Final = """
import sys
from tests.integration.lake.test_kill_matrix import publish
from fraud.lake.dataset import Dataset
publish(Dataset(sys.argv[1], "things"), int(sys.argv[2]))
"""


def publish(things: Dataset, generation: int) -> int:
    """One commit over three days and one of their own; the version then."""
    days = ("2025-03-01", "2025-03-02", "2025-03-03", f"2025-04-0{1 + generation % 3}")
    return things.commit([things.written(day, rows(day, generation), {"made": str(generation)}) for day in days])


def rows(day: str, generation: int) -> pa.Table:
    return pa.table({"day": [day] * 20, "n": [generation] * 20})


def values(generation: int) -> dict[str, set[int]]:
    """The values of each day after a generation: the days of their own are kept."""
    own = {f"2025-04-0{1 + n % 3}": {n} for n in range(generation - 2, generation + 1)}
    return dict(sorted({**{f"2025-03-0{n}": {generation} for n in (1, 2, 3)}, **own}.items()))


class Kind(NamedTuple):
    """Where the table is: a template that is copied, and the environment with which the calls are counted."""

    base: str
    environment: dict[str, str]

    def copy(self, name: str) -> str:
        """URI of a lake with a copy of the template's table."""
        fs, path = fsspec.core.url_to_fs(self.base, use_listings_cache=False)
        if self.base.startswith("file"):
            shutil.copytree(f"{path}/template", f"{path}/{name}", copy_function=shutil.copy2)
        else:
            for found in fs.find(f"{path}/template"):
                fs.copy(found, found.replace("/template/", f"/{name}/"))
        return f"{self.base}/{name}"

    def job(self, lake: str, library: Path, at: int, count: Path) -> int:
        """Run the job and kill it at a step, 0 for never. Its exit code; `count` gets the number of steps."""
        env = os.environ | self.environment | {
            "LD_PRELOAD": str(library), "KILL_AT": str(at), "KILL_COUNT": str(count),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }  # fmt: skip
        command = [sys.executable, "-c", JOB, lake, str(COMMITS + 1)]
        done = subprocess.run(command, env=env, check=False, capture_output=True, text=True)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        return done.returncode


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("NOT TESTED: kills at every step of a commit. They need Linux and a C compiler")
    target = tmp_path_factory.mktemp("kill") / "kill_at.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", target, SOURCE, "-ldl"], check=True)
    return target


@pytest.fixture(scope="module", params=["files", pytest.param("s3", marks=pytest.mark.long)])
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kind]:
    folder = tmp_path_factory.mktemp("lake")
    if request.param == "files":
        yield Kind(f"file://{folder}", {"KILL_BELOW": str(folder)})
        return
    with s3.running(folder / "server") as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        port = urlsplit(server.environment["AWS_ENDPOINT_URL"]).port
        # The call is made first: what a request that was sent does, it does without its client too.
        yield Kind(server.uri("kills"), {"KILL_PORT": str(port), "KILL_AFTER": "1"})


def prepared(kind: Kind) -> None:
    """A table whose log is older than it is kept, so that the next checkpoint cleans it up."""
    things = Dataset(f"{kind.base}/template", "things")
    for generation in range(COMMITS + 1):
        assert publish(things, generation) == generation
    if kind.base.startswith("file"):
        log = Path(kind.base.removeprefix("file://")) / "template/things/_delta_log"
        for path in log.iterdir():
            os.utime(path, (time.time() - 90 * 86_400,) * 2)


def seen(uri: str) -> list[dict[str, set[int]]]:
    """The values of each day, read with the libraries that others use."""
    options = {} if uri.startswith("file") else {"allow_http": "true"}
    tables = (
        DeltaTable(uri, storage_options=options).to_pyarrow_dataset().to_table(),
        pl.scan_delta(uri, storage_options=options).collect().to_arrow(),
    )
    found = []
    for table in tables:
        days: dict[str, set[int]] = {}
        for row in table.select(["dt", "day", "n"]).to_pylist():
            assert str(row["dt"]) == row["day"]
            days.setdefault(row["day"], set()).add(row["n"])
        assert table.num_rows == 20 * len(days)
        found.append(dict(sorted(days.items())))
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_any_step_of_a_commit_readers_see_one_version_and_a_rerun_makes_the_table_of_a_clean_run(
    kind: Kind, library: Path, tmp_path: Path
) -> None:
    prepared(kind)
    lake = kind.copy("clean")
    assert kind.job(lake, library, 0, tmp_path / "count") == 0
    clean = Dataset(lake, "things").open()
    log = {name.rsplit(".", 1)[0] for name in names(f"{lake}/things/_delta_log")}
    steps = int((tmp_path / "count").read_text())
    assert clean.number == COMMITS + 1
    assert f"{COMMITS + 1:020d}.checkpoint" in log
    if kind.base.startswith("file"):
        assert f"{0:020d}" not in log, "the log was not cleaned up"
    outcomes = {"old": 0, "new": 0}

    def killed(at: int) -> None:
        own = kind.copy(f"killed{at}")
        assert kind.job(own, library, at, tmp_path / f"count{at}") == -signal.SIGKILL, f"step {at} of {steps}"
        one, other = seen(f"{own}/things")
        assert one == other, f"step {at} of {steps}"
        assert one in (values(COMMITS), values(COMMITS + 1)), f"step {at} of {steps}"
        outcomes["new" if one == values(COMMITS + 1) else "old"] += 1
        things = Dataset(own, "things")
        assert publish(things, COMMITS + 1) == COMMITS + 1, f"step {at} of {steps}"
        assert things.open().contents == clean.contents, f"step {at} of {steps}"
        assert seen(f"{own}/things") == [values(COMMITS + 1)] * 2
        assert publish(things, COMMITS + 2) == COMMITS + 2, f"the log goes on after step {at} of {steps}"
        version = things.open()
        assert [version.verify(day).rows for day in version.partitions()] == [20] * 6

    with ThreadPoolExecutor(max_workers=2) as pool:
        list(pool.map(killed, range(1, steps + 1)))
    print(f"{kind.base.split(':')[0]}: killed at {steps} steps: {json.dumps(outcomes)}, 0 mismatches")
    assert min(outcomes.values()) > 2


def names(uri: str) -> list[str]:
    fs, path = fsspec.core.url_to_fs(uri, use_listings_cache=False)
    return sorted(found.rsplit("/", 1)[-1] for found in fs.find(path))
