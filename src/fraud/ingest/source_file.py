"""Find and read the files of a source, CSV or Parquet, a piece at a time."""

import bz2
import errno
import glob
import gzip
import re
import shutil
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from fraud.errors import BadInputError, UnavailableError
from fraud.ingest.csv_file import Piece, decoded, header, rows_of
from fraud.ingest.mapping.mapping import Mapping

ROWS_PER_PIECE: Final = 65_536
_KINDS: Final = "CSV (also .gz, .bz2, .zst, .zip) or Parquet"
_WILDCARD: Final = re.compile(r"[*?\[]")
_GZIP: Final = b"\x1f\x8b"
_BZIP2: Final = b"BZh"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_ZIP: Final = b"PK\x03\x04"
_PARQUET: Final = b"PAR1"


class SourceFiles:
    """The files of a path or URI: one file, the files of a folder, or the matches of a glob pattern."""

    def __init__(self, uri: str) -> None:
        """Find the files. Raises BadInputError when there are none, UnavailableError when the store does not answer."""
        with _named_failures(uri):
            # A path without a scheme is not passed to fsspec, which would parse `a::b#1.csv` as a chain of URIs and a
            # `[` as a pattern.
            self._fs: Any
            self._fs, path = (None, uri) if "://" not in uri else _located(uri)
            self.names: list[str] = _listed(_local_files(path) if self._fs is None else _remote_files(self._fs, path))
        if not self.names:
            raise BadInputError(
                f"{uri} matches no file", expected=f"{_KINDS} files whose names do not begin with . or _",
                hint="check the path",
            )  # fmt: skip

    def local_copies(self, folder: Path) -> Iterator[Path]:
        """Yield each local file, or a copy of a remote one in `folder`, which is deleted before the next file. Raises
        the
        same errors as the constructor."""
        for name in self.names:
            with _named_failures(name):
                if not (Path(name).stat().st_size if self._fs is None else self._fs.size(name)):
                    raise BadInputError(f"{name} is empty", expected="at least a header and a row", got="0 bytes")
                copy = self._copied(name, folder) if self._fs else None
            yield copy or Path(name)
            if copy is not None:
                copy.unlink()

    def _copied(self, name: str, folder: Path) -> Path:
        target = folder / "source"
        with self._fs.open(name, "rb") as source, target.open("wb") as copy:
            shutil.copyfileobj(source, copy)
        return target


def _located(uri: str) -> tuple[Any, str]:
    """The file system and the path in it; no file system for local files."""
    fs, path = fsspec.core.url_to_fs(uri, use_listings_cache=False)
    return (None, path) if "file" in fs.protocol else (fs, path)


class _Found(NamedTuple):
    """Files below a folder. Names of the folder itself are not filtered."""

    folder: str
    names: list[str]


def _listed(found: _Found) -> list[str]:
    """Sorted, without names that begin with . or _, which Spark and Hadoop use for metadata."""
    below = {name: name[len(found.folder) :].split("/") for name in found.names}
    return sorted(name for name, parts in below.items() if not any(part.startswith((".", "_")) for part in parts))


def _local_files(path: str) -> _Found:
    """A path that exists is never treated as a pattern, even with `*`, `?` or `[` in its name."""
    given = Path(path)
    if given.is_dir():
        return _Found(str(given), [str(file) for file in given.rglob("*") if file.is_file()])
    if not given.exists() and _WILDCARD.search(path):
        matches = glob.glob(path, recursive=True)  # noqa: PTH207 - pathlib takes no absolute patterns
        return _Found(_before_wildcard(path), [name for name in matches if Path(name).is_file()])
    given.stat()  # raises FileNotFoundError
    return _Found(path, [path])


def _remote_files(fs: fsspec.AbstractFileSystem, path: str) -> _Found:
    try:
        if fs.info(path)["type"] == "file":
            return _Found(path, [path])
        return _Found(path.rstrip("/"), fs.find(path))
    except FileNotFoundError:
        if not _WILDCARD.search(path):
            raise
    return _Found(_before_wildcard(path), [name for name in fs.glob(path) if fs.info(name)["type"] == "file"])


def _before_wildcard(path: str) -> str:
    return _WILDCARD.split(path)[0].rpartition("/")[0]


@contextmanager
def _named_failures(uri: str) -> Iterator[None]:
    """Convert exceptions of file system libraries: UnavailableError for the store, BadInputError for name and file."""
    scheme = uri.partition("://")[0]
    try:
        yield
    except FileNotFoundError as error:
        if _http_failed(error.__cause__):
            raise _unavailable(uri, error.__cause__) from error
        raise BadInputError(f"{uri} is not there", got=str(error), hint="check the path") from error
    except ImportError as error:
        raise BadInputError(
            f"{scheme}:// cannot be read: a library is missing", expected="file, s3 or http(s)", got=str(error),
            hint="copy the source to one of these, or install the library beside this command",
        ) from error  # fmt: skip
    except ValueError as error:
        raise BadInputError(
            f"{uri} cannot be read", expected="a path, or a URI of file, s3 or http(s)", got=str(error)
        ) from error
    except _store_failures() as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise  # the disk of the local copy, not the store
        if "://" not in uri:
            raise BadInputError(f"{uri} cannot be read", got=str(error), hint="check the permissions") from error
        raise _unavailable(uri, error) from error


