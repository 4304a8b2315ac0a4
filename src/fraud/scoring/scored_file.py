"""Score a file of transactions in this process, without the lake and without Spark.

The file has the contract's columns. If it also has the three window features, these are used. Otherwise they are
computed from the rows of the file, as if each user's first transaction were in it.
"""

import gzip
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

from fraud.core.contract import OTHER
from fraud.core.features import WINDOW_FEATURES, WINDOW_NAMES
from fraud.errors import BadConfigError, BadInputError, UnavailableError
from fraud.features.engines.arrow_windows import window_values, with_windows
from fraud.ingest.landing import OPTIONAL, PARSE_ERROR, SCHEMAS, in_schema
from fraud.ingest.mapping.apply_mapping import in_landing_form
from fraud.ingest.mapping.mapping import ISO, CategoryText, Distance, Mapping, Number, Source, Text, Time
from fraud.ingest.source_file import pieces
from fraud.ingest.validation import in_contract, quarantine_reasons
from fraud.lake.dataset import put_atomically
from fraud.scoring.scorer import INPUT, ROWS_AT_ONCE, SCHEMA, Scorer
from fraud.uris import uri_of

KINDS: Final = (".parquet", ".csv")
_PARQUET: Final = b"PAR1"
_GZIP: Final = b"\x1f\x8b"
_TRANSACTION: Final = pa.schema([field for field in SCHEMAS["transactions"] if field.name != PARSE_ERROR])
_WINDOWS: Final = pa.schema([(f.name, pa.type_for_alias(f.dtype)) for f in WINDOW_FEATURES])
_ORDER: Final = [("event_timestamp", "ascending"), ("created_timestamp", "ascending"), ("transaction_id", "ascending")]
_POSITION: Final = "position"
_BAR: Final = 30


@dataclass(frozen=True, slots=True)
class FileScored:
    """Counts; rows_in = rows + rejected."""

    rows_in: int
    rows: int
    flagged: int
    rejected: Counter[str]
    windows_given: bool


def score_file(source: Path, target: Path, scorer: Scorer) -> FileScored:
    """Score `source` (CSV, also gzipped, or Parquet) into `target` (.csv or .parquet): SCHEMA rows in the same order.

    Rows that violate the contract are omitted and counted by reason. Raises BadInputError for a file that cannot be
    read as transactions, BadConfigError for another target suffix, UnavailableError when the target cannot be written.
    On an error the target is not changed.
    """
    if target.suffix not in KINDS:
        raise BadConfigError(f"--output {target}", expected="the suffix .csv or .parquet")
    table = _read(source)
    given = set(WINDOW_NAMES) <= set(table.column_names)
    usable, rejected = _usable(table)
    if not given:
        usable = _with_own_windows(usable)
    scored = []
    for rows in _with_progress(usable.select(INPUT.names).cast(INPUT), sys.stderr):
        scores, reasons = scorer.score(rows)
        scored.append(scores)
        rejected += reasons
    out = pa.concat_tables(scored) if scored else SCHEMA.empty_table()
    _write(out, target)
    return FileScored(table.num_rows, out.num_rows, pc.sum(out["is_fraud"]).as_py() or 0, rejected, given)


def _read(source: Path) -> pa.Table:
    """The rows in the landing schema, with the window features if the file has all three."""
    try:
        with source.open("rb") as file:
            if file.read(len(_PARQUET)) != _PARQUET:
                return _read_csv(source)
            table = pq.ParquetFile(file).read()
        windows = _WINDOWS if set(WINDOW_NAMES) <= set(table.column_names) else pa.schema([])
        return _beside(in_schema(str(source), "transactions", table), table, windows)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadInputError(
            f"{source} cannot be read", expected="a CSV (also gzipped) or Parquet file with the contract's columns",
            got=str(error), hint="see docs/batch.md",
        ) from error  # fmt: skip


class _ContractFile(Mapping):
    """The mapping of a CSV file with the contract's columns and the further columns `beside`."""

    beside: tuple[str, ...]

    @property
    def reads(self) -> tuple[str, ...]:
        return (*super().reads, *self.beside)


