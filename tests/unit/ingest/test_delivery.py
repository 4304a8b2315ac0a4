"""A delivery into the landing zone: named by content, whole or not at all."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest

from fraud.core.declaration import parse
from fraud.errors import BadInputError
from fraud.ingest.delivery import delivering, finish_deliveries
from fraud.ingest.landing import Feed, landed_files, schema

DECLARATION = parse({"features": [{"name": "amount", "kind": "request", "op": "column", "column": "amount"}]})
AT = datetime(2025, 3, 1, tzinfo=UTC)
FEEDS: tuple[Feed, ...] = ("transactions", "labels")


def labels(*ids: str) -> pa.Table:
    rows = [{"transaction_id": i, "is_fraud": False, "label_timestamp": AT, "parse_error": None} for i in ids]
    return pa.Table.from_pylist(rows, schema("labels", DECLARATION))


def transactions(*ids: str) -> pa.Table:
    row = {"event_timestamp": AT, "user_id": "u", "merchant_id": "m", "amount": 1.0}
    return pa.Table.from_pylist([{**row, "transaction_id": i} for i in ids], schema("transactions", DECLARATION))


def rows(landing: str) -> list[int]:
    return [sum(file.rows for file in landed_files(landing, feed)) for feed in FEEDS]


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_two_parts_of_a_day_are_two_files_and_the_same_bytes_one(tmp_path: Path) -> None:
    landing = f"file://{tmp_path}"
    for part in (["a", "b"], ["c"], ["a", "b"]):
        with delivering(landing) as delivery:
            sizes = [delivery.add("transactions", "2025-03-01", "shop", transactions(*part)) for _ in range(2)]
            assert sizes[1] == 0
            delivery.add("labels", "2025-03-01", "shop", labels(*part))
    assert sizes == [0, 0]
    assert rows(landing) == [3, 3]
    assert len(names(tmp_path)) == 4


def test_a_delivery_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with delivering(f"file://{tmp_path}") as delivery:
            delivery.add("transactions", "2025-03-01", "shop", transactions("a"))
            delivery.add("labels", "2025-03-01", "shop", labels("a"), held_back=True)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert names(tmp_path) == []


KILLED = """
import os, sys
from fraud.ingest import delivery
from tests_unit_io_test_delivery import labels, transactions

landing, deaths = sys.argv[1], int(sys.argv[2])
steps = 0

def dies_after(step):
    def stepped(*arguments, **named):
        global steps
        if steps == deaths:
            os._exit(9)
        steps += 1
        return step(*arguments, **named)
    return stepped

delivery.put_atomically = dies_after(delivery.put_atomically)
delivery._rename = dies_after(delivery._rename)
with delivery.delivering(landing) as made:
    made.add("transactions", "2025-03-01", "shop", transactions("a", "b"))
    made.add("transactions", "2025-03-02", "shop", transactions("c"))
    made.add("labels", "2025-03-02", "shop", labels("a"))
"""


@pytest.mark.parametrize("steps", range(8))
def test_killed_at_any_step_all_or_nothing_lands_and_a_rerun_is_one_delivery(tmp_path: Path, steps: int) -> None:
    """Three files, the list and three renames: seven steps, of which the first four make nothing visible."""
    (tmp_path / "tests_unit_io_test_delivery.py").write_bytes(Path(__file__).read_bytes())
    landing = f"file://{tmp_path}/landing"

    def deliver(deaths: int) -> int:
        command = [sys.executable, "-c", KILLED, landing, str(deaths)]
        return subprocess.run(command, env={"PYTHONPATH": str(tmp_path)}, check=False).returncode

    assert deliver(steps) == (9 if steps < 7 else 0)
    finish_deliveries(landing)  # as ingest does
    assert rows(landing) == ([3, 1] if steps >= 4 else [0, 0])
    assert deliver(-1) == 0
    assert rows(landing) == [3, 1]
    assert len(names(tmp_path / "landing")) == 3


def test_a_file_of_a_complete_delivery_that_is_gone_is_named(tmp_path: Path) -> None:
    (tmp_path / "_delivery-x.json").write_text('{"names": ["labels/dt=2025-03-01/shop-1.parquet"]}')
    with pytest.raises(BadInputError, match=r"shop-1\.parquet is missing"):
        finish_deliveries(f"file://{tmp_path}")


def test_an_object_store_gets_the_same_files(tmp_path: Path) -> None:
    store = "memory://delivery-test"
    for landing in (f"file://{tmp_path}", store):
        with delivering(landing) as delivery:
            delivery.add("transactions", "2025-03-01", "shop", transactions("a"))
            delivery.add("labels", "2025-03-01", "shop", labels("a"), held_back=True)
    found = fsspec.filesystem("memory").find("/delivery-test")
    assert [path.removeprefix("/delivery-test/") for path in found] == names(tmp_path)
