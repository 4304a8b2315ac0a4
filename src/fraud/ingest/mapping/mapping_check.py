"""Apply a mapping to the first rows of a source and count the values by column."""

from pathlib import Path
from typing import Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from fraud.core.contract import LABEL_COLUMNS
from fraud.core.declaration import Declaration
from fraud.ingest.landing import PARSE_ERROR
from fraud.ingest.mapping.apply_mapping import LABEL_ERROR
from fraud.ingest.mapping.mapped_rows import MappedPiece, Readable, mapped_pieces
from fraud.ingest.mapping.mapping import Mapping
from fraud.lake import catalog

ROWS_TO_CHECK: Final = 1_000
_LONGEST_EXAMPLE: Final = 70


class ColumnCheck(NamedTuple):
    """Counts of one column of the contract. rows = read + null + unreadable."""

    column: str
    reads: str
    read: int
    null: int
    unreadable: int
    example: str
    """The first value that is not null, in the source and mapped."""


def check_mapping(
    uri: str, mapping: Mapping, declaration: Declaration, folder: Path
) -> tuple[Readable, list[ColumnCheck]]:
    """Map the first ROWS_TO_CHECK rows. Raises the same errors as an import, including BadInputError when no row is
    readable."""
    readable, parts = Readable(uri), list[MappedPiece]()
    for piece in mapped_pieces(uri, mapping, declaration, folder):
        mapped = piece.mapped.slice(0, ROWS_TO_CHECK - readable.rows)
        parts.append(MappedPiece(piece.source.slice(0, mapped.num_rows), mapped.slice(0, piece.source.num_rows)))
        readable.add(mapped)
        if readable.rows == ROWS_TO_CHECK:
            break
    readable.check_any()
    source = pa.concat_tables([part.source for part in parts], promote_options="permissive")
    names = [*catalog.TRANSACTIONS.schema(declaration).names, *LABEL_COLUMNS[1:]]
    return readable, _columns(source, pa.concat_tables([part.mapped for part in parts]), mapping, names)


def _columns(source: pa.Table, mapped: pa.Table, mapping: Mapping, names: list[str]) -> list[ColumnCheck]:
    checks = []
    for name in names:
        reads = mapping.origins.get(name, ())
        valid = pc.is_valid(mapped[name])
        read = pc.sum(valid, min_count=0).as_py()
        errors = mapped[LABEL_ERROR if name in ("is_fraud", "label_timestamp") else PARSE_ERROR]
        named = "label.known_at" if name == "label_timestamp" else name
        failed = pc.match_substring_regex(errors, rf"(?:^|; ){named}: ")
        unreadable = pc.sum(pc.and_not(pc.fill_null(failed, False), valid), min_count=0).as_py()
        example, first = "", pc.index(valid, True).as_py()
        if first >= 0:
            before = ", ".join(str(source[column][first]) for column in reads)
            example = f"{before[:_LONGEST_EXAMPLE]} -> {str(mapped[name][first])[:_LONGEST_EXAMPLE]}"
        checks.append(
            ColumnCheck(name, ", ".join(reads), read, mapped.num_rows - read - unreadable, unreadable, example)
        )
    return checks
