"""Datasets: a partition is replaced as a whole, and killed writers leave the old one or the new one."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pytest
import structlog
from deltalake import DeltaTable
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud.errors import BadConfigError, BadInputError
from fraud.lake import objects
from fraud.lake.dataset import Dataset
from fraud.lake.objects import put_atomically
from fraud.lake.table import ConflictError

rows = st.lists(st.tuples(st.text(max_size=5), st.floats(allow_nan=False)), max_size=20)


def table(values: list[tuple[str, float]]) -> pa.Table:
    return pa.table(
        {"id": pa.array([v[0] for v in values], pa.string()), "x": pa.array([v[1] for v in values], pa.float64())}
    )


def things_in(folder: Path) -> Dataset:
    return Dataset(f"file://{folder}", "things")


@given(contents=st.lists(rows, min_size=1, max_size=4))
@settings(max_examples=25, deadline=None)
def test_what_was_published_last_is_read_and_a_rerun_writes_the_same_bytes(
    contents: list[list[tuple[str, float]]],
) -> None:
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        for values in contents:
            made = things_in(Path(one)).publish("2025-03-01", table(values), {"made": "here"})
            assert things_in(Path(one)).read("2025-03-01").equals(table(values))
            assert made.rows == len(values)
        again = things_in(Path(two)).publish("2025-03-01", table(contents[-1]), {"made": "here"})
        assert again == made
        for uri in things_in(Path(two)).object_uris("2025-03-01"):
            name = Path(uri.removeprefix("file://")).relative_to(two)
            assert (Path(one) / name).read_bytes() == (Path(two) / name).read_bytes()


def test_large_partitions_are_cut_into_objects_and_read_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "ROWS_PER_OBJECT", 3)
    whole = table([(str(n), float(n)) for n in range(8)])
    made = things_in(tmp_path).publish("2025-03-01", whole)
    assert [o.rows for o in made.objects] == [3, 3, 2]
    assert things_in(tmp_path).read("2025-03-01").equals(whole)
    pieces = (whole.slice(start, 2) for start in range(0, 8, 2))
    assert things_in(tmp_path).publish("2025-03-01", pieces).rows == 8
    assert things_in(tmp_path).read("2025-03-01").combine_chunks().equals(whole)


def test_an_empty_partition_is_a_partition(tmp_path: Path) -> None:
    things_in(tmp_path).publish("2025-03-01", table([]))
    assert things_in(tmp_path).partitions() == ["2025-03-01"]
    assert things_in(tmp_path).read("2025-03-01").num_rows == 0


def test_ranges_are_inclusive_and_skip_what_is_not_there(tmp_path: Path) -> None:
    for day in ("2025-03-01", "2025-03-02", "2025-03-05"):
        things_in(tmp_path).publish(day, table([(day, 1.0)]))
    found = things_in(tmp_path).read_range("2025-03-02", "2025-03-05")
    assert found is not None
    assert found["id"].to_pylist() == ["2025-03-02", "2025-03-05"]
    assert things_in(tmp_path).read_range("2025-03-03", "2025-03-04") is None


def test_a_partition_that_never_was_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="things has no partition 2025-03-01"):
        things_in(tmp_path).read("2025-03-01")
    assert things_in(tmp_path).partition("2025-03-01") is None


def test_a_flipped_byte_is_found(tmp_path: Path) -> None:
    things_in(tmp_path).publish("2025-03-01", table([("a", 1.0)]))
    [uri] = things_in(tmp_path).object_uris("2025-03-01")
    path = Path(uri.removeprefix("file://"))
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadInputError, match="differs from the published object"):
        things_in(tmp_path).verify("2025-03-01")


def test_no_commit_is_made_when_nothing_changed(tmp_path: Path) -> None:
    things_in(tmp_path).publish("2025-03-01", table([("a", 1.0)]), {"b": "2", "a": "1"})
    things_in(tmp_path).publish("2025-03-01", table([("a", 1.0)]), {"a": "1", "b": "2"})
    assert things_in(tmp_path).commit([]) == 0
    assert things_in(tmp_path).open().number == 0
    things_in(tmp_path).publish("2025-03-01", table([("a", 1.0)]), {"a": "2"})
    assert things_in(tmp_path).open().number == 1


PUBLISHER = """
import sys
import pyarrow as pa
from fraud.lake.dataset import Dataset
things = Dataset(sys.argv[1], "things")
print("up", flush=True)
n = 0
while True:
    things.publish("2025-03-01", pa.table({"n": [n] * 50_000}))
    n += 1
