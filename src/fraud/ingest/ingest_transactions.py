"""Validate landed transactions, ingest the valid ones and quarantine the others.

Every landed row is either accepted, quarantined with its reasons, or dropped as a duplicate. A file is identified by
its bytes and ingested once. See docs/data.md for the rules.
"""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from fraud.core.contract import US_PER_HOUR
from fraud.core.declaration import Declaration
from fraud.core.declaration_types import CategoryColumn
from fraud.ingest.landing import LandedFile
from fraud.job import Context, JobConfig, JobResult, Moment
from fraud.lake import catalog
from fraud.lake.dataset import conformed

if TYPE_CHECKING:
    from fraud.ingest.commit import Batch

LATE_US: Final = US_PER_HOUR
"""A transaction that is ingested this long after its event counts as late."""
_UNKNOWN: Final = "unknown_categories: "


class Config(JobConfig):
    """Configuration of the job. It ingests all new files of the landing zone."""

    now: Moment | None = Field(
        default=None, description="events more than a day after this time are quarantined; default: now"
    )


class Result(JobResult):
    """rows_in = accepted + quarantined + duplicates."""

    rows_in: int
    accepted: int
    quarantined: int
    duplicates: int
    """Dropped, because their transaction_id was ingested before."""
    conflicting_duplicates: int
    """Duplicates that differ from the transaction that was ingested first."""
    unknown_categories: dict[str, int]
    """Accepted as the unknown value of a column with a closed list, by column."""
    late: int
    """Accepted and ingested more than an hour after the event."""
    quarantine_reasons: dict[str, int]
    """A row with several reasons counts for each."""
    files: int
    files_known: int
    """Files whose bytes were ingested before."""
    days: list[str]
    days_reopened: int
    """Days that had transactions before."""
    finished_a_killed_run: bool


def run(config: Config, context: Context) -> Result:
    """Ingest all new landed files. Raises BadInputError for a file that cannot be read."""
    from fraud.ingest.commit import ingest_new_files, summed  # noqa: PLC0415 - pandas and duckdb take a second to import

    lake = context.settings.lake_uri
    ingest = _Ingest(lake, context.declaration, config.now or datetime.now(UTC))
    landing = context.settings.landing_uri
    done = ingest_new_files(landing, lake, "transactions", context.declaration, ingest.decide, context.log)
    counts, facts, reasons = summed(done.batches)
    unknown = {name.removeprefix(_UNKNOWN): n for name, n in sorted(facts.items()) if n and name.startswith(_UNKNOWN)}
    return Result(
        rows_in=counts.rows, accepted=counts.accepted, quarantined=counts.quarantined, duplicates=counts.duplicates,
        conflicting_duplicates=facts["conflicting"], unknown_categories=unknown,
        late=facts["late"], quarantine_reasons=reasons, files=counts.files, files_known=done.files_known,
        days=done.days(catalog.TRANSACTIONS.name), days_reopened=facts["days_reopened"],
        finished_a_killed_run=done.finished_a_killed_run,
    )  # fmt: skip


class _Repeated(NamedTuple):
    """Rows whose transaction_id occurred before, and those of them that differ from the first one: bool[n]."""

    repeated: NDArray[np.bool_]
    conflicting: NDArray[np.bool_]


class _Ingest:
    """Assigns landed transactions to the lake, quarantine or duplicates."""

    def __init__(self, lake_uri: str, declaration: Declaration, now: datetime) -> None:
        self._transactions = catalog.TRANSACTIONS.at(lake_uri)
        self._quarantine = catalog.QUARANTINE.at(lake_uri)
        self._declaration = declaration
        self._now = now

    def decide(self, landed: list[tuple[LandedFile, pa.Table]]) -> "Batch":
        """Write the objects of one batch and return its result."""
        from fraud.ingest.commit import Batch, file_counts, quarantined, stage  # noqa: PLC0415
        from fraud.ingest.validation import in_contract, quarantine_reasons, reason_counts  # noqa: PLC0415
        from fraud.lake.lookup import by_day, rows_with_ids  # noqa: PLC0415

        table = pa.concat_tables([rows for _, rows in landed])
        file_of = np.repeat(np.arange(len(landed)), [rows.num_rows for _, rows in landed])
        reasons = quarantine_reasons("transactions", self._declaration, table, self._now)
        good = pc.is_null(reasons)
        rows, unknown = in_contract(table.filter(good), self._declaration)
        transactions = self._transactions.open()
        ingested = rows_with_ids(transactions, rows["transaction_id"], rows.schema)
        repeats = _repeats(rows.schema.empty_table() if ingested is None else ingested, rows, self._declaration)
        accepted = rows.filter(pa.array(~repeats.repeated))
        partitions, reopened = [], 0
        for day, new in by_day(accepted, "event_timestamp"):
            published = transactions.partition(day) is not None
            reopened += published
            merged = _merged(transactions.read(day), new) if published else new
            merged = merged.sort_by(catalog.TRANSACTIONS.order)
            partitions.append(stage(self._transactions, day, merged, transactions.number))
        return Batch(
            files=file_counts([file for file, _ in landed], file_of, good.to_numpy(False), repeats.repeated),
            partitions=(*partitions, *quarantined(self._quarantine, landed, reasons)),
            reasons=reason_counts(reasons),
            facts={
                **{f"{_UNKNOWN}{name}": int((rows & ~repeats.repeated).sum()) for name, rows in unknown.items()},
                "conflicting": int(repeats.conflicting.sum()),
                "late": _late(accepted),
                "days_reopened": reopened,
            },
        )


def _merged(old: pa.Table, new: pa.Table) -> pa.Table:
    """The rows of a published day and new ones. A column that only one of them has is null in the other's rows."""
    no_longer_declared = sorted(set(old.column_names) - set(new.column_names))
    schema = pa.schema([*new.schema, *(old.schema.field(name) for name in no_longer_declared)])
    return pa.concat_tables([conformed(old, schema), conformed(new, schema)])


def _repeats(ingested: pa.Table, rows: pa.Table, declaration: Declaration) -> _Repeated:
    """The first row with an id is kept: rows of the lake come first, then those of the delivery in order.

    A column that was declared after a row was ingested is null there. So a delivered null is no difference to it, nor
    is the unknown value of a category, which a null becomes.
    """
    everything = pa.concat_tables([ingested.cast(rows.schema), rows]).combine_chunks()
    code = everything["transaction_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    _, first = np.unique(code, return_index=True)
    winner = first[code][ingested.num_rows :]
    repeated = winner != np.arange(ingested.num_rows, everything.num_rows)
    conflicting = np.zeros(rows.num_rows, dtype=np.bool_)
    mine, theirs = rows.filter(pa.array(repeated)), everything.take(pa.array(winner[repeated]))
    differs = np.zeros(mine.num_rows, dtype=np.bool_)
    for name in rows.column_names:
        if name == "created_timestamp":
            continue
        one, other = mine[name], theirs[name]
        column = declaration.columns.get(name)
        if isinstance(column, CategoryColumn):
            one, other = pc.fill_null(one, column.unknown), pc.fill_null(other, column.unknown)
        same = pc.equal(one, other).fill_null(False)
        both_null = pc.and_(pc.is_null(one), pc.is_null(other))
        differs |= ~pc.or_(same, both_null).to_numpy()
    conflicting[repeated] = differs
    return _Repeated(repeated, conflicting)


def _late(rows: pa.Table) -> int:
    delay = rows["created_timestamp"].cast(pa.int64()).to_numpy() - rows["event_timestamp"].cast(pa.int64()).to_numpy()
    return int((delay > LATE_US).sum())
