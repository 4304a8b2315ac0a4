"""Take delivered files into the lake once, several partitions at a time, as if in one step.

A batch first writes its data objects, which nobody sees. Then one journal object says what the batch decided: which
partitions get which objects, which files are done, and the counts. From then on the batch is committed: its manifests
are replaced, the ledger entry is written, the journal removed, and a run that dies in between is finished by the next
one, with the same bytes and the same counts. A run that dies before the journal has changed nothing.
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

from fraud.errors import BadInputError
from fraud.ingest.delivery import finish_deliveries
from fraud.ingest.landing import Feed, LandedFile, landed_files, read_landed
from fraud.lake.dataset import ROWS_PER_OBJECT, DataObject, Dataset, listed, located, put_atomically

ROWS_PER_BATCH: Final = 300_000
"""Landed rows that are validated and merged at once; a single larger file is a batch of its own."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileCounts(_Record):
    """What became of one file's rows: rows = accepted + quarantined + duplicates."""

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
    """A partition as it will be: objects that are written and not yet visible."""

    dataset: str
    key: str
    partition: str
    objects: tuple[DataObject, ...]
    made_from: dict[str, str]


class Batch(_Record):
    """What a batch decided."""

    files: tuple[FileCounts, ...]
    partitions: tuple[Staged, ...]
    reasons: dict[str, int]
    """Quarantined rows by reason."""
    facts: dict[str, int]
    """Further counts of the feed, by name."""


class Ledger:
    """Which files of one feed were taken in, by the sha256 of their bytes."""

    def __init__(self, lake_uri: str, feed: Feed) -> None:
        self._lake_uri = lake_uri
        self._uri = f"{lake_uri.rstrip('/')}/ledger/{feed}"
        self._fs, self._path = located(self._uri)
        self._journal = f"{self._path}/_pending.json"

    def ingested(self) -> set[str]:
        """Hashes of the files that need not be looked at again."""
        hashes: set[str] = set()
        for name in listed(self._uri, 1):
            if name.startswith("batch-"):
                entry = _Entry.model_validate_json(self._fs.cat_file(f"{self._path}/{name}"))
                hashes.update(file.sha256 for file in entry.files)
        return hashes

    def unfinished(self) -> Batch | None:
        """The batch that a run committed to and did not finish, None without one."""
        try:
            return Batch.model_validate_json(self._fs.cat_file(self._journal))
        except FileNotFoundError:
            return None

    def commit(self, batch: Batch) -> None:
        """Make the batch visible. Raises BadInputError, changing nothing, when a file's rows do not add up."""
        for file in batch.files:
            if not file.closed:
                raise BadInputError(
                    f"the rows of {file.name} do not add up", expected=f"{file.rows} rows",
                    got=f"{file.accepted} accepted, {file.quarantined} quarantined, {file.duplicates} duplicates",
                )  # fmt: skip
        put_atomically(f"{self._uri}/_pending.json", batch.model_dump_json(indent=1).encode())
        self.finish(batch)

    def finish(self, batch: Batch) -> None:
        """What follows from the journal. Doing it twice changes nothing."""
        for staged in batch.partitions:
            dataset = Dataset(self._lake_uri, staged.dataset, staged.key)
            dataset.commit(staged.partition, staged.objects, staged.made_from)
        entry = _Entry(files=batch.files)
        name = sha256("".join(file.sha256 for file in batch.files).encode()).hexdigest()[:24]
        put_atomically(f"{self._uri}/batch-{name}.json", entry.model_dump_json(indent=1).encode())
        self._fs.rm_file(self._journal)


class _Entry(_Record):
    files: tuple[FileCounts, ...]


def batches(files: Iterable[LandedFile]) -> Iterator[list[LandedFile]]:
    """Files in their order, as many at once as have ROWS_PER_BATCH rows."""
    batch: list[LandedFile] = []
    for file in files:
        if batch and sum(f.rows for f in batch) + file.rows > ROWS_PER_BATCH:
            yield batch
            batch = []
        batch.append(file)
    if batch:
        yield batch


def stage(dataset: Dataset, partition: str, table: pa.Table, made_from: dict[str, str] | None = None) -> Staged:
    """Write the partition's new objects without showing them to anybody."""
    starts = range(0, max(table.num_rows, 1), ROWS_PER_OBJECT)
    objects = tuple(dataset.put(partition, table.slice(start, ROWS_PER_OBJECT)) for start in starts)
    return Staged(
        dataset=dataset.name, key=dataset.key, partition=partition, objects=objects, made_from=made_from or {}
    )  # fmt: skip


Landed = list[tuple[LandedFile, pa.Table]]


class Ingested(NamedTuple):
    """What a run did."""

    batches: list[Batch]
    files_known: int
    finished_a_killed_run: bool

    def days(self, dataset: str) -> list[str]:
        """The partitions of a dataset that got rows."""
        return sorted({s.partition for batch in self.batches for s in batch.partitions if s.dataset == dataset})


class Totals(NamedTuple):
    """Counts over all files of a run."""

    files: int
    rows: int
    accepted: int
    quarantined: int
    duplicates: int


def ingest_new_files(
    landing_uri: str, lake_uri: str, feed: Feed, decide: Callable[[Landed], Batch],
    log: structlog.stdlib.BoundLogger,
) -> Ingested:  # fmt: skip
    """Finish what a killed run began, then take in every landed file that is new, batch by batch.

    `decide` writes a batch's objects and says what became of its rows. Raises BadInputError, before anything is
    written, when a landed file is no Parquet file of this feed.
    """
    finish_deliveries(landing_uri)
    ledger = Ledger(lake_uri, feed)
    done: list[Batch] = []
    if (unfinished := ledger.unfinished()) is not None:
        log.warning("finishing what a killed run had decided", files=len(unfinished.files))
        ledger.finish(unfinished)
        done.append(unfinished)
    finished = bool(done)
    ingested = ledger.ingested()
    landed = list(landed_files(landing_uri, feed))
    new = {file.sha256: file for file in reversed(landed) if file.sha256 not in ingested}
    for files in batches(sorted(new.values(), key=lambda file: file.name)):
        batch = decide([(file, read_landed(file, feed)) for file in files])
        ledger.commit(batch)
        done.append(batch)
        counts, _, _ = summed([batch])
        log.info("took in", last=files[-1].name, **counts._asdict())
    return Ingested(done, len(landed) - len(new), finished)


def summed(done: Sequence[Batch]) -> tuple[Totals, Counter[str], dict[str, int]]:
    """Totals, the feed's facts and the quarantine reasons over batches."""
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
    """Counts by file. `file_of` and `good` say for each landed row its file and whether it is valid; `repeated`
    says for each valid row whether it was dropped."""

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
    """One quarantine partition per file that has bad rows: the row as text, its position, and why."""
    staged, start = [], 0
    for file, rows in landed:
        why = reasons.slice(start, rows.num_rows)
        start += rows.num_rows
        bad = pc.is_valid(why)
        if pc.any(bad).as_py():
            columns = {name: rows[name].cast(pa.string()).filter(bad) for name in rows.column_names}
            position = pa.array(np.flatnonzero(bad.to_numpy(False)))
            table = pa.table({**columns, "position": position, "reason": why.filter(bad)})
            staged.append(stage(dataset, file.sha256, table, {"file": file.name}))
    return staged
