"""Datasets: a partition is replaced as a whole, and killed writers leave the old one or the new one."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud.errors import BadInputError
from fraud.lake import dataset
from fraud.lake.dataset import Dataset
from fraud.lake.objects import put_atomically

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
            manifest = things_in(Path(one)).publish("2025-03-01", table(values), {"made": "here"})
            assert things_in(Path(one)).read("2025-03-01").equals(table(values))
            assert manifest.rows == len(values)
        again = things_in(Path(two)).publish("2025-03-01", table(contents[-1]), {"made": "here"})
        assert again == manifest
        for uri in things_in(Path(two)).object_uris("2025-03-01"):
            name = Path(uri.removeprefix("file://")).relative_to(two)
            assert (Path(one) / name).read_bytes() == (Path(two) / name).read_bytes()


def test_large_partitions_are_cut_into_objects_and_read_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "ROWS_PER_OBJECT", 3)
    whole = table([(str(n), float(n)) for n in range(8)])
    manifest = things_in(tmp_path).publish("2025-03-01", whole)
    assert [o.rows for o in manifest.objects] == [3, 3, 2]
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


def test_nothing_is_written_when_nothing_changed(tmp_path: Path) -> None:
    things_in(tmp_path).publish("2025-03-01", table([("a", 1.0)]), {"b": "2", "a": "1"})
    manifest = tmp_path / "things/dt=2025-03-01/_manifest.json"
    before = manifest.stat().st_ino
    things_in(tmp_path).publish("2025-03-01", table([("a", 1.0)]), {"a": "1", "b": "2"})
    assert manifest.stat().st_ino == before


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
        manifest = tmp_path / "things/dt=2025-03-01/_manifest.json"
        seen = manifest.read_bytes() if manifest.exists() else b""
        while not manifest.exists() or manifest.read_bytes() == seen:
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


def test_a_manifest_says_what_it_was_made_from(tmp_path: Path) -> None:
    things_in(tmp_path).publish("2025-03-01", table([("a", 1.0)]), {"z": "26", "a": "1"})
    told = json.loads((tmp_path / "things/dt=2025-03-01/_manifest.json").read_text())
    assert list(told["made_from"]) == ["a", "z"]
    assert (told["dataset"], told["partition"], told["rows"]) == ("things", "2025-03-01", 1)
