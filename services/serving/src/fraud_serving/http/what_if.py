"""The what-if page: the files of an exported version under /what-if/.

Off by default. The page computes in the caller's browser: each of its visitors has the model.
"""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Final

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import RedirectResponse

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
