"""Read a file that somebody else wrote, CSV or Parquet, a piece at a time."""

import gzip
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, NamedTuple

import fsspec
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from fraud.errors import BadInputError
from fraud.io.mapping import Mapping, Source

ROWS_PER_PIECE: Final = 65_536
BYTES_PER_PIECE: Final = 8 << 20
_GZIP: Final = b"\x1f\x8b"
_DO: Final = "name the columns in the mapping as the file does"


class Piece(NamedTuple):
    """Some rows of the file, in its order, and the lines before or among them that are no rows."""

    rows: pa.Table
    broken: list[str]


def local_copy(uri: str, folder: Path) -> Path:
    """The file itself when it is here, else a copy in `folder`. Raises BadInputError when it is not there or empty."""
    fs, path = fsspec.core.url_to_fs(uri)
    if not fs.isfile(path):
        raise BadInputError(f"{uri} is not there", expected="a CSV (also .gz) or Parquet file", do="check the path")
    if not fs.size(path):
        raise BadInputError(f"{uri} is empty", expected="at least a header and a row", came="0 bytes")
    if "file" in fs.protocol:
        return Path(path)
    target = folder / Path(path).name
    with fs.open(path, "rb") as source, target.open("wb") as copy:
        shutil.copyfileobj(source, copy)
    return target


def pieces(path: Path, mapping: Mapping) -> Iterator[Piece]:
    """The columns the mapping reads; CSV values as text. Raises BadInputError for a file that cannot be read."""
    reader = _csv_pieces if mapping.source.format == "csv" else _parquet_pieces
    try:
        yield from reader(path, mapping)
    except (pa.ArrowException, OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise BadInputError(
            f"{path} cannot be read to its end", expected=f"a whole {mapping.source.format} file",
            came=str(error), do="fetch the file again; for CSV see source.encoding and source.delimiter in the mapping",
        ) from error  # fmt: skip


def _parquet_pieces(path: Path, mapping: Mapping) -> Iterator[Piece]:
    with pq.ParquetFile(path) as file:
        _check(path, file.schema_arrow.names, mapping)
        for batch in file.iter_batches(ROWS_PER_PIECE, columns=list(mapping.reads)):
            yield Piece(pa.table(batch), [])


def _csv_pieces(path: Path, mapping: Mapping) -> Iterator[Piece]:
    source, broken = mapping.source, []
    with _text(path) as header:
        names = _header(path, header, source)
    _check(path, names, mapping)

    def keep(row: pc.InvalidRow) -> str:
        broken.append(f"{row.actual_columns} values in a row of {row.expected_columns} columns: {row.text}")
        return "skip"

    with _text(path) as content:
        reader = pc.open_csv(
            content,
            read_options=pc.ReadOptions(encoding=source.encoding, block_size=BYTES_PER_PIECE, use_threads=False),
            parse_options=pc.ParseOptions(
                delimiter=source.delimiter, newlines_in_values=True, invalid_row_handler=keep
            ),
            convert_options=pc.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), include_columns=list(mapping.reads),
                null_values=list(source.nulls), strings_can_be_null=True, quoted_strings_can_be_null=True,
            ),
        )  # fmt: skip
        for batch in reader:
            lines, broken[:] = list(broken), []
            yield Piece(pa.table(batch), lines)
        if broken:
            yield Piece(pa.table({name: pa.array([], pa.string()) for name in mapping.reads}), broken)


@contextmanager
def _text(path: Path) -> Iterator[IO[bytes]]:
    """The file's content, unpacked when it is gzipped."""
    with path.open("rb") as raw:
        zipped = raw.read(len(_GZIP)) == _GZIP
        raw.seek(0)
        if not zipped:
            yield raw
            return
        with gzip.open(raw) as content:
            yield content  # type: ignore[misc]


def _header(path: Path, content: IO[bytes], source: Source) -> list[str]:
    line = content.readline()
    if not line.strip():
        raise BadInputError(f"{path} has no header", expected="a first line with the names of the columns")
    options = pc.ReadOptions(encoding=source.encoding)
    table = pc.read_csv(pa.BufferReader(line), options, pc.ParseOptions(delimiter=source.delimiter))
    names: list[str] = table.column_names
    return names


def _check(path: Path, names: list[str], mapping: Mapping) -> None:
    missing = [name for name in mapping.reads if name not in names]
    if missing:
        raise BadInputError(f"{path} lacks {', '.join(missing)}", expected=", ".join(mapping.reads),
                            came=", ".join(names), do=_DO)  # fmt: skip
    twice = sorted({name for name in mapping.reads if names.count(name) > 1})
    if twice:
        raise BadInputError(f"{path} has several columns named {', '.join(twice)}", do="rename them at the source")
