"""Score rows of `features`: rows of `scores` in the same order, and counts of rejected rows by reason."""

from collections import Counter
from typing import Final, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fraud.core.plan import Plan
from fraud.features.engines.arrow_vector import vectors
from fraud.lake import catalog

ROWS_AT_ONCE: Final = 65_536
SCHEMA: Final = catalog.SCORE_SCHEMA
_ALWAYS: Final = ("transaction_id", "user_id", "event_timestamp")


class Model(Protocol):
    """Vectors float32[n, d] in, probabilities float32[n] out: OnnxModel, or FastTrees."""

    def probabilities(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]: ...


def input_schema(plan: Plan) -> pa.Schema:
    """The columns of `features` that a version reads: those of its scores and those its vector is computed from."""
    inputs = (
        name if column is None else column
        for (name, _, _), (column, _) in zip(plan.vector.inputs[2:], plan.sources, strict=True)
    )
    schema = catalog.features(plan.stored_hash).schema(plan.declaration)
    return pa.schema([schema.field(name) for name in dict.fromkeys((*_ALWAYS, *inputs))])


def nullable(plan: Plan) -> frozenset[str]:
    """Columns in which a null has an imputation: declared columns, and features without a value of their own for an
    empty history. A null in another column rejects the row."""
    imputed = (name for name, empty in zip(plan.features, plan.empty, strict=True) if empty is None)
    return frozenset((*plan.columns, *imputed))


class Scorer:
    """Scores rows with a model version: its model, its plan and its threshold."""

    def __init__(self, model: Model, version: str, plan: Plan, threshold: float) -> None:
        self.model: Final = model
        self.version: Final = version
        self.plan: Final = plan
        self.threshold: Final = threshold
        self.input: Final = input_schema(plan)
        """The columns of the rows that `score` takes."""
        self._nullable = nullable(plan)

    def score(self, features: pa.Table) -> tuple[pa.Table, Counter[str]]:
        """SCHEMA rows for rows of `input`, and the number of rejected rows by reason.

        Raises ValueError when a value of the model is not a probability, because then no value can be trusted.
        """
        scored, rejected = [], Counter[str]()
        for start in range(0, features.num_rows, ROWS_AT_ONCE):
            rows, reasons = self._usable(features.slice(start, ROWS_AT_ONCE))
            rejected += reasons
            scored.append(self._score(rows))
        return pa.concat_tables(scored) if scored else SCHEMA.empty_table(), rejected

    def _score(self, rows: pa.Table) -> pa.Table:
        probabilities = self.model.probabilities(vectors(rows, self.plan))
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
                pa.repeat(self.plan.hash, n),
            ],
            schema=SCHEMA,
        )

    def _usable(self, rows: pa.Table) -> tuple[pa.Table, Counter[str]]:
        """The rows that can be scored, and the reasons of the others (the first in the order of `input`)."""
        reasons: Counter[str] = Counter()
        for field in self.input:
            if field.name not in self._nullable:
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
