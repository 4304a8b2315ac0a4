"""A source's rows in the landing form: the files found, read and mapped, and the broken lines among the rows."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from fraud.errors import BadInputError
from fraud.ingest.landing import PARSE_ERROR
from fraud.ingest.mapping.apply_mapping import LABEL_ERROR, in_landing_form
from fraud.ingest.mapping.mapping import Mapping
from fraud.ingest.source_file import SourceFiles, pieces

_BROKEN_LINE: Final = "row: "
_LONGEST_REASON: Final = 500
_EXAMPLES: Final = 3


class MappedPiece(NamedTuple):
    """Rows as they are in the source, and as the mapping makes them: in the same order, the broken lines last."""

    source: pa.Table
    mapped: pa.Table


def mapped_pieces(uri: str, mapping: Mapping, folder: Path) -> Iterator[MappedPiece]:
    """Every row of the source, one file after the other, in the form of `in_landing_form`. Remote files are copied
    into `folder`, one at a time. Raises BadInputError, BadConfigError and UnavailableError as reading and mapping do.
    """
    for path in SourceFiles(uri).local_copies(folder):
        for piece in pieces(path, mapping):
            mapped = in_landing_form(mapping, piece.rows)
            if piece.broken:
                reasons = pa.array([f"{_BROKEN_LINE}{text}"[:_LONGEST_REASON] for text in piece.broken])
                nothing = {field.name: pa.nulls(len(reasons), field.type) for field in mapped.schema}
                mapped = pa.concat_tables([mapped, pa.table({**nothing, PARSE_ERROR: reasons}, mapped.schema)])
            if mapped.num_rows:
                yield MappedPiece(piece.rows, mapped)


class Readable:
    """Counts what of a source can be read, and refuses a source of which nothing can."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self.rows = self.unreadable = self.labels = self.unreadable_labels = 0
        self.reasons: list[str] = []
        """Of the first rows and labels that cannot be read."""

    def add(self, mapped: pa.Table) -> None:
        """Count rows in the landing form."""
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

    def refuse_nothing(self) -> None:
        """Raises BadInputError when there is no row, or no row or no label can be read."""
        if not self.rows:
            raise BadInputError(f"{self._uri} has no rows", expected="at least one after the header")
        for what, all_of, failed in (
            ("row", self.rows, self.unreadable), ("label", self.labels, self.unreadable_labels),
        ):  # fmt: skip
            if failed and failed == all_of:
                raise BadInputError(
                    f"no {what} of {self._uri} can be read", expected=f"at least one of {all_of:,}",
                    got="\n    ".join(["", *self.reasons]).rstrip(),
                    hint="correct the mapping (fraud import --check prints the first rows as read) or the source",
                )  # fmt: skip
