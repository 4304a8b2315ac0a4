"""Find expired partitions, files and folders, and their sizes.

Finding and removing are separate steps: a dry run executes the same code except for the removal.
"""

import datetime as dt
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, Final, NamedTuple

from fraud.ingest.commit import Ledger
from fraud.ingest.landing import Feed, landed_files
from fraud.lake import catalog, declarations
from fraud.lake.catalog import DatasetDefinition
from fraud.lake.dataset import MANIFEST, Dataset, located

FEEDS: Final[tuple[Feed, ...]] = ("transactions", "labels")
UNNAMED_DAYS: Final = 2
"""Days that an object without a manifest is kept: a running job may be about to commit it, or still read it."""


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
    for day in [day for day in dataset.partitions() if day < first_kept]:
        size_bytes = _size_bytes(dataset.partition_uri(day))
        yield Expired(definition.name, day, size_bytes, partial(dataset.expire, first_kept))


def newest_day(lake_uri: str, today: dt.date) -> dt.date | None:
    """The newest day of transactions, at most `today`; None without transactions.

    The age of a day is counted from here, so that imported history does not expire at once.
    """
    days = catalog.TRANSACTIONS.at(lake_uri).partitions()
    return min(dt.date.fromisoformat(days[-1]), today) if days else None


def partitions_published_before(
    definition: DatasetDefinition, lake_uri: str, before: dt.datetime, kept: Collection[str] = ()
) -> Iterator[Expired]:
    """Partitions whose manifest was last written before a time, except those in `kept`."""
    dataset = definition.at(lake_uri)
    for partition in dataset.partitions():
        folder = dataset.partition_uri(partition)
        if partition not in kept and _modified(f"{folder}/{MANIFEST}") < before:
            yield Expired(definition.name, partition, _size_bytes(folder), partial(dataset.drop, partition))


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
    for partition in dataset.partitions():
        dataset.drop(partition)
    fs, path = located(dataset.uri)
    with suppress(FileNotFoundError):  # an object store has no empty folders
        fs.rm(path, recursive=True)


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


def unnamed_objects(lake_uri: str, before: dt.datetime) -> Iterator[Expired]:
    """Data objects that no manifest names: from partitions that were published again, or from killed runs.

    Empty while an ingest batch is unfinished, because the batch's journal refers to objects that no manifest names yet.
    """
    if any(Ledger(lake_uri, feed).unfinished() is not None for feed in FEEDS):
        return
    own = (catalog.TRANSACTIONS, catalog.LABELS, catalog.SCORES, catalog.PREDICTIONS)
    for definition in (*own, *catalog.in_lake(lake_uri), *catalog.what_ifs(lake_uri)):
        dataset = definition.at(lake_uri)
        fs, path = located(dataset.uri)
        for found, info in sorted(fs.find(path, detail=True).items()):
            partition = found.split("/")[-2].removeprefix(f"{dataset.key}=")
            if not found.endswith(".parquet") or fs.modified(found) >= before:
                continue
            manifest = dataset.manifest(partition)
            if manifest is None or found.split("/")[-1] not in {part.name for part in manifest.objects}:
                yield Expired(
                    "objects without a name", f"{dataset.name}/{partition}", info["size"], partial(fs.rm_file, found)
                )  # fmt: skip


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
