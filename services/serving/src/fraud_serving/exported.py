"""The files of an exported version (`fraud export --target web`), which serving shows under /what-if/.

They are verified and read once, at the start, so only what the manifest lists can be requested, and a later change of
the folder has no effect.
"""

import json
from hashlib import sha256
from pathlib import Path
from typing import Final

MANIFEST: Final = "manifest.json"
_FORMAT: Final = 1
_LARGEST_BYTES: Final = 64 * 1024 * 1024
"""Of all files, which are kept in memory."""


class BadExportError(Exception):
    """A folder is not an export, or was changed after it. The message names the file."""


def read(folder: Path) -> dict[str, bytes]:
    """The files of an export by name, each equal to its sha256 in the manifest. Raises BadExportError."""
    manifest = _bytes_of(folder / MANIFEST)
    try:
        found = json.loads(manifest)
        format_ = found["format"]
        stated = {str(name): (str(of["sha256"]), int(of["bytes"])) for name, of in found["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadExportError(f"{folder / MANIFEST}: expected the manifest of a web export, got {error!r}") from None
    if format_ != _FORMAT or "index.html" not in stated:
        got = f"format {format_} with the files {', '.join(sorted(stated))}"
        raise BadExportError(f"{folder / MANIFEST}: expected a web export of format {_FORMAT}, got {got}")
    if outside := [name for name in stated if Path(name).name != name]:
        raise BadExportError(f"{folder / MANIFEST}: expected names of files in the folder, got {outside[0]!r}")
    if sum(size for _, size in stated.values()) > _LARGEST_BYTES:
        raise BadExportError(f"{folder}: expected at most {_LARGEST_BYTES} bytes in all")
    files = {MANIFEST: manifest}
    for name, (expected, size) in stated.items():
        data = _bytes_of(folder / name, size)
        if (got := sha256(data).hexdigest()) != expected:
            raise BadExportError(f"{folder / name}: expected sha256 {expected}, got {got} of {len(data)} bytes")
        files[name] = data
    return files


def _bytes_of(path: Path, size: int = 1024 * 1024) -> bytes:
    """The content, at most one byte more than `size`."""
    try:
        with path.open("rb") as file:
            return file.read(size + 1)
    except OSError as error:
        raise BadExportError(f"{path}: expected a readable file: {error.strerror}") from None
