"""Make a folder that appears as a whole or not at all, with a manifest of its files."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from tempfile import mkdtemp
from typing import Final

from fraud.errors import RefusedError

MANIFEST: Final = "manifest.json"
FORMAT: Final = 1
_PARTIAL: Final = ".partial"


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """An empty folder beside `out`, which becomes `out` when the block ends; without a trace if the block raises.

    Raises RefusedError if `out` exists and is not an empty folder. The folder of a killed process has another name and
    is removed by the next call for the same `out`.
    """
    _check_absent(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(out)
    folder = Path(mkdtemp(prefix=f".{out.name}.", suffix=_PARTIAL, dir=out.parent))
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
        folder.chmod(0o755)
        try:
            folder.rename(out)
        except OSError:
            _check_absent(out)
            raise
    finally:
        os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)  # does not exist after the renaming


def write_manifest(folder: Path) -> str:
    """Write manifest.json with size and sha256 of every file; returns its own sha256, which identifies the folder."""
    files = {
        path.name: {"sha256": sha256(data := path.read_bytes()).hexdigest(), "bytes": len(data)}
        for path in sorted(folder.iterdir())
    }
    manifest = json.dumps({"format": FORMAT, "files": files}, indent=1).encode()
    (folder / MANIFEST).write_bytes(manifest)
    return sha256(manifest).hexdigest()


def _check_absent(out: Path) -> None:
    if out.is_symlink() or (out.exists() and not (out.is_dir() and not any(out.iterdir()))):
        raise RefusedError(
            f"{out} exists", expected="a folder that does not exist or is empty",
            hint="give another folder, or remove it",
        )  # fmt: skip


def _remove_abandoned(out: Path) -> None:
    """Remove the partial folders of killed processes, which hold no lock."""
    for path in out.parent.iterdir():
        if not (path.name.startswith(f".{out.name}.") and path.name.endswith(_PARTIAL) and path.is_dir()):
            continue
        lock = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path)
        except BlockingIOError:
            continue  # another export to the same folder
        finally:
            os.close(lock)
