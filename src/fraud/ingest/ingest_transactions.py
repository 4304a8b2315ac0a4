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

from fraud.core.contract import TRANSACTION_COLUMNS, US_PER_HOUR
from fraud.ingest.landing import LandedFile
from fraud.job import Context, JobConfig, JobResult, Moment
from fraud.lake import catalog

if TYPE_CHECKING:
    from fraud.ingest.commit import Batch

LATE_US: Final = US_PER_HOUR
"""A transaction that is ingested this long after its event counts as late."""


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
    unknown_categories: int
    """Accepted as `other`."""
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
    ingest = _Ingest(lake, config.now or datetime.now(UTC))
    done = ingest_new_files(context.settings.landing_uri, lake, "transactions", ingest.decide, context.log)
    counts, facts, reasons = summed(done.batches)
    return Result(
        rows_in=counts.rows, accepted=counts.accepted, quarantined=counts.quarantined, duplicates=counts.duplicates,
        conflicting_duplicates=facts["conflicting"], unknown_categories=facts["unknown_categories"],
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

    def __init__(self, lake_uri: str, now: datetime) -> None:
        self._transactions = catalog.TRANSACTIONS.at(lake_uri)
        self._quarantine = catalog.QUARANTINE.at(lake_uri)
        self._now = now

    def decide(self, landed: list[tuple[LandedFile, pa.Table]]) -> "Batch":
        """Write the objects of one batch and return its result."""
        from fraud.ingest.commit import Batch, file_counts, quarantined, stage  # noqa: PLC0415
        from fraud.ingest.validation import in_contract, quarantine_reasons, reason_counts  # noqa: PLC0415
        from fraud.lake.lookup import by_day, rows_with_ids  # noqa: PLC0415

        table = pa.concat_tables([rows for _, rows in landed])
        file_of = np.repeat(np.arange(len(landed)), [rows.num_rows for _, rows in landed])
        reasons = quarantine_reasons("transactions", table, self._now)
        good = pc.is_null(reasons)
        rows, unknown = in_contract(table.filter(good))
        ingested = rows_with_ids(self._transactions, rows["transaction_id"], TRANSACTION_COLUMNS)
        repeats = _repeats(rows.schema.empty_table() if ingested is None else ingested, rows)
        accepted = rows.filter(pa.array(~repeats.repeated))
        partitions, reopened = [], 0
        for day, new in by_day(accepted, "event_timestamp"):
            published = self._transactions.manifest(day) is not None
            reopened += published
            old = [self._transactions.read(day, list(TRANSACTION_COLUMNS))] if published else []
            merged = pa.concat_tables([*old, new]).sort_by(catalog.TRANSACTIONS.order)
            partitions.append(stage(self._transactions, day, merged))
        return Batch(
            files=file_counts([file for file, _ in landed], file_of, good.to_numpy(False), repeats.repeated),
            partitions=(*partitions, *quarantined(self._quarantine, landed, reasons)),
            reasons=reason_counts(reasons),
            facts={
                "unknown_categories": int((unknown & ~repeats.repeated).sum()),
                "conflicting": int(repeats.conflicting.sum()),
                "late": _late(accepted),
                "days_reopened": reopened,
            },
        )


def _repeats(ingested: pa.Table, rows: pa.Table) -> _Repeated:
    """The first row with an id is kept: rows of the lake come first, then those of the delivery in order."""
    everything = pa.concat_tables([ingested.select(rows.column_names).cast(rows.schema), rows]).combine_chunks()
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
        same = pc.equal(mine[name], theirs[name]).fill_null(False)
        both_null = pc.and_(pc.is_null(mine[name]), pc.is_null(theirs[name]))
        differs |= ~pc.or_(same, both_null).to_numpy()
    conflicting[repeated] = differs
    return _Repeated(repeated, conflicting)


def _late(rows: pa.Table) -> int:
    delay = rows["created_timestamp"].cast(pa.int64()).to_numpy() - rows["event_timestamp"].cast(pa.int64()).to_numpy()
    return int((delay > LATE_US).sum())
