"""Convert between paths, URIs and patterns.

A `file://` URI of this platform is `file://` and the absolute path without percent-encoding, because fsspec does not
decode URIs: `%20` would become part of the name. Only this module and `fraud.lake.objects` may build such a URI or list
files by a pattern that contains a path, since `[`, `*` and `?` are allowed in paths.
"""

from pathlib import Path
from typing import Final
from urllib.parse import unquote

_FILE: Final = "file://"
_SQLITE: Final = "sqlite:///"


def uri_of(path: Path) -> str:
    """`file://` and the absolute path, not encoded: what settings and `fraud.lake` take."""
    return f"{_FILE}{path.resolve()}"


def path_of(uri: str) -> Path | None:
    """The path of a `file://` URI; None for any other URI."""
    return Path(uri.removeprefix(_FILE)) if uri.startswith(_FILE) else None


def path_or_uri(uri: str) -> str:
    """A plain path for a `file://` URI, any other URI as it is: for libraries that decode `file://` URIs."""
    return uri.removeprefix(_FILE)


def encoded_uri(path: Path) -> str:
    """The percent-encoded `file://` URI of a path: for libraries that decode it, such as MLflow."""
    return path.resolve().as_uri()


def sqlite_url(path: Path) -> str:
    """SQLAlchemy's URL of a SQLite file: `%` and `?` are encoded."""
    return f"{_SQLITE}{str(path).replace('%', '%25').replace('?', '%3F')}"


def sqlite_path(url: str) -> Path | None:
    """The path of SQLAlchemy's URL of a SQLite file; None for any other URL."""
    return Path(unquote(url.removeprefix(_SQLITE))) if url.startswith(_SQLITE) else None


def duckdb_file(path: str) -> str:
    """A pattern for DuckDB's `read_parquet` that matches exactly this path."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in path)
