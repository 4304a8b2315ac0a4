"""A slice of a day of `features` is one Spark task: read the slice, score it, write one object of scores."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fraud.core.declaration import parse
from fraud.core.plan import Plan
from fraud.lake.dataset import Dataset, DatasetVersion
from fraud.lake.objects import ROWS_PER_GROUP, DataObject, located
from fraud.lake.records import Partition
from fraud.scoring.scorer import Scorer

if TYPE_CHECKING:
    from pyspark.core.broadcast import Broadcast

    from fraud.registry.model_versions import ModelArtifact

_SCORERS: Final[dict[str, Scorer]] = {}


@dataclass(frozen=True, slots=True)
class Slice:
    """Rows of a data object of a day of `features`: the unit of work. It does not depend on the number of cores."""

    day: str
    uri: str
    object: DataObject
    first: int
    """Offset of the first row; `end` is the offset after the last row."""
    end: int


@dataclass(frozen=True, slots=True)
class SliceScored:
    """Result of a task: the written object, and the figures that the driver checks."""

    object: DataObject
    rows_in: int
    flagged: int
    rejected: Counter[str]
    id_hashes: NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class SliceUnusable:
    """The input of a task is damaged. Not an exception, because Spark would retry it and hide its type."""

    reason: str


def slices_of(features: DatasetVersion, day: str, source: Partition) -> Iterator[Slice]:
    """The slices of a day, one per row group. An object without rows is one slice, so that it is read and checked."""
    for uri, made in zip(features.object_uris(day), source.objects, strict=True):
        for first in range(0, max(made.rows, 1), ROWS_PER_GROUP):
            yield Slice(day, uri, made, first, min(first + ROWS_PER_GROUP, made.rows))


def scoring_task(
    scores: Dataset, artifact: "ModelArtifact", model: "Broadcast[bytes]"
) -> Callable[[Slice], SliceScored | SliceUnusable]:
    """The function that Spark runs in its workers."""
    version, threshold, declaration = artifact.version, artifact.threshold, artifact.plan.declaration.canonical()
    key = f"{version} {artifact.model_sha256} {artifact.plan.hash} {threshold!r}"

    def scorer() -> Scorer:
        """The worker's scorer, created by its first task and reused."""
        from fraud.scoring.trees import batch_model  # noqa: PLC0415 - numba takes a second to import

        if key not in _SCORERS:
            plan = Plan(parse(json.loads(declaration), learnt=True))
            _SCORERS.clear()
            _SCORERS[key] = Scorer(batch_model(model.value), version, plan, threshold)
        return _SCORERS[key]

    def score_slice(piece: Slice) -> SliceScored | SliceUnusable:
        from pandas.util import hash_array  # noqa: PLC0415 - pandas takes a second to import

        try:
            table = read_slice(piece, scorer().input)
        except FileNotFoundError:
            return SliceUnusable("the object does not exist")
        except (pa.ArrowException, ValueError) as error:
            return SliceUnusable(str(error))
        rows, rejected = scorer().score(table)
        return SliceScored(
            object=scores.put(piece.day, rows),
            rows_in=table.num_rows,
            flagged=pc.sum(rows["is_fraud"]).as_py() or 0,
            rejected=rejected,
            id_hashes=hash_array(rows["transaction_id"].to_numpy(), categorize=False),
        )

    return score_slice


def read_slice(piece: Slice, schema: pa.Schema) -> pa.Table:
    """The rows of a slice in a schema. The first slice of an object verifies its sha256."""
    fs, path = located(piece.uri)
    if piece.first == 0:
        data = fs.cat_file(path)
        if (digest := sha256(data).hexdigest()) != piece.object.sha256:
            raise ValueError(f"sha256 {digest} instead of {piece.object.sha256} as published")
        return _rows(pq.ParquetFile(pa.BufferReader(data)), piece, schema)
    with fs.open(path, "rb") as file:
        return _rows(pq.ParquetFile(file), piece, schema)


def _rows(file: pq.ParquetFile, piece: Slice, schema: pa.Schema) -> pa.Table:
    """Read the row groups that contain the slice, and slice them. Raises ArrowException or ValueError."""
    if missing := sorted(set(schema.names) - set(file.schema_arrow.names)):
        raise ValueError(f"no column {', '.join(missing)}")
    starts = np.cumsum([0, *(file.metadata.row_group(g).num_rows for g in range(file.num_row_groups))])
    groups = [g for g in range(file.num_row_groups) if starts[g] < piece.end and starts[g + 1] > piece.first]
    offset = piece.first - int(starts[groups[0]]) if groups else 0
    table = file.read_row_groups(groups, columns=schema.names, use_threads=False).select(schema.names)
    return table.slice(offset, piece.end - piece.first).cast(schema)
