"""Paths as URIs, URIs as paths, and patterns: the only module that turns one into another.

A `file://` URI of this platform is `file://` and the absolute path as it is. It is not percent-encoded, because fsspec
does not decode it: `%20` would become part of the name. Other modules than this one and `fraud.lake.dataset` must not
build such a URI or list files by a pattern with a path in it, since `[`, `*` and `?` are allowed in a path.
"""

from pathlib import Path
from typing import Final

_FILE: Final = "file://"


def uri_of(path: Path) -> str:
    """`file://` and the absolute path, not encoded: what settings and `fraud.lake` take."""
    return f"{_FILE}{path.resolve()}"


def path_of(uri: str) -> Path | None:
    """The path of a `file://` URI; None for any other URI."""
    return Path(uri.removeprefix(_FILE)) if uri.startswith(_FILE) else None


def path_or_uri(uri: str) -> str:
    """A plain path for a `file://` URI, any other URI as it is: for libraries that decode `file://` URIs."""
    return uri.removeprefix(_FILE)


def sqlite_url(path: Path) -> str:
    """SQLAlchemy's URL of a SQLite file: the two characters that a URL would take for its own are encoded."""
    return f"sqlite:///{str(path).replace('%', '%25').replace('?', '%3F')}"


def duckdb_file(path: str) -> str:
    """A path for DuckDB's `read_parquet`, which reads every path as a pattern: that one file and no other."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in path)
