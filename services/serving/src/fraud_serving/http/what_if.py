"""The what-if page: the files of an exported version (`fraud export --target web`), served under /what-if/.

Off by default. The files are verified and read once, at the start, so only what the manifest lists can be requested,
and a later change of the folder has no effect. The page computes in the caller's browser: each of its
visitors has the model.
"""

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Final

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import RedirectResponse

MANIFEST: Final = "manifest.json"
_FORMAT: Final = 1
_LARGEST_BYTES: Final = 64 * 1024 * 1024
"""Of all files, which are kept in memory."""
POLICY: Final = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""`wasm-unsafe-eval` allows the compilation of WebAssembly and no evaluation of scripts."""
_TYPES: Final = {
    ".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
    ".json": "application/json", ".txt": "text/plain; charset=utf-8", ".md": "text/plain; charset=utf-8",
    ".ts": "text/plain; charset=utf-8",
}  # fmt: skip


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


def add(app: FastAPI, files: Mapping[str, bytes]) -> None:
    """Add `GET /what-if/` and the files of the export."""
    tags = {name: f'"{sha256(data).hexdigest()[:32]}"' for name, data in files.items()}

    @app.get("/what-if", include_in_schema=False)
    async def folder() -> RedirectResponse:
        return RedirectResponse("what-if/")  # relative, so that it also works below a path prefix

    @app.get("/what-if/{name}", include_in_schema=False)
    async def file(name: str, request: Request) -> Response:
        if name not in files:
            raise HTTPException(404)
        headers = {
            "content-security-policy": POLICY, "x-content-type-options": "nosniff", "etag": tags[name],
            "cache-control": "no-cache", "referrer-policy": "no-referrer",
        }  # fmt: skip
        if request.headers.get("if-none-match") == tags[name]:
            return Response(status_code=304, headers=headers)
        media_type = _TYPES.get(Path(name).suffix, "application/octet-stream")
        return Response(files[name], media_type=media_type, headers=headers)

    @app.get("/what-if/", include_in_schema=False)
    async def index(request: Request) -> Response:
        return await file("index.html", request)
