"""Find, read and map the files of a source."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from fraud.core.declaration import Declaration
from fraud.errors import BadInputError
from fraud.ingest.landing import PARSE_ERROR
from fraud.ingest.mapping.apply_mapping import LABEL_ERROR, in_landing_form
from fraud.ingest.mapping.mapping import Mapping
from fraud.ingest.source_file import SourceFiles, pieces

_BROKEN_LINE: Final = "row: "
_LONGEST_REASON: Final = 500
_EXAMPLES: Final = 3


class MappedPiece(NamedTuple):
    """Rows of the source and the mapped rows, in the same order. Broken lines are the last mapped rows."""

    source: pa.Table
    mapped: pa.Table


def mapped_pieces(uri: str, mapping: Mapping, declaration: Declaration, folder: Path) -> Iterator[MappedPiece]:
    """All rows of the source, file by file, mapped by `in_landing_form`. Remote files are copied to `folder`, one at a
    time. Raises BadInputError, BadConfigError and UnavailableError like reading and mapping.
    """
    for path in SourceFiles(uri).local_copies(folder):
        for piece in pieces(path, mapping):
            mapped = in_landing_form(mapping, declaration, piece.rows)
            if piece.broken:
                reasons = pa.array([f"{_BROKEN_LINE}{text}"[:_LONGEST_REASON] for text in piece.broken])
                nothing = {field.name: pa.nulls(len(reasons), field.type) for field in mapped.schema}
                mapped = pa.concat_tables([mapped, pa.table({**nothing, PARSE_ERROR: reasons}, mapped.schema)])
            if mapped.num_rows:
                yield MappedPiece(piece.rows, mapped)


class Readable:
    """Counts readable and unreadable rows and labels of a source."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self.rows = self.unreadable = self.labels = self.unreadable_labels = 0
        self.reasons: list[str] = []
        """Reasons of the first unreadable rows and labels."""

    def add(self, mapped: pa.Table) -> None:
        """Count mapped rows."""
        self.rows += mapped.num_rows
        self.unreadable += mapped.num_rows - mapped[PARSE_ERROR].null_count
        failed = mapped.num_rows - mapped[LABEL_ERROR].null_count
        self.labels += mapped.num_rows - mapped["is_fraud"].null_count + failed
        self.unreadable_labels += failed
        self._collect(mapped, PARSE_ERROR)
        self._collect(mapped, LABEL_ERROR)

    def _collect(self, mapped: pa.Table, column: str) -> None:
        room = 2 * _EXAMPLES - len(self.reasons)
        if room > 0:
            failed = mapped.filter(pc.is_valid(mapped[column])).slice(0, min(room, _EXAMPLES))
            for key, reason in zip(failed["transaction_id"].to_pylist(), failed[column].to_pylist(), strict=True):
                self.reasons.append(reason if key is None else f"transaction {key}: {reason}")

    def check_any(self) -> None:
        """Raises BadInputError without rows, or when no row or no label is readable."""
        if not self.rows:
            raise BadInputError(f"{self._uri} has no rows", expected="at least one after the header")
        for kind, rows, failed in (
            ("row", self.rows, self.unreadable), ("label", self.labels, self.unreadable_labels),
        ):  # fmt: skip
            if failed and failed == rows:
                raise BadInputError(
                    f"no {kind} of {self._uri} can be read", expected=f"at least one of {rows:,}",
                    got="\n    ".join(["", *self.reasons]).rstrip(),
                    hint="correct the mapping (fraud import --check prints the first rows as read) or the source",
                )  # fmt: skip
