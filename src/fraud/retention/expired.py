"""What may go from the stores of files, and what it weighs. Finding and removing are two steps, so that a dry run is
the same code up to the last one.
"""

import datetime as dt
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any, Final, NamedTuple

from fraud.ingest.commit import Ledger
from fraud.ingest.landing import Feed, landed_files
from fraud.lake import catalog
from fraud.lake.dataset import MANIFEST, Dataset, listed, located

FEEDS: Final[tuple[Feed, ...]] = ("transactions", "labels")
DAILY: Final = ("transactions", "labels", "features", "scores")
LOOK_BACK_DAYS: Final = 90
"""Transactions outlast features by this: the oldest features that are kept need them, late ones included."""
UNNAMED_DAYS: Final = 2
"""An object that no manifest names may be about to be named, or still be read."""


class Old(NamedTuple):
    """One thing that may go."""

    store: str
    name: str
    bytes: int
    remove: Callable[[], None]


def lake_days(lake_uri: str, name: str, first_kept: str) -> Iterator[Old]:
    """Partitions of a dataset by day before `first_kept`."""
    dataset = Dataset(lake_uri, name)
    old = [day for day in dataset.partitions() if day < first_kept]
    # The last removes whatever of them is left; the others are counted by themselves.
    for day in old:
        yield Old(name, day, _weight(f"{dataset.uri}/dt={day}"), partial(dataset.expire, first_kept))


def newest_day(lake_uri: str, today: dt.date) -> dt.date | None:
    """The newest day of transactions, not after today. None while there is none.

    What is kept counts back from here: on imported history the last years are no less worth keeping.
    """
    days = catalog.TRANSACTIONS.at(lake_uri).partitions()
    return min(dt.date.fromisoformat(days[-1]), today) if days else None


def what_ifs(lake_uri: str) -> list[str]:
    """Datasets of scores by versions that were asked for."""
    found = listed(f"{lake_uri.rstrip('/')}/what_if", 3)
    return sorted({f"what_if/{name.split('/')[0]}" for name in found if name.startswith("version=")})


def partitions_by_age(
    lake_uri: str, name: str, key: str, before: dt.datetime, kept: Collection[str] = ()
) -> Iterator[Old]:
    """Partitions that are not known by a day, by when they were published."""
    dataset = Dataset(lake_uri, name, key)
    for partition in dataset.partitions():
        folder = f"{dataset.uri}/{key}={partition}"
        if partition not in kept and _modified(f"{folder}/{MANIFEST}") < before:
            yield Old(name, partition, _weight(folder), partial(dataset.drop, partition))


def landed(landing_uri: str, lake_uri: str, before: dt.datetime) -> Iterator[Old]:
    """Delivered files that were taken in, by their age. One that never was stays, however old."""
    for feed in FEEDS:
        ingested = Ledger(lake_uri, feed).ingested()
        for file in landed_files(landing_uri, feed):
            if file.sha256 in ingested and _modified(file.uri) < before:
                fs, path = located(file.uri)
                yield Old("landing", file.name, fs.size(path), partial(fs.rm_file, path))


def unnamed_objects(lake_uri: str, before: dt.datetime) -> Iterator[Old]:
    """Data objects that no manifest names: of partitions that were published again, or of killed runs.

    None at all while a batch of ingest is unfinished: its journal names objects, too.
    """
    if any(Ledger(lake_uri, feed).unfinished() is not None for feed in FEEDS):
        return
    for name in (*DAILY, *what_ifs(lake_uri), "predictions"):
        dataset = Dataset(lake_uri, name)
        fs, path = located(dataset.uri)
        for found, info in sorted(fs.find(path, detail=True).items()):
            partition = found.split("/")[-2].removeprefix("dt=")
            if not found.endswith(".parquet") or fs.modified(found) >= before:
                continue
            manifest = dataset.manifest(partition)
            if manifest is None or found.split("/")[-1] not in {part.name for part in manifest.objects}:
                yield Old("objects without a name", f"{name}/{partition}", info["size"], partial(fs.rm_file, found))


def report_folders(root: str, before: dt.datetime, kept: Collection[str] = ()) -> Iterator[Old]:
    """Folders of reports that no day names, by the age of their newest file: trainings and comparisons."""
    fs, path = located(root)
    store = f"reports/{root.rstrip('/').split('/')[-1]}"
    folders: dict[str, list[dict[str, Any]]] = {}
    for found, info in fs.find(path, detail=True).items():
        folders.setdefault(found[len(path) :].strip("/").split("/")[0], []).append({"path": found, **info})
    for name, files in sorted(folders.items()):
        if name not in kept and all(fs.modified(file["path"]) < before for file in files):
            weight = sum(file["size"] for file in files)
            yield Old(store, name, weight, partial(fs.rm, f"{path}/{name}", recursive=True))


def _weight(uri: str) -> int:
    fs, path = located(uri)
    weight: int = fs.du(path)
    return weight


def _modified(uri: str) -> dt.datetime:
    fs, path = located(uri)
    found: dt.datetime = fs.modified(path)
    return found
