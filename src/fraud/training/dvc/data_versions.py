"""Folders kept by content in a DVC remote: the objects that `dvc add` and `dvc push` make, without a Git repository.

An Airflow task pushes what it trained on and records the md5 on its run; it commits nothing. `write_pointers` makes
the `.dvc` files by which `dvc pull` brings folders back, on any machine that reaches the remote.
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
from fraud.lake.dataset import MANIFEST, Dataset, located, opened
from fraud.uris import path_or_uri

if TYPE_CHECKING:
    from dvc_data.hashfile.db import HashFileDB

_HASH: Final = "md5"
_DIRECTORY: Final = ".dir"


class Stored(NamedTuple):
    """A folder in the remote. `md5` is that of DVC's listing of the folder and ends in `.dir`."""

    md5: str
    files: int
    bytes: int


def push(remote_uri: str, folder: Path) -> Stored:
    """Store every file of a local folder. What is there already is not sent again. Raises UnavailableError."""
    from dvc.fs import LocalFileSystem  # noqa: PLC0415 - DVC takes a second to import
    from dvc_data.hashfile.build import build  # noqa: PLC0415
    from dvc_data.hashfile.transfer import transfer  # noqa: PLC0415

    with _answering(remote_uri), TemporaryDirectory(prefix="fraud-dvc-") as scratch:
        store = _store(remote_uri, scratch)
        staged, meta, tree = build(store, str(folder.resolve()), LocalFileSystem(), _HASH)
        done = transfer(staged, store, {tree.hash_info}, shallow=False)
        if done.failed:
            raise UnavailableError(f"{remote_uri} did not take {len(done.failed)} objects", hint="run again")
    return Stored(str(tree.hash_info.value), meta.nfiles or 0, meta.size or 0)


def push_partition(remote_uri: str, dataset: Dataset, partition: str) -> Stored:
    """Store a published partition of the lake: its manifest and its objects, under the names they have there."""
    with TemporaryDirectory(prefix="fraud-snapshot-") as name:
        folder = Path(name) / f"{dataset.key}={partition}"
        folder.mkdir()
        uris = dataset.object_uris(partition)
        for uri in [*uris, f"{dataset.uri}/{folder.name}/{MANIFEST}"]:
            with opened(uri) as file:
                (folder / uri.rpartition("/")[2]).write_bytes(file.read())
        return push(remote_uri, folder)


def pull(remote_uri: str, md5: str, folder: Path) -> None:
    """Bring a folder back. Raises RefusedError when the remote's bytes are not those of the md5, UnavailableError."""
    from dvc.fs import LocalFileSystem  # noqa: PLC0415 - DVC takes a second to import
    from dvc_data.hashfile import load  # noqa: PLC0415
    from dvc_data.hashfile.build import build  # noqa: PLC0415
    from dvc_data.hashfile.checkout import CheckoutError, checkout  # noqa: PLC0415
    from dvc_data.hashfile.hash_info import HashInfo  # noqa: PLC0415

    local, where = LocalFileSystem(), str(folder.resolve())
    with _answering(remote_uri), TemporaryDirectory(prefix="fraud-dvc-") as scratch:
        store = _store(remote_uri, scratch)
        if not store.exists(md5):
            raise RefusedError(
                f"{remote_uri} has no {md5}", hint="it was collected as garbage, or pushed to another remote"
            )
        listing = store.fs.cat_file(store.oid_to_path(md5))
        # The listing first: it says where files go.
        found = hashlib.md5(listing, usedforsecurity=False).hexdigest() + _DIRECTORY
        if found == md5:
            try:
                checkout(where, local, load(store, HashInfo(_HASH, md5)), store, quiet=True)
            except CheckoutError as error:
                raise RefusedError(
                    f"what {remote_uri} holds of {md5} is not what was pushed", got=str(error)
                ) from error
            found = str(build(store, where, local, _HASH, dry_run=True)[2].hash_info.value)
    if found != md5:
        raise RefusedError(f"what {remote_uri} holds is not what was pushed", expected=md5, got=found)


def unnamed(remote_uri: str, kept: Iterable[str], before: datetime) -> Iterator[tuple[str, int]]:
    """Objects of the remote that no kept folder (md5) needs and that were stored before a time: hash and bytes.

    What `dvc gc` would remove. Raises RefusedError when a kept folder's listing is not there: what it needs is unknown.
    """
    with _answering(remote_uri), TemporaryDirectory(prefix="fraud-dvc-") as scratch:
        store = _store(remote_uri, scratch)
        fs, path = located(f"{remote_uri.rstrip('/')}/files/{_HASH}")
        objects = sorted(fs.find(path, detail=True).items())
        needed = set[str]()
        for md5 in kept:
            if not store.exists(md5):
                raise RefusedError(
                    f"{remote_uri} has no {md5}, which a kept version needs", hint="see docs/training.md"
                )
            listing = json.loads(store.fs.cat_file(store.oid_to_path(md5)))
            needed |= {md5, *(entry[_HASH] for entry in listing)}
        for found, info in objects:
            name = "".join(found.split("/")[-2:])
            if name not in needed and fs.modified(found) < before:
                yield name, int(info["size"])


def remove(remote_uri: str, name: str) -> None:
    """Remove one object by its hash. Nothing happens when it is gone already."""
    with _answering(remote_uri), TemporaryDirectory(prefix="fraud-dvc-") as scratch:
        store = _store(remote_uri, scratch)
        if store.exists(name):
            store.fs.remove(store.oid_to_path(name))


def write_pointers(folder: Path, remote_uri: str, kept: Mapping[str, str]) -> None:
    """Make `folder` a DVC project without Git whose `.dvc` files name what is kept: path -> md5.

    There `dvc pull` brings everything back, and `dvc gc --workspace --cloud` removes all else from the remote.
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
def _answering(remote_uri: str) -> Iterator[None]:
    """A store that cannot be reached, as our error. Neither botocore's errors nor DVC's are an OSError."""
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - a local folder needs no S3 client
    from dvc_objects.errors import ObjectDBError  # noqa: PLC0415

    try:
        yield
    except (OSError, BotoCoreError, ClientError, ObjectDBError) as error:
        raise UnavailableError(f"the DVC remote {remote_uri} does not answer", got=str(error)) from error