def _read_csv(source: Path) -> pa.Table:
    """Read as `fraud import` does: an unreadable value becomes null, with the reason in `parse_error`."""
    names = _header(source)
    if missing := [name for name in _TRANSACTION.names if name not in {*names, *OPTIONAL}]:
        raise BadInputError(
            f"{source} lacks {', '.join(missing)}", expected=", ".join(_TRANSACTION.names), got=", ".join(names),
            hint="fraud import converts other files to the contract",
        )  # fmt: skip
    windows = _WINDOWS if set(WINDOW_NAMES) <= set(names) else pa.schema([])
    category = {"column": "merchant_category"} if "merchant_category" in names else {"constant": OTHER}
    mapping = _ContractFile(
        name="contract", source=Source(format="csv"), beside=tuple(windows.names),
        transaction_id=Text(column="transaction_id"), user_id=Text(column="user_id"),
        merchant_id=Text(column="merchant_id"), merchant_category=CategoryText.model_validate(category),
        amount=Number(column="amount"), event_timestamp=Time(column="event_timestamp", format=ISO),
        created_timestamp=Time(column="created_timestamp", format=ISO) if "created_timestamp" in names else None,
        distance_from_home=(
            Distance(column="distance_from_home", unit="miles") if "distance_from_home" in names else None
        ),
    )  # fmt: skip
    schema = pa.schema([*SCHEMAS["transactions"], *windows])
    read = [schema.empty_table()]
    for rows, broken in pieces(source, mapping):
        mapped = _beside(in_landing_form(mapping, rows), rows, windows)
        read += [mapped.select(schema.names).cast(schema), pa.table({PARSE_ERROR: pa.array(broken, pa.string())})]
    return pa.concat_tables(read, promote_options="default")


def _beside(landed: pa.Table, table: pa.Table, windows: pa.Schema) -> pa.Table:
    for field in windows:
        landed = landed.append_column(field, table[field.name].cast(field.type))
    return landed


def _header(source: Path) -> list[str]:
    with source.open("rb") as raw:
        zipped = raw.read(len(_GZIP)) == _GZIP
        raw.seek(0)
        with gzip.open(raw) if zipped else raw as content:
            line = content.readline()
    names: list[str] = csv.read_csv(pa.BufferReader(line)).column_names
    return names


def _usable(table: pa.Table) -> tuple[pa.Table, Counter[str]]:
    """The valid rows as ingest writes them, and the reasons of the others."""
    reasons = quarantine_reasons("transactions", table.select(SCHEMAS["transactions"].names), datetime.now(UTC))
    rejected = Counter(reasons.drop_null().to_pylist())
    rows = table.filter(pc.is_null(reasons))
    codes = rows["transaction_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    first = np.zeros(len(codes), dtype=np.bool_)
    first[np.unique(codes, return_index=True)[1]] = True
    if repeated := int((~first).sum()):
        rejected["duplicate transaction_id"] = repeated
    rows = rows.filter(pa.array(first))
    usable, _ = in_contract(rows)
    for name in WINDOW_NAMES:
        if name in rows.column_names:
            usable = usable.append_column(name, rows[name])
    return usable, rejected


def _with_own_windows(rows: pa.Table) -> pa.Table:
    """Add window features that are computed from these rows. The order of rows is kept."""
    ordered = rows.append_column(_POSITION, pa.array(range(rows.num_rows))).sort_by(_ORDER)
    return with_windows(ordered, window_values(ordered)).sort_by(_POSITION) if rows.num_rows else _empty(rows)


def _empty(rows: pa.Table) -> pa.Table:
    return pa.schema([*rows.schema, *_WINDOWS]).empty_table()


def _with_progress(rows: pa.Table, terminal: IO[str]) -> Iterator[pa.Table]:
    """The rows in pieces, with a progress bar on a terminal."""
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
        put_atomically(uri_of(target), sink.getvalue().to_pybytes())
    except OSError as error:
        raise UnavailableError(
            f"{target} cannot be written", got=str(error), hint="free some space, or choose another file"
        ) from error
