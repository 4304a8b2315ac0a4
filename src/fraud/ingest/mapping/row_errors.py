"""Errors of unreadable values, by row."""

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

_SHOWN: Final = 80


class RowErrors:
    """One text per row, null for rows without an error."""

    def __init__(self, rows: int) -> None:
        self._texts = pa.nulls(rows, pa.string())

    def add(self, where: NDArray[np.bool_], column: str, reason: str, values: pa.Array | None = None) -> None:
        """Add `column: reason: 'value'` to the rows `where`."""
        if not where.any():
            return
        text = pa.scalar(f"{column}: {reason}")
        if values is not None:
            shown = pc.utf8_slice_codeunits(values.cast(pa.string()), 0, _SHOWN)
            text = pc.binary_join_element_wise(
                text, ": '", shown, "'", "", null_handling="replace", null_replacement=""
            )
        joined = pc.if_else(pc.is_null(self._texts), text, pc.binary_join_element_wise(self._texts, text, "; "))
        self._texts = pc.if_else(pa.array(where), joined, self._texts)

    @property
    def texts(self) -> pa.Array:
        return self._texts


def true(mask: pa.Array) -> NDArray[np.bool_]:
    """A mask without nulls as bool[n]."""
    values: NDArray[np.bool_] = mask.to_numpy(zero_copy_only=False)
    return values
