"""Several processes commit to one table at once, in files and on S3: no commit is lost, no row doubled.

On S3 a commit is a PUT with `If-None-Match`, so this holds for a store that honours it, as the server here does.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Final

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from tests import s3

from fraud.lake.dataset import Dataset

WRITERS: Final = 3
COMMITS: Final = 8
START: Final = """
import json, sys
import pyarrow as pa
from fraud.lake.dataset import Dataset
from fraud.lake.table import ConflictError
things, writer, commits = Dataset(sys.argv[1], "things"), int(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
"""
OWN_DAYS: Final = (
    START
    + """
for n in range(commits):
    things.publish(f"2025-0{1 + writer}-{1 + n:02d}", pa.table({"n": [writer] * 10}))
print(json.dumps({"conflicts": 0}))
"""
)
NEW_DAYS: Final = (
    START
    + """
for n in range(commits):
    things.publish(f"2025-06-{1 + n:02d}", pa.table({"n": [writer] * 10}))
print(json.dumps({"conflicts": 0}))
"""
)
MERGES: Final = (
    START
    + """
conflicts = 0
for n in range(commits):
    while True:
        version = things.open()
        before = version.read("2025-03-01")["n"].to_pylist()
        made = things.written("2025-03-01", pa.table({"n": [*before, 100 * writer + n]}))
        try:
            things.commit([made], base=version.number)
            break
        except ConflictError:
            conflicts += 1
print(json.dumps({"conflicts": conflicts}))
"""
)


@pytest.fixture(scope="module", params=["files", pytest.param("s3", marks=pytest.mark.slow)])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One server for all tests."""
    folder = tmp_path_factory.mktemp("lakes")
    if request.param == "files":
        yield f"file://{folder}"
        return
    with s3.running(folder / "server") as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server.uri("lakes")


@pytest.fixture
def lake(base: str, request: pytest.FixtureRequest) -> str:
    return f"{base}/{request.function.__name__}"


def run(lake: str, script: str) -> list[int]:
    """Run the writers, which start together. The number of conflicts that each one had."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", script, lake, str(writer), str(COMMITS)], env=env, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) for writer in range(WRITERS)
    ]  # fmt: skip
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    ended = []
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        out, err = writer.communicate()
        assert writer.returncode == 0, err
        ended.append(int(json.loads(out)["conflicts"]))
    return ended


def rows(lake: str) -> int:
    options = {} if lake.startswith("file") else {"allow_http": "true"}
    found: int = DeltaTable(f"{lake}/things", storage_options=options).to_pyarrow_dataset().count_rows()
    return found


def test_writers_of_days_of_their_own_all_end_right(lake: str) -> None:
    run(lake, OWN_DAYS)
    version = Dataset(lake, "things").open()
    assert version.number == WRITERS * COMMITS - 1
    assert {day: version.read(day)["n"].to_pylist() for day in version.partitions()} == {
        f"2025-0{1 + writer}-{1 + n:02d}": [writer] * 10 for writer in range(WRITERS) for n in range(COMMITS)
    }
    assert rows(lake) == 10 * WRITERS * COMMITS


def test_writers_of_the_same_new_days_leave_the_rows_of_one_of_them(lake: str) -> None:
    run(lake, NEW_DAYS)
    version = Dataset(lake, "things").open()
    for day in version.partitions():
        assert len(set(version.read(day)["n"].to_pylist())) == 1
        assert version.verify(day).rows == 10
    assert rows(lake) == 10 * COMMITS


def test_of_writers_that_merge_into_the_same_day_none_loses_a_row(lake: str) -> None:
    Dataset(lake, "things").publish("2025-03-01", pa.table({"n": [-1]}))
    conflicts = run(lake, MERGES)
    merged = [100 * writer + n for writer in range(WRITERS) for n in range(COMMITS)]
    assert sorted(Dataset(lake, "things").read("2025-03-01")["n"].to_pylist()) == [-1, *merged]
    assert Dataset(lake, "things").open().number == WRITERS * COMMITS
    print(f"{lake[:4]}: {WRITERS} writers, {COMMITS} commits each, conflicts {conflicts}, 0 lost")
