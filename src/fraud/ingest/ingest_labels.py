"""Validate landed fraud labels and ingest them into the lake.

A label is a report, made at `label_timestamp`, that a transaction is or is not fraud. All different reports are kept,
each in the partition of its own day. Readers use the latest one as of a point in time (`fraud.lake.labels`).
"""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from fraud.core.contract import LABEL_COLUMNS
from fraud.core.declaration import Declaration
from fraud.ingest.landing import LandedFile
from fraud.job import Context, JobConfig, JobResult, Moment
from fraud.lake import catalog

if TYPE_CHECKING:
    from fraud.ingest.commit import Batch


class Config(JobConfig):
    """Configuration of the job. It ingests all new files of the landing zone."""

    now: Moment | None = Field(
        default=None, description="labels more than a day after this time are quarantined; default: now"
    )


class Result(JobResult):
    """rows_in = accepted + quarantined + duplicates."""

    rows_in: int
    accepted: int
    quarantined: int
    duplicates: int
    """Dropped, because the same report was ingested before."""
    revisions: int
    """Accepted, for a transaction that had another label in the lake or earlier in the delivery."""
    unknown_transactions: int
    """Accepted, for a transaction that is not in the lake (yet)."""
    late: int
    """Accepted, for a day before the newest day of labels in the lake."""
    quarantine_reasons: dict[str, int]
    """A row with several reasons counts for each."""
    files: int
    files_known: int
    """Files whose bytes were ingested before."""
    days: list[str]
    finished_a_killed_run: bool


def run(config: Config, context: Context) -> Result:
    """Ingest all new landed files. Raises BadInputError for a file that cannot be read."""
    from fraud.ingest.commit import ingest_new_files, summed  # noqa: PLC0415 - pandas and duckdb take a second to import

    lake = context.settings.lake_uri
    ingest = _Ingest(lake, context.declaration, config.now or datetime.now(UTC))
    landing = context.settings.landing_uri
    done = ingest_new_files(landing, lake, "labels", context.declaration, ingest.decide, context.log)
    counts, facts, reasons = summed(done.batches)
    return Result(
        rows_in=counts.rows, accepted=counts.accepted, quarantined=counts.quarantined, duplicates=counts.duplicates,
        revisions=facts["revisions"], unknown_transactions=facts["unknown_transactions"], late=facts["late"],
        quarantine_reasons=reasons, files=counts.files, files_known=done.files_known,
        days=done.days(catalog.LABELS.name), finished_a_killed_run=done.finished_a_killed_run,
    )  # fmt: skip


class _Ingest:
    """Assigns landed labels to the lake, quarantine or duplicates."""

    def __init__(self, lake_uri: str, declaration: Declaration, now: datetime) -> None:
        self._declaration = declaration
        self._labels = catalog.LABELS.at(lake_uri)
        self._transactions = catalog.TRANSACTIONS.at(lake_uri)
        self._quarantine = catalog.QUARANTINE.at(lake_uri)
        self._now = now

    def decide(self, landed: list[tuple[LandedFile, pa.Table]]) -> "Batch":
        """Write the objects of one batch and return its result."""
        from fraud.ingest.commit import Batch, file_counts, quarantined, stage  # noqa: PLC0415
        from fraud.ingest.validation import quarantine_reasons, reason_counts  # noqa: PLC0415
        from fraud.lake.lookup import by_day, rows_with_ids  # noqa: PLC0415

        table = pa.concat_tables([rows for _, rows in landed])
        file_of = np.repeat(np.arange(len(landed)), [rows.num_rows for _, rows in landed])
        reasons = quarantine_reasons("labels", self._declaration, table, self._now)
        good = pc.is_null(reasons)
        rows = table.filter(good).select(LABEL_COLUMNS).combine_chunks()
        labels = self._labels.open()
        ingested = rows_with_ids(labels, rows["transaction_id"], catalog.LABEL_SCHEMA)
        ingested = rows.schema.empty_table() if ingested is None else ingested.cast(rows.schema)
        everything = pa.concat_tables([ingested, rows]).to_pandas()
        repeated = everything.duplicated().to_numpy()[ingested.num_rows :]
        had_label = everything.duplicated("transaction_id").to_numpy()[ingested.num_rows :]
        accepted = rows.filter(pa.array(~repeated))
        published = labels.partitions()
        partitions, late = [], 0
        for day, new in by_day(accepted, "label_timestamp"):
            late += new.num_rows if published and day < published[-1] else 0
            old = [labels.read(day, list(LABEL_COLUMNS))] if day in published else []
            merged = pa.concat_tables([*old, new]).sort_by(catalog.LABELS.order)
            partitions.append(stage(self._labels, day, merged, labels.number))
        return Batch(
            files=file_counts([file for file, _ in landed], file_of, good.to_numpy(False), repeated),
            partitions=(*partitions, *quarantined(self._quarantine, landed, reasons)),
            reasons=reason_counts(reasons),
            facts={
                "revisions": int((had_label & ~repeated).sum()),
                "unknown_transactions": self._unknown(accepted["transaction_id"]),
                "late": late,
            },
        )

    def _unknown(self, ids: pa.ChunkedArray) -> int:
        from fraud.lake.lookup import rows_with_ids  # noqa: PLC0415

        found = rows_with_ids(self._transactions.open(), ids, pa.schema([("transaction_id", pa.string())]))
        if found is None:
            return len(ids)
        return len(ids) - int(pc.sum(pc.is_in(ids, value_set=found["transaction_id"])).as_py() or 0)
