"""Score rows of `features`: rows of `scores` in the same order, and counts of rejected rows by reason."""

from collections import Counter
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fraud.features.engines.arrow_vector import vectors
from fraud.lake import catalog

ROWS_AT_ONCE: Final = 65_536
SCHEMA: Final = catalog.SCORES.schema
INPUT: Final = pa.schema(
    [
        ("transaction_id", pa.string()),
        ("user_id", pa.string()),
        ("event_timestamp", pa.timestamp("us", tz="UTC")),
        ("merchant_category", pa.string()),
        ("amount", pa.float64()),
        ("distance_from_home", pa.float64()),
        ("transaction_velocity_1h", pa.float64()),
        ("avg_amount_7d", pa.float64()),
        ("unique_merchants_30d", pa.int64()),
    ]
)
"""The columns of `features` that are read."""
NULLABLE: Final = frozenset({"distance_from_home", "avg_amount_7d"})
"""Columns with an imputation for null (core.features.IMPUTATION). A null in another column rejects the row."""


class Model(Protocol):
    """Vectors float32[n, d] in, probabilities float32[n] out: OnnxModel, or FastTrees."""

    def probabilities(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]: ...


@dataclass(frozen=True, slots=True)
class Scorer:
    """A model, its version, feature hash and threshold, which every row of scores contains."""

    model: Model
    version: str
    feature_hash: str
    threshold: float

    def score(self, features: pa.Table) -> tuple[pa.Table, Counter[str]]:
        """SCHEMA rows for INPUT rows, and the number of rejected rows by reason.

        Raises ValueError when a value of the model is not a probability, because then no value can be trusted.
        """
        scored, rejected = [], Counter[str]()
        for start in range(0, features.num_rows, ROWS_AT_ONCE):
            rows, reasons = _usable(features.slice(start, ROWS_AT_ONCE))
            rejected += reasons
            scored.append(self._score(rows))
        return pa.concat_tables(scored) if scored else SCHEMA.empty_table(), rejected

    def _score(self, rows: pa.Table) -> pa.Table:
        probabilities = self.model.probabilities(vectors(rows))
        if len(probabilities) != rows.num_rows or not bool(np.all((probabilities >= 0) & (probabilities <= 1))):
            raise ValueError(f"model version {self.version} returned a value that is not a probability")
        n = rows.num_rows
        return pa.table(
            [
                rows["transaction_id"],
                rows["user_id"],
                rows["event_timestamp"],
                pa.array(probabilities),
                # As in serving: the float32 probability is converted to float64, not the threshold to float32.
                pa.array(probabilities.astype(np.float64) >= self.threshold),
                pa.repeat(self.version, n),
                pa.repeat(self.feature_hash, n),
            ],
            schema=SCHEMA,
        )


def _usable(rows: pa.Table) -> tuple[pa.Table, Counter[str]]:
    """The rows that can be scored, and the reasons of the others (the first in INPUT's order)."""
    reasons: Counter[str] = Counter()
    for field in INPUT:
        if field.name not in NULLABLE:
            rows = _without(rows, pc.is_null(rows[field.name]), f"{field.name} is null", reasons)
        if pa.types.is_floating(field.type):
            infinite = pc.fill_null(pc.invert(pc.is_finite(rows[field.name])), False)
            rows = _without(rows, infinite, f"{field.name} is not finite", reasons)
    return rows, reasons


def _without(rows: pa.Table, bad: pa.ChunkedArray, reason: str, reasons: Counter[str]) -> pa.Table:
    count = pc.sum(bad).as_py()
    if not count:
        return rows
    reasons[reason] += count
    return rows.filter(pc.invert(bad))