"""


def test_killed_while_publishing_a_reader_sees_one_whole_version(tmp_path: Path) -> None:
    for attempt in range(5):
        publisher = subprocess.Popen(
            [sys.executable, "-c", PUBLISHER, f"file://{tmp_path}"], stdout=subprocess.PIPE, text=True
        )
        assert publisher.stdout is not None
        publisher.stdout.readline()
        seen = things_in(tmp_path).open().number
        while things_in(tmp_path).open().number < seen + 2 + 11 * attempt:  # also at and after a checkpoint
            assert publisher.poll() is None, "the publisher died by itself"
        os.kill(publisher.pid, signal.SIGKILL)
        publisher.wait()
        publisher.stdout.close()
        verified = things_in(tmp_path).verify("2025-03-01")
        values = things_in(tmp_path).read("2025-03-01")["n"].unique().to_pylist()
        assert (verified.rows, len(values)) == (50_000, 1), f"attempt {attempt}"


def test_an_object_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    put_atomically(f"file://{tmp_path}/a/b.json", b"1")
    put_atomically(f"file://{tmp_path}/a/b.json", b"22")
    assert (tmp_path / "a/b.json").read_bytes() == b"22"
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b.json"]
    (tmp_path / "blocked").write_bytes(b"a file where a folder should be")
    with pytest.raises(OSError, match="blocked"):
        put_atomically(f"file://{tmp_path}/blocked/b.json", b"3")


def test_one_commit_replaces_many_partitions_and_older_versions_can_be_read(tmp_path: Path) -> None:
    things, days = things_in(tmp_path), [f"2025-03-{day:02}" for day in range(1, 31)]
    for n in (1, 2):
        things.commit(things.written(day, table([(day, float(n))]), {"n": str(n)}) for day in reversed(days))
    assert things.partitions() == days
    assert things.open().number == 1
    for n in (1, 2):
        version = things.open(n - 1)
        assert [version.read(day)["x"].to_pylist() for day in days] == [[float(n)]] * 30
        assert {partition.made_from["n"] for partition in version.contents.partitions.values()} == {str(n)}
    with pytest.raises(BadInputError, match="has no version 2"):
        things.open(2)


def test_what_was_made_from_survives_checkpoints_and_a_lost_log(tmp_path: Path) -> None:
    things = things_in(tmp_path)
    for n in range(60):
        things.publish(f"2025-03-{n % 28 + 1:02}", table([("a", float(n))]), {"n": str(n)})
    log = tmp_path / "things/_delta_log"
    newest = json.loads((log / "_last_checkpoint").read_text())["version"]
    for path in log.glob("*.json"):
        if int(path.stem) < newest:
            path.unlink()
    found = things.open()
    assert (found.number, len(found.partitions())) == (59, 28)
    assert found.contents.partitions["2025-03-04"].made_from == {"n": "59"}
    assert found.read("2025-03-04")["x"].to_pylist() == [59.0]


def test_columns_may_be_added_but_not_change_their_type(tmp_path: Path) -> None:
    things = things_in(tmp_path)
    things.publish("2025-03-01", table([("a", 1.0)]))
    things.publish("2025-03-02", pa.table({"x": [2.0], "values:y": [["b"]], "none": pa.nulls(1)}))
    with pytest.raises(BadInputError, match="column x of another type"):
        things.publish("2025-03-03", pa.table({"x": ["3"]}))
    read = DeltaTable(tmp_path / "things").to_pyarrow_table().sort_by("dt").to_pylist()
    assert read == [
        {"id": "a", "x": 1.0, "dt": date(2025, 3, 1), "values:y": None},
        {"id": None, "x": 2.0, "dt": date(2025, 3, 2), "values:y": ["b"]},
    ]
    assert things.open().read_as(
        "2025-03-01", pa.schema([("x", pa.float64()), ("values:y", pa.list_(pa.string()))])
    ).to_pylist() == [{"x": 1.0, "values:y": None}]


def test_writers_of_different_partitions_at_once_lose_nothing(tmp_path: Path) -> None:
    def publish(first: int) -> None:
        for n in range(first, first + 10):
            things_in(tmp_path).publish(f"2025-03-{n:02}", table([(str(n), float(n))]))

    with ThreadPoolExecutor(3) as writers:
        for done in [writers.submit(publish, first) for first in (1, 11, 21)]:
            done.result()
    things = things_in(tmp_path).open()
    assert (things.number, things.rows, len(things.partitions())) == (29, 30, 30)


def test_a_writer_that_merged_with_an_older_version_is_refused(tmp_path: Path) -> None:
    things = things_in(tmp_path)
    base = things.open()
    merged = things.written("2025-03-01", table([("a", 1.0)]))
    things.publish("2025-03-02", table([("b", 1.0)]))
    with pytest.raises(ConflictError, match="another job committed"):
        things.commit([merged], base.number)
    assert things.commit([merged], things.open().number) == 1
    assert things.commit([merged], base.number) == 1  # a rerun of what is published already


def test_partitions_are_dropped_and_expired_in_one_commit_each(tmp_path: Path) -> None:
    things, days = things_in(tmp_path), [f"2025-03-0{day}" for day in range(1, 8)]
    things.commit(things.written(day, table([(day, 1.0)])) for day in days)
    things.drop(days[5:])
    things.expire(days[2])
    things.expire(days[1])
    found = things.open()
    assert (found.number, found.partitions(), found.retention_watermark()) == (2, days[2:5], days[2])
    assert things.open(0).read(days[0]).num_rows == 1
    unreferenced = things.table.unreferenced(0)
    assert sorted(path.split("/")[0] for path in unreferenced) == [f"dt={day}" for day in (*days[:2], *days[5:])]
    assert things.table.unreferenced(1) == []


def test_a_table_that_another_program_changed_is_refused(tmp_path: Path) -> None:
    for n in (1, 2):
        things_in(tmp_path).publish("2025-03-01", (table([(str(i), float(n))]) for i in range(2)))
    DeltaTable(tmp_path / "things").optimize.compact()
    with pytest.raises(BadInputError, match="objects that this platform did not write"):
        things_in(tmp_path).partitions()


def test_a_folder_whose_name_delta_would_decode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadConfigError, match="%20"):
        things_in(tmp_path / "a%20b").publish("2025-03-01", table([]))


def test_a_commit_names_the_job_and_its_run(tmp_path: Path) -> None:
    with structlog.contextvars.bound_contextvars(job="ingest", run="17"):
        things_in(tmp_path).publish("2025-03-01", table([]))
    [commit] = things_in(tmp_path).table.history()
    assert (commit["version"], commit["job"], commit["run"]) == (0, "ingest", "17")


def test_the_time_of_publication_is_that_of_the_last_change(tmp_path: Path) -> None:
    things, at = things_in(tmp_path), datetime(2025, 3, 9, 4, 30, tzinfo=UTC)
    things.commit([things.written("2025-03-01", table([("a", 1.0)]))], at=at)
    things.publish("2025-03-01", table([("a", 1.0)]))
    things.publish("2025-03-02", table([("a", 1.0)]))
    published = things.table.published()
    assert published["2025-03-01"] == at < published["2025-03-02"]


def test_recorded_partitions_are_invisible_until_their_commit(tmp_path: Path) -> None:
    things = things_in(tmp_path)
    first, second = (things.written(f"2025-03-0{n}", table([(str(n), 1.0)]), {"n": str(n)}) for n in (1, 2))
    for partition in (first, second):
        things.stage(partition)
    assert things.partitions() == []
    assert things.staged() == {"2025-03-01": first, "2025-03-02": second}
    Path(things.uris_of(second)[0].removeprefix("file://")).unlink()
    assert things.staged() == {"2025-03-01": first}  # retention has removed the objects of the other one
    things.commit([first])
    assert things.partition("2025-03-01") == first
    assert "2025-03-01" not in things.staged()
