"""Reads tables with polars, pyarrow and DuckDB until its input ends: a process in which `fraud` is not importable.

Arguments: URIs of tables. Input: a line with the schema of each, then a line per round, which names the newest
generation that was committed before it. Output: one JSON line per round: reads and mismatches by library.
"""

import base64
import json
import sys
from collections.abc import Callable

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import DeltaTable
from generations import difference, generation_of
from pyarrow import fs


def with_polars(uri: str) -> pa.Table:
    return pl.scan_delta(uri).collect().to_arrow()


def dataset(path: str) -> ds.Dataset:
    """With a file system of pyarrow: docs/data.md says why."""
    return DeltaTable(path).to_pyarrow_dataset(filesystem=fs.SubTreeFileSystem(path, fs.LocalFileSystem()))


def with_pyarrow(uri: str) -> pa.Table:
    return dataset(uri).to_table()


def with_duckdb(uri: str) -> pa.Table:
    rows = dataset(uri)  # noqa: F841 - DuckDB finds it by its name
    return duckdb.sql("SELECT * FROM rows").to_arrow_table()


READERS: dict[str, Callable[[str], pa.Table]] = {
    "polars": with_polars, "pyarrow": with_pyarrow, "duckdb": with_duckdb,
}  # fmt: skip


def main() -> None:
    uris = sys.argv[1:]
    schemas = [pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text))) for text in json.loads(sys.stdin.readline())]
    newest: dict[tuple[str, str], int] = {}
    for line in sys.stdin:
        reads, mismatches = dict.fromkeys(READERS, 0), []
        for uri, schema in zip(uris, schemas, strict=True):
            for name, read in READERS.items():
                found = read(uri)
                reads[name] += 1
                wrong = difference(found, schema)
                generation = generation_of(found.sort_by("transaction_id"))
                if not wrong and generation < max(int(line), newest.get((uri, name), 0)):
                    wrong = f"generation {generation} after {line.strip()} was committed"
                newest[uri, name] = generation
                if wrong:
                    mismatches.append(f"{uri} with {name}: {wrong}")
        print(json.dumps({"reads": reads, "mismatches": mismatches, "fraud": "fraud" in sys.modules}), flush=True)


if __name__ == "__main__":
    main()
