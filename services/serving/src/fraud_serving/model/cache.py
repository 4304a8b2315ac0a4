"""Local copies of verified versions, for a restart while the registry is down.

Files: `<folder>/<sha256 of model.onnx>/{model.onnx,serving.json}`, and `<folder>/served.json` with the registry's entry
of the served version. Copies are verified again when they are read.
"""

import json
import os
import secrets
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Final

from fraud_serving.model.model import Artefact, Registered

_SERVED: Final = "served.json"
_MAX_COPIES: Final = 3
"""A rollback reads the earlier version from disk."""


def keep(folder: Path, registered: Registered, artefact: Artefact) -> None:
    """Write the copy of a verified version, and delete the oldest copies. Raises OSError."""
    own = folder / registered.tags["model_sha256"]
    own.mkdir(parents=True, exist_ok=True)
    _write(own / "model.onnx", artefact.model)
    _write(own / "serving.json", artefact.serving)
    os.utime(own)
    _write(folder / _SERVED, json.dumps(asdict(registered), indent=1, sort_keys=True).encode())
    older = sorted(
        (p for p in folder.iterdir() if (p / "model.onnx").is_file() and p != own), key=lambda p: p.stat().st_mtime
    )
    for stale in older[: max(len(older) + 1 - _MAX_COPIES, 0)]:
        shutil.rmtree(stale)


def served(folder: Path) -> tuple[Registered, Artefact] | None:
    """The version that was served last, None without a complete copy."""
    try:
        registered = Registered(**json.loads((folder / _SERVED).read_bytes()))
        found = files_of(folder, registered)
    except (OSError, ValueError, TypeError):
        return None
    return None if found is None else (registered, found)


def files_of(folder: Path, registered: Registered) -> Artefact | None:
    """The local files of a version, None if they are missing."""
    name = registered.tags.get("model_sha256", "")
    if not name.isalnum():  # the registry is another service, and the value becomes a path
        return None
    try:
        return Artefact((folder / name / "model.onnx").read_bytes(), (folder / name / "serving.json").read_bytes())
    except OSError:
        return None


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
