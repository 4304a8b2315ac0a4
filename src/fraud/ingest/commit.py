"""Ingest delivered files into the lake: each file once, several partitions in one atomic step.

A batch first writes its data objects, which are not visible to readers. Then it writes a journal with the new objects
of each partition, the ingested files and the counts. From then on the batch is committed: each table gets one commit,
the ledger entry is written and the journal is removed. If the run is killed after the journal was written, the next run
finishes the batch with the same bytes and counts. A run that is killed before has changed nothing.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import structlog
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from fraud.core.declaration import Declaration
from fraud.errors import BadInputError
from fraud.ingest.delivery import finish_deliveries
from fraud.ingest.landing import Feed, LandedFile, check_columns, landed_files, read_landed
from fraud.lake.dataset import Dataset
from fraud.lake.objects import listed, located, put_atomically
from fraud.lake.records import Partition
from fraud.lake.table import ConflictError

ROWS_PER_BATCH: Final = 300_000
"""Landed rows that are validated and merged at once. A larger file is a batch of its own."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileCounts(_Record):
    """Counts of the rows of one file: rows = accepted + quarantined + duplicates."""

    name: str
    sha256: str
    rows: int
    accepted: int
    quarantined: int
    duplicates: int

    @property
    def closed(self) -> bool:
        return self.rows == self.accepted + self.quarantined + self.duplicates


class Staged(_Record):
    """New content of a partition: objects that are written and not visible yet."""

    dataset: str
    key: str
    partition: Partition
    base: int | None
    """Version of the table that the content was merged with; None if it depends on no other partition."""


class Batch(_Record):
    """The result of a batch: files with counts, new partitions, reasons of quarantine."""

    files: tuple[FileCounts, ...]
    partitions: tuple[Staged, ...]
    reasons: dict[str, int]
    """Quarantined rows by reason."""
    facts: dict[str, int]
    """Other counts of the feed, by name."""


class Ledger:
    """The ingested files of a feed, by the sha256 of their bytes."""

    def __init__(self, lake_uri: str, feed: Feed) -> None:
        self._lake_uri = lake_uri
        self._uri = f"{lake_uri.rstrip('/')}/ledger/{feed}"
        self._fs, self._path = located(self._uri)
        self._journal = f"{self._path}/_pending.json"

    def ingested(self) -> set[str]:
        """Hashes of the ingested files."""
        return {file.sha256 for file in self._files()}

    def ingested_names(self) -> set[str]:
        """Names of the ingested files, below the landing zone."""
        return {file.name for file in self._files()}

    def _files(self) -> Iterator[FileCounts]:
        for name in listed(self._uri, 1):
            if name.startswith("batch-"):
                yield from _Entry.model_validate_json(self._fs.cat_file(f"{self._path}/{name}")).files

    def unfinished(self) -> Batch | None:
        """The batch that a killed run committed and did not finish, None without one."""
        try:
            return Batch.model_validate_json(self._fs.cat_file(self._journal))
        except FileNotFoundError:
            return None

    def commit(self, batch: Batch) -> None:
        """Publish the batch. Raises BadInputError, before any change, when the counts of a file do not add up."""
        for file in batch.files:
            if not file.closed:
                raise BadInputError(
                    f"the counts of {file.name} do not add up", expected=f"{file.rows} rows",
                    got=f"{file.accepted} accepted, {file.quarantined} quarantined, {file.duplicates} duplicates",
                )  # fmt: skip
        put_atomically(f"{self._uri}/_pending.json", batch.model_dump_json(indent=1).encode())
        self.finish(batch)

    def finish(self, batch: Batch) -> None:
        """Commit to the tables, write the ledger entry and remove the journal. Idempotent.

        Raises ConflictError when another job committed to a table that the batch was merged with. The batch is then
        given up, before any change: the next run ingests its files again.
        """
        tables: dict[tuple[str, str, int | None], list[Partition]] = {}
        for staged in batch.partitions:
            tables.setdefault((staged.dataset, staged.key, staged.base), []).append(staged.partition)
        try:
            for (name, key, base), partitions in sorted(tables.items(), key=lambda each: each[0][2] is None):
                Dataset(self._lake_uri, name, key).commit(partitions, base)
        except ConflictError:
            self._fs.rm_file(self._journal)
            raise
        entry = _Entry(files=batch.files)
        name = sha256("".join(file.sha256 for file in batch.files).encode()).hexdigest()[:24]
        put_atomically(f"{self._uri}/batch-{name}.json", entry.model_dump_json(indent=1).encode())
        self._fs.rm_file(self._journal)


class _Entry(_Record):
    files: tuple[FileCounts, ...]


