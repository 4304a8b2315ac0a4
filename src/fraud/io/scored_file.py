"""One file of transactions in, the same rows with their scores out, in this process: no lake, no Spark.

The file has the contract's columns. Where it carries the three window features they are taken as they are, else
computed over the file's own rows, as for users whose first transaction is in it.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import csv

from fraud.core.contract import UNITS_PER_USD, amounts_units
from fraud.core.features import WINDOW_FEATURES, WINDOW_NAMES
from fraud.engines.arrow_windows import window_values, with_windows
from fraud.engines.scoring import INPUT, ROWS_AT_ONCE, SCHEMA, Scorer
from fraud.errors import BadConfigError, BadInputError, UnavailableError
from fraud.io.lake import put_atomically
from fraud.io.landing import OPTIONAL, PARSE_ERROR, SCHEMAS
from fraud.io.validation import quarantine_reasons

KINDS: Final = (".parquet", ".csv")
_TRANSACTION: Final = pa.schema([field for field in SCHEMAS["transactions"] if field.name != PARSE_ERROR])
_WINDOWS: Final = pa.schema([(f.name, pa.type_for_alias(f.dtype)) for f in WINDOW_FEATURES])
_ORDER: Final = [("event_timestamp", "ascending"), ("created_timestamp", "ascending"), ("transaction_id", "ascending")]
_POSITION: Final = "position"
_BAR: Final = 30


@dataclass(frozen=True, slots=True)
class FileScored:
    """rows_in = rows + the rejected."""

    rows_in: int
    rows: int
    flagged: int
    rejected: Counter[str]
    windows_given: bool


def score_file(source: Path, target: Path, scorer: Scorer) -> FileScored:
    """Score `source` into `target` (.csv, .csv.gz to read, or .parquet); SCHEMA rows in the order of the file.

    Rows that break the contract are left out and counted by reason. Raises BadInputError for a file that cannot be read
    as transactions, BadConfigError for another kind of file, UnavailableError when the target cannot be written; then
    there is no target, or the one before.
    """
    if target.suffix not in KINDS:
        raise BadConfigError(f"--output {target}", expected="a name that ends in .csv or .parquet")
    table = _read(source)
    given = set(WINDOW_NAMES) <= set(table.column_names)
    usable, rejected = _usable(table)
    if not given:
        usable = _with_own_windows(usable)
    scored = []
    for rows in _with_progress(usable.select(INPUT.names).cast(INPUT), sys.stderr):
        answers, reasons = scorer.score(rows)
        scored.append(answers)
        rejected += reasons
    out = pa.concat_tables(scored) if scored else SCHEMA.empty_table()
    _write(out, target)
    return FileScored(table.num_rows, out.num_rows, pc.sum(out["is_fraud"]).as_py() or 0, rejected, given)


def _read(source: Path) -> pa.Table:
    """The file as the contract's types, window features included where it has all three."""
    wanted = pa.schema([*_TRANSACTION, *_WINDOWS])
    try:
        with pa.input_stream(str(source)) if ".csv" in source.suffixes else source.open("rb") as file:
            table = _read_csv(file, wanted) if ".csv" in source.suffixes else pq.read_table(file)
        if missing := [name for name in _TRANSACTION.names if name not in {*table.column_names, *OPTIONAL}]:
            raise BadInputError(
                f"{source} lacks {', '.join(missing)}", expected=", ".join(_TRANSACTION.names),
                came=", ".join(table.column_names), do="fraud import maps other files to the contract",
            )  # fmt: skip
        windows = _WINDOWS if set(WINDOW_NAMES) <= set(table.column_names) else ()
        return pa.table(
            {
                field.name: table[field.name].cast(field.type)
                if field.name in table.column_names
                else pa.nulls(table.num_rows, field.type)
                for field in (*_TRANSACTION, *windows)
            }
        )
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadInputError(
            f"{source} cannot be read", expected="a CSV (also .gz) or Parquet file of the contract's columns",
            came=str(error), do="times are ISO 8601 with their zone; see docs/batch.md",
        ) from error  # fmt: skip


def _read_csv(file: IO[bytes], wanted: pa.Schema) -> pa.Table:
    return csv.read_csv(
        file,
        convert_options=csv.ConvertOptions(
            column_types={field.name: field.type for field in wanted}, null_values=[""], strings_can_be_null=True
        ),
    )


def _usable(table: pa.Table) -> tuple[pa.Table, Counter[str]]:
    """The rows that keep the contract, as every entrance makes them; and why the others do not."""
    landed = table.select(_TRANSACTION.names).append_column(PARSE_ERROR, pa.nulls(table.num_rows, pa.string()))
    reasons = pc.fill_null(quarantine_reasons("transactions", landed, datetime.now(UTC)), "")
    ids = table["transaction_id"].combine_chunks().dictionary_encode(null_encoding="encode").indices.to_numpy()
    repeated = np.ones(len(ids), dtype=np.bool_)
    repeated[np.unique(ids, return_index=True)[1]] = False
    good = pc.equal(reasons, "")
    reasons = pc.if_else(pc.and_(good, pa.array(repeated)), "transaction_id was there before", reasons)
    rejected = Counter(text for text in reasons.to_pylist() if text)
    rows = table.filter(pc.equal(reasons, ""))
    changed = {
        "created_timestamp": pc.coalesce(rows["created_timestamp"], rows["event_timestamp"]),
        "amount": pa.array(amounts_units(rows["amount"].to_numpy()) / UNITS_PER_USD),
        "distance_from_home": pc.if_else(pc.is_nan(rows["distance_from_home"]), None, rows["distance_from_home"]),
    }
    return pa.table({name: changed.get(name, rows[name]) for name in rows.column_names}), rejected


def _with_own_windows(rows: pa.Table) -> pa.Table:
    """The window features over these rows alone, in their order."""
    ordered = rows.append_column(_POSITION, pa.array(range(rows.num_rows))).sort_by(_ORDER)
    return with_windows(ordered, window_values(ordered)).sort_by(_POSITION) if rows.num_rows else _empty(rows)


def _empty(rows: pa.Table) -> pa.Table:
    return pa.schema([*rows.schema, *_WINDOWS]).empty_table()


def _with_progress(rows: pa.Table, terminal: IO[str]) -> Iterator[pa.Table]:
    """The rows in pieces; where a person looks on, a bar that says how far it is."""
    for start in range(0, rows.num_rows, ROWS_AT_ONCE):
        yield rows.slice(start, ROWS_AT_ONCE)
        if terminal.isatty():
            done = min(start + ROWS_AT_ONCE, rows.num_rows)
            filled = "#" * (_BAR * done // rows.num_rows)
            end = "\n" if done == rows.num_rows else ""
            print(f"\r[{filled:<{_BAR}}] {done:,} of {rows.num_rows:,} rows", end=end, file=terminal, flush=True)


def _write(scored: pa.Table, target: Path) -> None:
    sink = pa.BufferOutputStream()
    if target.suffix == ".csv":
        csv.write_csv(scored, sink)
    else:
        pq.write_table(scored, sink, compression="zstd")
    try:
        put_atomically(target.resolve().as_uri(), sink.getvalue().to_pybytes())
    except OSError as error:
        raise UnavailableError(
            f"{target} cannot be written", came=str(error), do="make room, or name another"
        ) from error
