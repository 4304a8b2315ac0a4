"""Score a file of transactions in this process, without the lake and without Spark.

The file has the contract's columns and the declared ones of the model version. If it also has all window features of
the version, these are used. Otherwise they are computed from the rows of the file, as if the first transaction of each
entity were in it. Daily features are used if the file has all of them. Otherwise they are empty, as before the first
snapshot.
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

from fraud.core.declaration import Declaration
from fraud.core.plan import Plan
from fraud.errors import BadConfigError, BadInputError, UnavailableError
from fraud.features.engines.arrow_windows import window_values
from fraud.ingest.landing import PARSE_ERROR, in_schema, required, schema
from fraud.ingest.mapping.apply_mapping import in_landing_form
from fraud.ingest.mapping.mapping import Mapping
from fraud.ingest.mapping.sections import ISO, Number, Source, Text, Time, section_of
from fraud.ingest.source_file import pieces
from fraud.ingest.validation import in_contract, quarantine_reasons
from fraud.lake import catalog
from fraud.lake.objects import put_atomically
from fraud.scoring.scorer import ROWS_AT_ONCE, SCHEMA, Scorer
from fraud.uris import uri_of

KINDS: Final = (".parquet", ".csv")
_PARQUET: Final = b"PAR1"
_GZIP: Final = b"\x1f\x8b"
GIVEN: Final = "columns of the file"
COMPUTED: Final = "computed from the rows of the file"
EMPTY: Final = "empty: the file has no columns for them"
NONE: Final = "the version has none"
_POSITION: Final = "position"
_BAR: Final = 30


@dataclass(frozen=True, slots=True)
class FileScored:
    """Counts; rows_in = rows + rejected."""

    rows_in: int
    rows: int
    flagged: int
    rejected: Counter[str]
    window_features: str
    """GIVEN, COMPUTED or NONE."""
    daily_features: str
    """GIVEN, EMPTY or NONE."""


def score_file(source: Path, target: Path, scorer: Scorer) -> FileScored:
    """Score `source` (CSV, also gzipped, or Parquet) into `target` (.csv or .parquet): SCHEMA rows in the same order.

    Rows that violate the contract are omitted and counted by reason. Raises BadInputError for a file that cannot be
    read as transactions, BadConfigError for another target suffix, UnavailableError when the target cannot be written.
    On an error the target is not changed.
    """
    if target.suffix not in KINDS:
        raise BadConfigError(f"--output {target}", expected="the suffix .csv or .parquet")
    plan = scorer.plan
    table = _read(source, plan)
    usable, rejected = _usable(table, plan)
    windows, daily = _window_names(plan), _daily_names(plan)
    if windows_computed := not set(windows) <= set(usable.column_names):
        usable = _with_own_windows(usable, plan)
    if daily_empty := not set(daily) <= set(usable.column_names):
        usable = _with_empty(usable, plan)
    scored = []
    for rows in _with_progress(usable.select(scorer.input.names).cast(scorer.input), sys.stderr):
        scores, reasons = scorer.score(rows)
        scored.append(scores)
        rejected += reasons
    out = pa.concat_tables(scored) if scored else SCHEMA.empty_table()
    _write(out, target)
    return FileScored(
        table.num_rows, out.num_rows, pc.sum(out["is_fraud"]).as_py() or 0, rejected,
        window_features=(COMPUTED if windows_computed else GIVEN) if windows else NONE,
        daily_features=(EMPTY if daily_empty else GIVEN) if daily else NONE,
    )  # fmt: skip


def _window_names(plan: Plan) -> list[str]:
    return [name for windows in plan.windows for name in windows.names]


def _daily_names(plan: Plan) -> list[str]:
    return [name for table in plan.tables for name in table.names]


def _given(names: list[str], plan: Plan) -> pa.Schema:
    """The features that a file with columns `names` gives: all window features, all daily ones, or both."""
    kinds = dict(catalog.feature_columns(plan.declaration))
    groups = [group for group in (_window_names(plan), _daily_names(plan)) if set(group) <= set(names)]
    return pa.schema([(name, kinds[name]) for group in groups for name in group])


def _read(source: Path, plan: Plan) -> pa.Table:
    """The rows in the landing schema, with the features that the file has."""
    try:
        with source.open("rb") as file:
            if file.read(len(_PARQUET)) != _PARQUET:
                return _read_csv(source, plan)
            table = pq.ParquetFile(file).read()
        rows = in_schema(str(source), "transactions", plan.declaration, table)
        return _beside(rows, table, _given(table.column_names, plan))
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


def _read_csv(source: Path, plan: Plan) -> pa.Table:
    """Read as `fraud import` does: an unreadable value becomes null, with the reason in `parse_error`."""
    names, landed = _header(source), schema("transactions", plan.declaration)
    if missing := [name for name in required("transactions") if name not in names]:
        raise BadInputError(
            f"{source} lacks {', '.join(missing)}", expected=", ".join(landed.names[:-1]), got=", ".join(names),
            hint="fraud import converts other files to the contract",
        )  # fmt: skip
    features = _given(names, plan)
    mapping = _mapping(names, tuple(features.names), plan.declaration)
    columns = pa.schema([*landed, *features])
    read = [columns.empty_table()]
    for rows, broken in pieces(source, mapping):
        mapped = _beside(in_landing_form(mapping, plan.declaration, rows), rows, features)
        read += [mapped.select(columns.names).cast(columns), pa.table({PARSE_ERROR: pa.array(broken, pa.string())})]
    return pa.concat_tables(read, promote_options="default")


def _mapping(names: list[str], beside: tuple[str, ...], declaration: Declaration) -> _ContractFile:
    """Each column is read from the column of its own name; numbers have the declared unit."""
    return _ContractFile(
        name="contract", source=Source(format="csv"), beside=beside,
        transaction_id=Text(column="transaction_id"), user_id=Text(column="user_id"),
        merchant_id=Text(column="merchant_id"), amount=Number(column="amount"),
        event_timestamp=Time(column="event_timestamp", format=ISO),
        created_timestamp=Time(column="created_timestamp", format=ISO) if "created_timestamp" in names else None,
        declared={
            name: section_of(column).model_validate({"column": name})
            for name, column in declaration.columns.items() if name in names
        },
    )  # fmt: skip


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


def _usable(table: pa.Table, plan: Plan) -> tuple[pa.Table, Counter[str]]:
    """The valid rows as ingest writes them, with the features of the file, and the reasons of the others."""
    landed = table.select(schema("transactions", plan.declaration).names)
    reasons = quarantine_reasons("transactions", plan.declaration, landed, datetime.now(UTC))
    rejected = Counter(reasons.drop_null().to_pylist())
    rows = table.filter(pc.is_null(reasons))
    codes = rows["transaction_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    first = np.zeros(len(codes), dtype=np.bool_)
    first[np.unique(codes, return_index=True)[1]] = True
    if repeated := int((~first).sum()):
        rejected["duplicate transaction_id"] = repeated
    rows = rows.filter(pa.array(first))
    usable, _ = in_contract(rows, plan.declaration)
    for name in table.column_names[landed.num_columns :]:
        usable = usable.append_column(name, rows[name])
    return usable, rejected


def _with_own_windows(rows: pa.Table, plan: Plan) -> pa.Table:
    """Add window features that are computed from these rows. The order of rows is kept."""
    kinds = dict(catalog.feature_columns(plan.declaration))
    if not rows.num_rows:
        return pa.schema([*rows.schema, *((name, kinds[name]) for name in _window_names(plan))]).empty_table()
    ordered = rows.append_column(_POSITION, pa.array(range(rows.num_rows))).sort_by(catalog.TRANSACTIONS.order)
    values = window_values(ordered, plan.declaration)
    for name in _window_names(plan):
        ordered = ordered.append_column(name, pa.array(values[name], from_pandas=True).cast(kinds[name]))
    return ordered.sort_by(_POSITION)


def _with_empty(rows: pa.Table, plan: Plan) -> pa.Table:
    """Add daily features as they are while no snapshot is published."""
    kinds = dict(catalog.feature_columns(plan.declaration))
    for table in plan.tables:
        for name, value in zip(table.names, table.empty, strict=True):
            kind = kinds[name]
            rows = rows.append_column(name, pa.repeat(pa.scalar(value, kind), rows.num_rows))
    return rows


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
