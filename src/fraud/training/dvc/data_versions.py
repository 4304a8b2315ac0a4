"""Store folders by content in a DVC remote, in the format of `dvc add` and `dvc push`, without a Git repository.

An Airflow task pushes its training data and records the md5 on its run. `write_pointers` writes the `.dvc` files with
which `dvc pull` restores the folders on any machine with access to the remote.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final, NamedTuple

import yaml

from fraud.errors import RefusedError, UnavailableError
from fraud.lake.dataset import Dataset
from fraud.lake.objects import located, opened, put_atomically
from fraud.lake.records import PARTITION_JSON, Partition
from fraud.uris import path_or_uri

if TYPE_CHECKING:
    from dvc_data.hashfile.db import HashFileDB

_HASH: Final = "md5"
_DIRECTORY: Final = ".dir"
_RECORD: Final = "partition.json"


class Stored(NamedTuple):
    """A folder in the remote. `md5` is the hash of DVC's listing of the folder and ends in `.dir`."""

    md5: str
    files: int
    bytes: int


def push(remote_uri: str, folder: Path) -> Stored:
    """Store every file of a local folder; existing objects are skipped. Raises UnavailableError."""
    from dvc.fs import LocalFileSystem  # noqa: PLC0415 - DVC takes a second to import
    from dvc_data.hashfile.build import build  # noqa: PLC0415
    from dvc_data.hashfile.transfer import transfer  # noqa: PLC0415

    with _remote_errors(remote_uri), TemporaryDirectory(prefix="fraud-dvc-") as scratch:
        store = _store(remote_uri, scratch)
        staged, meta, tree = build(store, str(folder.resolve()), LocalFileSystem(), _HASH)
        done = transfer(staged, store, {tree.hash_info}, shallow=False)
        if done.failed:
            raise UnavailableError(f"{len(done.failed)} objects could not be written to {remote_uri}", hint="run again")
    return Stored(str(tree.hash_info.value), meta.nfiles or 0, meta.size or 0)


def push_partition(remote_uri: str, dataset: Dataset, partition: Partition) -> Stored:
    """Store the objects of a partition under their names, and its record as `partition.json`."""
    with TemporaryDirectory(prefix="fraud-snapshot-") as name:
        folder = Path(name)
        for stored, uri in zip(partition.objects, dataset.uris_of(partition), strict=True):
            with opened(uri) as file:
                (folder / stored.name).write_bytes(file.read())
        (folder / _RECORD).write_bytes(PARTITION_JSON.dump_json(partition, indent=1))
        return push(remote_uri, folder)


def pull_partition(remote_uri: str, md5: str, dataset: Dataset) -> None:
    """Restore a partition that `push_partition` stored, and publish it in `dataset`. Raises the errors of `pull`."""
    with TemporaryDirectory(prefix="fraud-snapshot-") as name:
        folder = Path(name) / "partition"
        pull(remote_uri, md5, folder)
        partition = PARTITION_JSON.validate_json((folder / _RECORD).read_bytes())
        for stored, uri in zip(partition.objects, dataset.uris_of(partition), strict=True):
            put_atomically(uri, (folder / stored.name).read_bytes())
        dataset.commit([partition])


def pull(remote_uri: str, md5: str, folder: Path) -> None:
    """Restore a folder. Raises RefusedError when the bytes do not have the md5, UnavailableError."""
    from dvc.fs import LocalFileSystem  # noqa: PLC0415 - DVC takes a second to import
    from dvc_data.hashfile import load  # noqa: PLC0415
    from dvc_data.hashfile.build import build  # noqa: PLC0415
    from dvc_data.hashfile.checkout import CheckoutError, checkout  # noqa: PLC0415
    from dvc_data.hashfile.hash_info import HashInfo  # noqa: PLC0415

    local, where = LocalFileSystem(), str(folder.resolve())
    with _remote_errors(remote_uri), TemporaryDirectory(prefix="fraud-dvc-") as scratch:
        store = _store(remote_uri, scratch)
        if not store.exists(md5):
            raise RefusedError(
                f"{remote_uri} has no {md5}", hint="it was removed by dvc gc, or pushed to another remote"
            )
        listing = store.fs.cat_file(store.oid_to_path(md5))
        # The listing is verified first, because it contains paths.
        found = hashlib.md5(listing, usedforsecurity=False).hexdigest() + _DIRECTORY
        if found == md5:
            try:
                checkout(where, local, load(store, HashInfo(_HASH, md5)), store, quiet=True)
            except CheckoutError as error:
                raise RefusedError(f"the files of {md5} in {remote_uri} were changed", got=str(error)) from error
            found = str(build(store, where, local, _HASH, dry_run=True)[2].hash_info.value)
    if found != md5:
        raise RefusedError(f"the files in {remote_uri} were changed", expected=md5, got=found)