def _unavailable(uri: str, error: BaseException | None) -> UnavailableError:
    return UnavailableError(
        f"{uri} cannot be read: the store refused or did not answer", got=f"{type(error).__name__}: {error}",
        hint="check the credentials and the endpoint (AWS_ENDPOINT_URL for s3), then run again",
    )  # fmt: skip


def _http_failed(cause: BaseException | None) -> bool:
    """Whether an HTTP server failed. fsspec raises FileNotFoundError for every failure, not only for 404 and 410."""
    aiohttp = sys.modules.get("aiohttp")
    if aiohttp is None or not isinstance(cause, aiohttp.ClientError):
        return False
    return not isinstance(cause, aiohttp.ClientResponseError) or cause.status not in (404, 410)


def _store_failures() -> tuple[type[Exception], ...]:
    """OSError, which includes time-outs, and the exceptions of the s3 and http clients that are imported."""
    botocore, aiohttp = sys.modules.get("botocore.exceptions"), sys.modules.get("aiohttp")
    clients = [botocore.BotoCoreError, botocore.ClientError] if botocore else []
    return (OSError, *clients, *([aiohttp.ClientError] if aiohttp else []))


def pieces(path: Path, mapping: Mapping) -> Iterator[Piece]:
    """The columns that the mapping reads; CSV values are text. Raises BadInputError for a file that cannot be read."""
    kind = mapping.source.format
    reader = _csv_pieces if kind == "csv" else _parquet_pieces
    hint = "see source.encoding, source.delimiter and source.quote in the mapping" if kind == "csv" else ""
    try:
        with path.open("rb") as file:
            if kind == "csv" and file.read(len(_PARQUET)) == _PARQUET:
                raise BadInputError(
                    f"{path} is a Parquet file", expected="csv, the value of source.format", got="parquet"
                )
        yield from reader(path, mapping)
    except UnicodeError as error:
        raise BadInputError(
            f"{path} cannot be read as {mapping.source.encoding}", got=str(error),
            hint="set source.encoding in the mapping",
        ) from error  # fmt: skip
    except (pa.ArrowException, OSError, EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError) as error:
        raise BadInputError(
            f"{path} cannot be read completely", expected=f"a whole {kind} file",
            got=str(error), hint="; ".join(filter(None, ("fetch the file again", hint))),
        ) from error  # fmt: skip


def _parquet_pieces(path: Path, mapping: Mapping) -> Iterator[Piece]:
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        _check(path, schema.names, mapping)
        nested = [name for name in mapping.reads if pa.types.is_nested(schema.field(name).type)]
        if nested:
            raise BadInputError(
                f"{path}: column {nested[0]} is nested", expected="a column of plain values",
                got=str(schema.field(nested[0]).type), hint="select its parts as columns of their own at the source",
            )  # fmt: skip
        for batch in file.iter_batches(ROWS_PER_PIECE, columns=list(mapping.reads)):
            yield Piece(pa.table(batch), [])


def _csv_pieces(path: Path, mapping: Mapping) -> Iterator[Piece]:
    source = mapping.source
    with _unpacked(path) as content, decoded(path, content, source) as text:
        names = header(path, text, source)
        _check(path, names, mapping)
        yield from rows_of(text, names, mapping.reads, source)


@contextmanager
def _unpacked(path: Path) -> Iterator[IO[bytes]]:
    """The content of the file, decompressed if its first bytes are those of gzip, bzip2, zstd or zip."""
    with ExitStack() as stack:
        raw: IO[bytes] = stack.enter_context(path.open("rb"))
        first = raw.read(len(_ZIP))
        raw.seek(0)
        if first.startswith(_GZIP):
            yield stack.enter_context(gzip.open(raw))  # type: ignore[arg-type]
        elif first.startswith(_BZIP2):
            yield stack.enter_context(bz2.open(raw))
        elif first == _ZSTD:
            yield stack.enter_context(pa.CompressedInputStream(raw, "zstd"))
        elif first == _ZIP:
            yield stack.enter_context(_only_member(path, stack.enter_context(zipfile.ZipFile(raw))))
        else:
            yield raw


def _only_member(path: Path, archive: zipfile.ZipFile) -> IO[bytes]:
    members = [m for m in archive.infolist() if not m.is_dir() and not m.filename.startswith("__MACOSX/")]
    if len(members) != 1 or members[0].flag_bits & 1:
        raise BadInputError(
            f"{path} is not an archive of one readable file", expected="one file without a password",
            got=", ".join(m.filename + (" (encrypted)" if m.flag_bits & 1 else "") for m in members) or "no file",
            hint="unpack it; a folder of files can be a source",
        )  # fmt: skip
    return archive.open(members[0])


def _check(path: Path, names: list[str], mapping: Mapping) -> None:
    missing = [name for name in mapping.reads if name not in names]
    if missing:
        raise BadInputError(
            f"{path} lacks {', '.join(missing)}", expected=", ".join(mapping.reads), got=", ".join(names)[:2_000],
            hint="use the column names of the file in the mapping"
            + ("; see source.delimiter, source.quote and source.encoding" if mapping.source.format == "csv" else ""),
        )  # fmt: skip
    repeated = sorted({name for name in mapping.reads if names.count(name) > 1})
    if repeated:
        raise BadInputError(f"{path} has several columns named {', '.join(repeated)}", hint="rename them at the source")
