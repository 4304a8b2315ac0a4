"""Find expired partitions, files and folders, and their sizes.

Finding and removing are separate steps: a dry run executes the same code except for the removal.
"""

import datetime as dt
import math
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, Final, NamedTuple

from fraud.ingest.commit import Ledger
from fraud.ingest.landing import Feed, landed_files
from fraud.lake import catalog, declarations
from fraud.lake.catalog import DatasetDefinition
from fraud.lake.dataset import STAGED, Dataset
from fraud.lake.objects import located
from fraud.lake.records import RECORDS

FEEDS: Final[tuple[Feed, ...]] = ("transactions", "labels")
UNNAMED_DAYS: Final = 2
"""Days that an object without a name is kept in the DVC remote: a running job may be about to use it."""


class Expired(NamedTuple):
    """A partition, file, folder, model version or run that may be removed."""

    store: str
    name: str
    size_bytes: int
    remove: Callable[[], None]


def partitions_before(definition: DatasetDefinition, lake_uri: str, first_kept: str) -> Iterator[Expired]:
    """Partitions of a daily dataset before the day `first_kept` (YYYY-MM-DD)."""
    dataset = definition.at(lake_uri)
    # Each `remove` expires all of these days, so only the first one that is called has work to do.
    for day, partition in dataset.open().contents.partitions.items():
        if day < first_kept:
            yield Expired(definition.name, day, partition.bytes, partial(dataset.expire, first_kept))


def newest_day(lake_uri: str, today: dt.date) -> dt.date | None:
    """The newest day of transactions, at most `today`; None without transactions.

    The age of a day is counted from here, so that imported history does not expire at once.
    """
    days = catalog.TRANSACTIONS.at(lake_uri).partitions()
    return min(dt.date.fromisoformat(days[-1]), today) if days else None


def partitions_published_before(
    definition: DatasetDefinition, lake_uri: str, before: dt.datetime, kept: Collection[str] = ()
) -> Iterator[Expired]:
    """Partitions that last changed before a time, except those in `kept`."""
    dataset = definition.at(lake_uri)
    partitions, published = dataset.open().contents.partitions, dataset.table.published()
    old = {n: p for n, p in partitions.items() if n not in kept and n in published and published[n] < before}
    # Each `remove` removes all of them in one commit.
    for name, partition in old.items():
        yield Expired(definition.name, name, partition.bytes, partial(dataset.drop, old.keys()))


def unused_datasets(lake_uri: str, needed: Collection[str], before: dt.datetime) -> Iterator[Expired]:
    """Datasets of declarations and daily tables that are not in `needed` (names) and last written before a time."""
    for definition in catalog.in_lake(lake_uri):
        dataset = definition.at(lake_uri)
        fs, path = located(dataset.uri)
        files = fs.find(path)
        if definition.name not in needed and all(fs.modified(file) < before for file in files):
            name = definition.name.partition("/")[2]
            yield Expired(definition.family, name, _size_bytes(dataset.uri), partial(_remove, dataset))


def _remove(dataset: Dataset) -> None:
    """Remove the log, which makes the table disappear, then the rest."""
    fs, path = located(dataset.uri)
    for part in (f"{path}/_delta_log", path):
        with suppress(FileNotFoundError):  # an object store has no empty folders
            fs.rm(part, recursive=True)


def unused_declarations(lake_uri: str, needed: Collection[str], before: dt.datetime) -> Iterator[Expired]:
    """Records of declarations whose hash is not in `needed` and that were written before a time."""
    for feature_hash in declarations.recorded(lake_uri):
        uri = declarations.uri_of(lake_uri, feature_hash)
        if feature_hash not in needed and _modified(uri) < before:
            fs, path = located(uri)
            yield Expired("declarations", feature_hash, fs.size(path), partial(fs.rm_file, path))


def landed(landing_uri: str, lake_uri: str, before: dt.datetime) -> Iterator[Expired]:
    """Delivered files that were ingested and last written before a time. Files not yet ingested are never removed."""
    for feed in FEEDS:
        ingested = Ledger(lake_uri, feed).ingested()
        for file in landed_files(landing_uri, feed):
            if file.sha256 in ingested and _modified(file.uri) < before:
                fs, path = located(file.uri)
                yield Expired("landing", file.name, fs.size(path), partial(fs.rm_file, path))


def unreferenced_objects(lake_uri: str, before: dt.datetime) -> Iterator[Expired]:
    """Objects and records that no version of a table since a time refers to: of replaced or expired partitions, or of
    killed runs.

    Empty while an ingest batch is unfinished, because the batch's journal refers to objects that no version refers to.
    """
    if any(Ledger(lake_uri, feed).unfinished() is not None for feed in FEEDS):
        return
    for definition in (*catalog.ALL, *catalog.in_lake(lake_uri), *catalog.what_ifs(lake_uri)):
        dataset = definition.at(lake_uri)
        fs, path = located(dataset.uri)
        hours = max(0, math.ceil((dt.datetime.now(dt.UTC) - before) / dt.timedelta(hours=1)))
        for name in sorted(dataset.table.unreferenced(hours)):
            found = f"{path}/{name}"
            # The log can refer to an object of the same content that a running job has just written again.
            with suppress(FileNotFoundError):
                if fs.modified(found) < before:
                    yield Expired(
                        "replaced objects", f"{dataset.name}/{name}", fs.size(found), partial(fs.rm_file, found)
                    )
        staged = [name for name in fs.find(f"{path}/{STAGED}") if fs.modified(name) < before]
        for found in staged + _superseded(fs, f"{path}/{RECORDS}", dataset.table.record_of_newest(), before):
            yield Expired(
                "replaced objects",
                f"{dataset.name}{found.removeprefix(path)}",
                fs.size(found),
                partial(fs.rm_file, found),
            )


def _superseded(fs: Any, folder: str, current: str, before: dt.datetime) -> list[str]:  # noqa: ANN401 - fsspec is not typed
    """The records of versions that were replaced before a time: the newest one from before it was valid then."""
    old = sorted((at, path) for path in fs.find(folder) if (at := fs.modified(path)) < before)
    return [path for _, path in old[:-1] if not path.endswith(current)]


def report_folders(root: str, before: dt.datetime, kept: Collection[str] = ()) -> Iterator[Expired]:
    """Report folders of trainings or comparisons whose newest file was last written before a time."""
    fs, path = located(root)
    store = f"reports/{root.rstrip('/').split('/')[-1]}"
    folders: dict[str, list[dict[str, Any]]] = {}
    for found, info in fs.find(path, detail=True).items():
        folders.setdefault(found[len(path) :].strip("/").split("/")[0], []).append({"path": found, **info})
    for name, files in sorted(folders.items()):
        if name not in kept and all(fs.modified(file["path"]) < before for file in files):
            size_bytes = sum(file["size"] for file in files)
            yield Expired(store, name, size_bytes, partial(fs.rm, f"{path}/{name}", recursive=True))


def _size_bytes(uri: str) -> int:
    fs, path = located(uri)
    size_bytes: int = fs.du(path)
    return size_bytes


def _modified(uri: str) -> dt.datetime:
    fs, path = located(uri)
    found: dt.datetime = fs.modified(path)
    return found