def unnamed(remote_uri: str, kept: Iterable[str], before: datetime) -> Iterator[tuple[str, int]]:
    """Hash and size of objects that no kept folder (md5) uses and that were stored before a time.

    `dvc gc` would remove the same objects. Raises RefusedError when the listing of a kept folder is missing.
    """
    with _remote_errors(remote_uri), TemporaryDirectory(prefix="fraud-dvc-") as scratch:
        store = _store(remote_uri, scratch)
        fs, path = located(f"{remote_uri.rstrip('/')}/files/{_HASH}")
        objects = sorted(fs.find(path, detail=True).items())
        needed = set[str]()
        for md5 in kept:
            if not store.exists(md5):
                raise RefusedError(f"{remote_uri} has no {md5}, which a kept version uses", hint="see docs/training.md")
            listing = json.loads(store.fs.cat_file(store.oid_to_path(md5)))
            needed |= {md5, *(entry[_HASH] for entry in listing)}
        for found, info in objects:
            name = "".join(found.split("/")[-2:])
            if name not in needed and fs.modified(found) < before:
                yield name, int(info["size"])


def remove(remote_uri: str, name: str) -> None:
    """Remove one object by its hash, if it exists."""
    with _remote_errors(remote_uri), TemporaryDirectory(prefix="fraud-dvc-") as scratch:
        store = _store(remote_uri, scratch)
        if store.exists(name):
            store.fs.remove(store.oid_to_path(name))


def write_pointers(folder: Path, remote_uri: str, kept: Mapping[str, str]) -> None:
    """Make `folder` a DVC project without Git, with a `.dvc` file for each kept folder: path -> md5.

    In it, `dvc pull` restores the folders and `dvc gc --workspace --cloud` removes all other objects from the remote.
    """
    (folder / ".dvc").mkdir(parents=True, exist_ok=True)
    url = path_or_uri(remote_uri)
    (folder / ".dvc/config").write_text(
        "[core]\n    no_scm = True\n    analytics = false\n    check_update = false\n    remote = versions\n"
        f"['remote \"versions\"']\n    url = {url}\n"
    )
    for old in folder.rglob("*.dvc"):
        if old.is_file():
            old.unlink()
    for path, md5 in kept.items():
        pointer = folder / f"{path}.dvc"
        pointer.parent.mkdir(parents=True, exist_ok=True)
        out = {"md5": md5, "hash": _HASH, "path": pointer.stem}
        pointer.write_text(yaml.safe_dump({"outs": [out]}, sort_keys=False))


def _store(remote_uri: str, scratch: str) -> "HashFileDB":
    from dvc.fs import get_cloud_fs  # noqa: PLC0415 - DVC takes a second to import
    from dvc_data.hashfile.db import HashFileDB  # noqa: PLC0415

    kind, config, path = get_cloud_fs({}, url=path_or_uri(remote_uri))
    filesystem = kind(**config)
    return HashFileDB(filesystem, filesystem.join(path, "files", _HASH), tmp_dir=scratch)


@contextmanager
def _remote_errors(remote_uri: str) -> Iterator[None]:
    """Convert errors of an unreachable remote to UnavailableError. Errors of botocore and DVC are not OSErrors."""
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - a local folder needs no S3 client
    from dvc_objects.errors import ObjectDBError  # noqa: PLC0415

    try:
        yield
    except (OSError, BotoCoreError, ClientError, ObjectDBError) as error:
        raise UnavailableError(f"the DVC remote {remote_uri} does not answer", got=str(error)) from error
