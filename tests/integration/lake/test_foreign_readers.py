"""Others read the lake without our code, with polars, pyarrow and DuckDB: they see exactly the published rows.

A process publishes generation after generation of three days of `transactions`, `features` and `scores`, each in one
commit, and is killed again and again; another one, in which `fraud` cannot be imported, reads all the time.
"""

import base64
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from tests.served_answers import THREE

from fraud.lake import catalog

HERE: Final = Path(__file__).parent
TABLES: Final = (catalog.TRANSACTIONS, catalog.features(THREE.stored_hash), catalog.SCORES)
KILLS: Final = 6
ROUNDS: Final = 5
PUBLISHER: Final = """
import sys
from tests.integration.lake.test_foreign_readers import TABLES, publish
generation = int(sys.argv[2])
while True:
    for definition in TABLES:
        publish(definition, sys.argv[1], generation)
    print(generation, flush=True)
    generation += 1
"""


def publish(definition: catalog.DatasetDefinition, lake: str, generation: int) -> None:
    """One generation, in one commit."""
    from tests.integration.lake import generations  # noqa: PLC0415 - the reader imports it by its file

    dataset, schema = definition.at(lake), definition.schema(THREE)
    days = [(str(day), generations.table(schema, day, generation)) for day in generations.DAYS]
    dataset.commit([dataset.written(day, rows, {"generation": str(generation)}) for day, rows in days])


class Reader:
    """The reading process. A round reads every table with every library."""

    def __init__(self, lake: str) -> None:
        paths = [definition.at(lake).uri.removeprefix("file://") for definition in TABLES]
        environment = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"]}
        # -S: without site-packages' .pth files, by which `fraud` is installed.
        packages = [path for path in sys.path if path.endswith("site-packages")]
        environment["PYTHONPATH"] = os.pathsep.join([str(HERE), *packages])
        self._process = subprocess.Popen(
            [sys.executable, "-S", str(HERE / "foreign_reader.py"), *paths], env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        schemas = [bytes(definition.schema(THREE).serialize()) for definition in TABLES]
        self._write(json.dumps([base64.b64encode(schema).decode() for schema in schemas]))
        self.reads: dict[str, int] = {}
        self.mismatches: list[str] = []

    def start_round(self, committed: int) -> None:
        self._write(str(committed))

    def finish_round(self) -> None:
        assert self._process.stdout is not None
        found = json.loads(self._process.stdout.readline())
        assert found["fraud"] is False
        self.mismatches += found["mismatches"]
        for name, reads in found["reads"].items():
            self.reads[name] = self.reads.get(name, 0) + reads

    def end(self) -> None:
        self._process.communicate()
        assert self._process.returncode == 0

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()


@pytest.mark.timeout(300)
def test_others_read_exactly_the_published_rows_while_days_are_replaced_and_writers_killed(tmp_path: Path) -> None:
    lake, committed = f"file://{tmp_path}", 0
    for definition in TABLES:
        publish(definition, lake, 0)
    reader = Reader(lake)
    for _ in range(KILLS):
        publisher = subprocess.Popen(
            [sys.executable, "-c", PUBLISHER, lake, str(committed + 1)], stdout=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        assert publisher.stdout is not None
        for _ in range(ROUNDS):
            committed = int(publisher.stdout.readline())
            reader.start_round(committed)  # reads while the next generations are published
            reader.finish_round()
        os.kill(publisher.pid, signal.SIGKILL)  # at some point of a commit
        committed = max([committed, *map(int, publisher.stdout.read().split())])
        publisher.wait()
        publisher.stdout.close()
        reader.start_round(committed)
        reader.finish_round()
        committed = max(newest(lake), committed)
    reader.end()
    print(f"{committed} generations, {KILLS} kills; reads {json.dumps(reader.reads)}, "
          f"{len(reader.mismatches)} mismatches")  # fmt: skip
    assert reader.mismatches == []
    assert set(reader.reads.values()) == {KILLS * (ROUNDS + 1) * len(TABLES)}


def newest(lake: str) -> int:
    """The newest generation that any table has: a killed publisher may have committed it to some of them."""
    found = []
    for definition in TABLES:
        partition = definition.at(lake).partition("2025-03-01")
        assert partition is not None
        found.append(int(partition.made_from["generation"]))
    return max(found)
