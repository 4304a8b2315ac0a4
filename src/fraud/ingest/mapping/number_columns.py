"""Read columns of a source as numbers. Text is parsed with the mapping's decimal mark and thousands separator."""

from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from fraud.errors import BadInputError
from fraud.ingest.mapping.row_errors import RowErrors, true
from fraud.ingest.mapping.sections import Source

_SEPARATORS: Final = frozenset(",.")


def is_text(kind: pa.DataType) -> bool:
    """Whether values of the type are text. A column that has only nulls counts as text."""
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    return any(test(kind) for test in tests)


def is_number(kind: pa.DataType) -> bool:
    """Whether values of the type are numbers. Booleans are not numbers."""
    return any(test(kind) for test in (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal))


class Numbers:
    """Reads the columns of one piece of a source as float64."""

    def __init__(self, source: Source, columns: dict[str, pa.Array], errors: RowErrors) -> None:
        self._source, self._columns, self._errors = source, columns, errors

    def floats(self, name: str, column: str, remove: str = "") -> pa.Array:
        """float64[n], null for NaN. Other text becomes null and an error of contract column `name`.

        A `,` or `.` in `remove` is removed only as a thousands separator: `12,5` does not become 125. Raises
        BadInputError for a column that has neither numbers nor text.
        """
        values = self._columns[column]
        if is_text(values.type):
            return self._parsed(name, values, remove)
        if not is_number(values.type):
            raise BadInputError(f"column {column} has the wrong type", expected="numbers", got=str(values.type))
        numbers = values.cast(pa.float64(), safe=False)
        return pc.if_else(pc.is_nan(numbers), None, numbers)

    def _parsed(self, name: str, values: pa.Array, remove: str) -> pa.Array:
        separators = sorted((set(remove) & _SEPARATORS) | set(self._source.thousands or ""))
        texts = values
        for character in set(remove) - _SEPARATORS:
            texts = pc.replace_substring(texts, character, "")
        texts = pc.utf8_trim_whitespace(texts)
        readable = pc.fill_null(pc.match_substring_regex(texts, _pattern(self._source.decimal, separators)), False)
        self._errors.add(true(pc.and_not(pc.is_valid(values), readable)), name, "not a number", values)
        for separator in separators:
            texts = pc.replace_substring(texts, separator, "")
        if self._source.decimal != ".":
            texts = pc.replace_substring(texts, self._source.decimal, ".")
        return pc.cast(pc.if_else(readable, texts, None), pa.float64())


def _pattern(decimal: str, separators: list[str]) -> str:
    """Pattern of a number: groups of three digits (Indian grouping: two, then three), a fraction, an exponent."""
    mark = f"[{decimal}]"
    whole = "[0-9]+"
    if separators:
        between = "[" + "".join(separators) + "]"
        whole = f"(?:[0-9]{{1,3}}(?:{between}[0-9]{{2,3}})*{between}[0-9]{{3}}|[0-9]+)"
    return f"^[+-]?(?:{whole}(?:{mark}[0-9]*)?|{mark}[0-9]+)(?:[eE][+-]?[0-9]+)?$"
