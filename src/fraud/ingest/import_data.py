"""Import CSV or Parquet files of a source into the landing zone, using a mapping.

The source is read and mapped in pieces into a table on disk, sorted by day there, and written as one landing file per
day. It is never in memory as a whole. Nothing lands unless the whole source can be read.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from fraud.core.declaration import Declaration
from fraud.errors import BadInputError
from fraud.ingest.delivery import delivering
from fraud.ingest.landing import NO_DAY, PARSE_ERROR, Feed, schema
from fraud.job import Context, JobConfig, JobResult

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from fraud.ingest.mapping.mapping import Mapping

SORT_MEMORY: Final = "512MB"
_LABEL_ERROR: Final = "_label_error"
_LOG_EVERY_ROWS: Final = 1_000_000
_ROWS_PER_READ: Final = 100_000
_DAY_OF: Final[dict[Feed, str]] = {"transactions": "event_timestamp", "labels": "label_timestamp"}


class Config(JobConfig):
    """The source and its mapping."""

    source: str = Field(
        description="path or URI of CSV (also .gz, .bz2, .zst, .zip) or Parquet: a file, a folder or a glob pattern"
    )
    mapping: Path = Field(description="YAML file that maps its columns to the contract; see docs/data.md")
    out: str = Field(default="", description="URI of the landing zone; default FRAUD_LANDING_URI")
    hold_back_days: int = Field(
        default=0, ge=0, description="write the last days, and labels from then on, to held_back/"
    )
    check: bool = Field(
        default=False, description="read the first 1,000 rows, print the mapped values, and land nothing"
    )


class Result(JobResult):
    """rows_in = transactions + held_back_transactions + known_transactions. Unreadable rows are included.

    `transactions` and `labels` are the rows of new files in the landing zone.
    """

    rows_in: int
    transactions: int
    labels: int
    held_back_transactions: int
    held_back_labels: int
    known_transactions: int
    """Rows of files that the landing zone already contained, byte for byte."""
    known_labels: int
    unreadable: int
    """Transactions with a `parse_error`. Ingest quarantines them."""
    unreadable_labels: int
    """Labels with a `parse_error`."""
    without_day: int
    """Rows whose event time is missing or unreadable. They land under dt=unknown."""
    first_day: str
    last_day: str
    """Last landed day, without held-back days."""
    files: int
    """Number of new files; `bytes` is their size."""
    bytes: int


class MappingCheck(JobResult):
    """Result of `check`: the first rows, mapped."""

    source: str
    mapping: str
    rows: int
    unreadable: int
    labels: int
    unreadable_labels: int
    columns: list[dict[str, str | int]]
    """For each column of the contract: `column`, `reads`, `read`, `null`, `unreadable`, `example`."""
    reasons: list[str]
    """Reasons of the first unreadable rows and labels."""

    def as_text(self) -> str:
        """Counts, a table of the columns, and reasons."""
        headings = ("column", "reads", "read", "null", "unreadable", "example")
        cells = [headings, *(tuple(_shown(column[name]) for name in headings) for column in self.columns)]
        widths = [max(len(row[place]) for row in cells) for place in range(len(headings))]
        numeric = (2, 3, 4)
        table = [
            "  ".join(
                text.rjust(width) if place in numeric else text.ljust(width)
                for place, (text, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in cells
        ]
        head = (
            f"The first {self.rows:,} rows of {self.source}, read by mapping {self.mapping}: {self.unreadable:,} rows "
            f"and {self.unreadable_labels:,} of {self.labels:,} labels are unreadable. Nothing was landed."
        )
        return "\n".join([head, "", *table, *(["", "Unreadable:"] if self.reasons else []), *self.reasons])


def _shown(cell: str | int) -> str:
    return cell if isinstance(cell, str) else f"{cell:,}"


def run(config: Config, context: Context) -> Result | MappingCheck:
    """Import one source, or with `check` read its first rows.

    Raises BadConfigError for an invalid mapping, BadInputError for an unusable source or one without a readable row or
    label, UnavailableError when its store does not answer.
    """
    import duckdb  # noqa: PLC0415 - importing it takes 0.2 s

    from fraud.ingest.mapping.mapping import Mapping  # noqa: PLC0415

    mapping = Mapping.load(config.mapping, context.declaration)
    with tempfile.TemporaryDirectory(prefix="fraud-import-") as folder:
        if config.check:
            return _check(config, mapping, context.declaration, Path(folder))
        limits = {"memory_limit": SORT_MEMORY, "temp_directory": folder}
        with duckdb.connect(f"{folder}/rows.duckdb", config=limits) as rows:
            rows.execute("SET TimeZone = 'UTC'")
            rows_in = _spool(config, mapping, Path(folder), rows, context)
            return _land(config, mapping, rows, rows_in, context)


def _check(config: Config, mapping: "Mapping", declaration: Declaration, folder: Path) -> MappingCheck:
    from fraud.ingest.mapping.mapping_check import check_mapping  # noqa: PLC0415 - pandas

    readable, columns = check_mapping(config.source, mapping, declaration, folder)
    return MappingCheck(
        source=config.source, mapping=mapping.name, rows=readable.rows, unreadable=readable.unreadable,
        labels=readable.labels, unreadable_labels=readable.unreadable_labels,
        columns=[column._asdict() for column in columns], reasons=readable.reasons,
    )  # fmt: skip


def _spool(
    config: Config, mapping: "Mapping", folder: Path, rows: "DuckDBPyConnection", context: Context
) -> int:  # fmt: skip
    """Map all rows into the table `mapped`, numbered in order. Returns the number of rows.

    Raises BadInputError when no row, or no label, is readable.
    """
    from fraud.ingest.mapping.mapped_rows import Readable, mapped_pieces  # noqa: PLC0415 - pandas

    readable = Readable(config.source)
    for piece in mapped_pieces(config.source, mapping, context.declaration, folder):
        first = readable.rows
        readable.add(piece.mapped)
        numbered = piece.mapped.append_column("_position", pa.array(range(first, readable.rows)))
        rows.register("piece", numbered)
        rows.execute("CREATE TABLE IF NOT EXISTS mapped AS FROM piece LIMIT 0")
        rows.execute("INSERT INTO mapped FROM piece")
        rows.unregister("piece")
        if readable.rows // _LOG_EVERY_ROWS > first // _LOG_EVERY_ROWS:
            context.log.info("rows read", rows=readable.rows)
    readable.check_any()
    return readable.rows


@dataclass
class _Landed:
    """Counts of the written rows and files."""

    transactions: int = 0
    labels: int = 0
    held_back_transactions: int = 0
    held_back_labels: int = 0
    known_transactions: int = 0
    known_labels: int = 0
    files: int = 0
    bytes: int = 0

    def add(self, feed: Feed, rows: int, size: int, *, held_back: bool) -> None:
        prefix = "known_" if not size else "held_back_" if held_back else ""
        setattr(self, prefix + feed, getattr(self, prefix + feed) + rows)
        self.files += size > 0
        self.bytes += size


def _land(
    config: Config, mapping: "Mapping", rows: "DuckDBPyConnection", rows_in: int, context: Context
) -> Result:  # fmt: skip
    days = [
        day for (day,) in rows.sql("SELECT DISTINCT event_timestamp::DATE AS day FROM mapped ORDER BY 1").fetchall()
    ]
    first_held = _first_held_back(days, config.hold_back_days)
    landed = _Landed()
    feeds: tuple[Feed, ...] = ("transactions", "labels")
    with delivering(config.out or context.settings.landing_uri) as delivery:
        for feed in feeds:
            for day, table in _by_day(rows, feed, schema(feed, context.declaration)):
                held = first_held is not None and day is not None and day >= first_held
                size = delivery.add(
                    feed, day.isoformat() if day else NO_DAY, mapping.name, table, held_back=held
                )  # fmt: skip
                landed.add(feed, table.num_rows, size, held_back=held)
            context.log.info("feed written", feed=feed, files=landed.files)
        if landed.transactions + landed.held_back_transactions + landed.known_transactions != rows_in:
            raise BadInputError(
                f"the counts of {config.source} do not add up", expected=f"{rows_in} rows",
                got=f"{landed.transactions} landed, {landed.held_back_transactions} held back, "
                f"{landed.known_transactions} landed before",
            )  # fmt: skip
    [(unreadable, unreadable_labels, without_day)] = rows.sql(
        f"SELECT count({PARSE_ERROR}), count({_LABEL_ERROR}), count(*) - count(event_timestamp) FROM mapped"  # noqa: S608
    ).fetchall()
    kept = [day for day in days if day is not None and (first_held is None or day < first_held)]
    return Result(
        rows_in=rows_in, transactions=landed.transactions, labels=landed.labels,
        held_back_transactions=landed.held_back_transactions, held_back_labels=landed.held_back_labels,
        known_transactions=landed.known_transactions, known_labels=landed.known_labels, unreadable=unreadable,
        unreadable_labels=unreadable_labels, without_day=without_day, first_day=str(min(kept, default="")),
        last_day=str(max(kept, default="")),
        files=landed.files, bytes=landed.bytes,
    )  # fmt: skip


def _first_held_back(days: list[date | None], hold_back: int) -> date | None:
    """The first held-back day, counted back from the last day that is not in the future.

    Raises BadInputError when no day would be left to land.
    """
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)
    past = [day for day in days if day is not None and day <= tomorrow]
    if not hold_back or not past:
        return None
    first = max(past) - timedelta(days=hold_back - 1)
    if first <= min(past):
        raise BadInputError(
            "no day would be left to land", expected=f"fewer than {hold_back} days held back",
            got=f"a file from {min(past)} to {max(past)}",
        )  # fmt: skip
    return first


def _by_day(rows: "DuckDBPyConnection", feed: Feed, landed: pa.Schema) -> Iterator[tuple[date | None, pa.Table]]:
    """The rows of a feed by UTC day, in the source's order and the schema `landed`. The day of rows without a time is
    None."""
    chosen = {name: f'"{name}"' for name in landed.names}
    only = ""
    if feed == "labels":
        chosen[PARSE_ERROR] = f"{_LABEL_ERROR} AS {PARSE_ERROR}"
        only = f"WHERE is_fraud IS NOT NULL OR {_LABEL_ERROR} IS NOT NULL"
    reader = rows.sql(
        f"SELECT {', '.join(chosen.values())}, {_DAY_OF[feed]}::DATE AS _day, _position FROM mapped {only} "  # noqa: S608
        "ORDER BY _day NULLS LAST, _position"
    ).to_arrow_reader(_ROWS_PER_READ)
    held: list[pa.Table] = []
    current: date | None = None
    for batch in reader:
        table = pa.table(batch)
        days = table["_day"].combine_chunks().dictionary_encode(null_encoding="encode")
        starts = _run_starts(days)
        for start, end in zip(starts, [*starts[1:], table.num_rows], strict=True):
            day = table["_day"][start].as_py()
            if held and day != current:
                yield current, pa.concat_tables(held)
                held = []
            current = day
            held.append(table.slice(start, end - start).select(landed.names).cast(landed))
    if held:
        yield current, pa.concat_tables(held)


def _run_starts(codes: pa.DictionaryArray) -> list[int]:
    """Indices at which runs of equal values start."""
    index = codes.indices
    changes = pc.indices_nonzero(pc.not_equal(index.slice(1), index.slice(0, max(len(index) - 1, 0))))
    return [0, *pc.add(changes, 1).to_pylist()] if len(index) else []