def batches(files: Iterable[LandedFile]) -> Iterator[list[LandedFile]]:
    """Split files, in their order, into batches of at most ROWS_PER_BATCH rows."""
    batch: list[LandedFile] = []
    for file in files:
        if batch and sum(f.rows for f in batch) + file.rows > ROWS_PER_BATCH:
            yield batch
            batch = []
        batch.append(file)
    if batch:
        yield batch


def stage(
    dataset: Dataset, name: str, table: pa.Table, base: int | None, made_from: dict[str, str] | None = None
) -> Staged:
    """Write the new objects of a partition. They are not visible to readers yet. `base`: see `Staged`."""
    partition = dataset.written(name, table, made_from)
    return Staged(dataset=dataset.name, key=dataset.key, partition=partition, base=base)


Landed = list[tuple[LandedFile, pa.Table]]


class Ingested(NamedTuple):
    """The batches of a run."""

    batches: list[Batch]
    files_known: int
    finished_a_killed_run: bool

    def days(self, dataset: str) -> list[str]:
        """The partitions of a dataset that changed."""
        return sorted({s.partition.name for batch in self.batches for s in batch.partitions if s.dataset == dataset})


class Totals(NamedTuple):
    """Counts over all files of a run."""

    files: int
    rows: int
    accepted: int
    quarantined: int
    duplicates: int


def ingest_new_files(
    landing_uri: str, lake_uri: str, feed: Feed, declaration: Declaration, decide: Callable[[Landed], Batch],
    log: structlog.stdlib.BoundLogger,
) -> Ingested:  # fmt: skip
    """Finish the batch of a killed run, if any, then ingest the new landed files in batches.

    `decide` writes the objects of a batch and returns its result. Raises BadInputError, before anything is written,
    when a new file is not a Parquet file of this feed.
    """
    finish_deliveries(landing_uri)
    ledger = Ledger(lake_uri, feed)
    done: list[Batch] = []
    if (unfinished := ledger.unfinished()) is not None:
        log.warning("batch of a killed run found, finishing it", files=len(unfinished.files))
        ledger.finish(unfinished)
        done.append(unfinished)
    finished = bool(done)
    ingested = ledger.ingested()
    landed = list(landed_files(landing_uri, feed))
    new = {file.sha256: file for file in reversed(landed) if file.sha256 not in ingested}
    for file in new.values():
        check_columns(file.uri, feed, declaration, file.columns)
    for files in batches(sorted(new.values(), key=lambda file: file.name)):
        batch = decide([(file, read_landed(file, feed, declaration)) for file in files])
        ledger.commit(batch)
        done.append(batch)
        counts, _, _ = summed([batch])
        log.info("batch ingested", last_file=files[-1].name, **counts._asdict())
    return Ingested(done, len(landed) - len(new), finished)


def summed(done: Sequence[Batch]) -> tuple[Totals, Counter[str], dict[str, int]]:
    """Totals, other counts and quarantine reasons over batches."""
    files = [file for batch in done for file in batch.files]
    totals = Totals(
        len(files), sum(f.rows for f in files), sum(f.accepted for f in files), sum(f.quarantined for f in files),
        sum(f.duplicates for f in files),
    )  # fmt: skip
    facts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for batch in done:
        facts.update(batch.facts)
        reasons.update(batch.reasons)
    return totals, facts, dict(sorted(reasons.items()))


def file_counts(
    files: Sequence[LandedFile], file_of: NDArray[np.int64], good: NDArray[np.bool_], repeated: NDArray[np.bool_]
) -> tuple[FileCounts, ...]:
    """Counts by file. For each landed row, `file_of` is the index of its file and `good` whether it is valid. For each
    valid row, `repeated` is whether it was dropped as a duplicate."""

    def per_file(rows: NDArray[np.int64]) -> list[int]:
        counts: list[int] = np.bincount(rows, minlength=len(files)).tolist()
        return counts

    valid = file_of[good]
    counts = zip(per_file(valid[~repeated]), per_file(file_of[~good]), per_file(valid[repeated]), strict=True)
    return tuple(
        FileCounts(name=f.name, sha256=f.sha256, rows=f.rows, accepted=a, quarantined=q, duplicates=d)
        for f, (a, q, d) in zip(files, counts, strict=True)
    )


def quarantined(dataset: Dataset, landed: Landed, reasons: pa.Array) -> list[Staged]:
    """Stage one quarantine partition per file with invalid rows: the row as text, its position and the reasons."""
    staged, start = [], 0
    for file, rows in landed:
        of_file = reasons.slice(start, rows.num_rows)
        start += rows.num_rows
        bad = pc.is_valid(of_file)
        if pc.any(bad).as_py():
            columns = {name: rows[name].cast(pa.string()).filter(bad) for name in rows.column_names}
            position = pa.array(np.flatnonzero(bad.to_numpy(False)))
            table = pa.table({**columns, "position": position, "reason": of_file.filter(bad)})
            staged.append(stage(dataset, file.sha256, table, None, {"file": file.name}))
    return staged
