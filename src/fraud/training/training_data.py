"""Load a training set as matrices, split by time."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fraud.core.contract import CATEGORY_INDEX, OTHER_INDEX, US_PER_DAY, US_PER_SECOND, day_of_week, hour_of_day
from fraud.core.features import VECTOR_NAMES, WINDOW_NAMES
from fraud.core.vector import fill_row
from fraud.errors import BadInputError
from fraud.features.engines.arrow_vector import vectors
from fraud.lake import catalog
from fraud.lake.dataset import Dataset, Manifest
from fraud.params import Params
from fraud.stats.comparison import Rows
from fraud.stats.split import Part, Split, split_by_time

_COMPARED_ROWS: Final = 2_000


class TrainingData(NamedTuple):
    """A snapshot in memory. `table` is sorted by event time; the rows of each part are a slice of it."""

    manifest: Manifest
    table: pa.Table
    event_us: NDArray[np.int64]
    split: Split
    train: Rows
    validation: Rows
    holdout: Rows
    final_part: Part
    """Days that the deployed model is fitted on: from the first training day to the end of validation. Their labels
    are mature when the holdout starts. With `training.refit: false`, the training part alone."""
    final: Rows
    """The rows of `final_part`."""

    def rows_of(self, part: Part) -> slice:
        """Slice of the table with the rows of a part."""
        first, end = np.searchsorted(self.event_us, [part.first_us, part.end_us])
        return slice(int(first), int(end))

    def immature_rows(self) -> int | None:
        """Holdout rows that are younger than the label maturity at the cut-off. None: the snapshot has no cut-off."""
        made_from = self.manifest.made_from
        if not {"cut_off", "maturity_days"} <= made_from.keys():
            return None
        cut_off_us = round(datetime.fromisoformat(made_from["cut_off"]).timestamp() * 1e6)
        mature_us = cut_off_us - int(made_from["maturity_days"]) * US_PER_DAY
        return int(np.count_nonzero(self.event_us[self.rows_of(self.split.holdout)] >= mature_us))

    def feature_mismatches(self) -> int:
        """Values, in evenly spaced rows, whose bits differ from those of the vector that the request path computes."""
        row = np.empty(len(VECTOR_NAMES), dtype=np.float32)
        chosen = np.linspace(0, self.table.num_rows - 1, min(_COMPARED_ROWS, self.table.num_rows)).astype(np.int64)
        rows = self.table.take(chosen)
        wrong = 0
        for batch, event_us, given in zip(
            vectors(rows).view(np.uint32), self.event_us[chosen].tolist(), rows.to_pylist(), strict=True
        ):
            fill_row(
                row, given["amount"], hour_of_day(event_us), day_of_week(event_us), given["distance_from_home"],
                CATEGORY_INDEX.get(given["merchant_category"], OTHER_INDEX), *(given[name] for name in WINDOW_NAMES),
            )  # fmt: skip
            wrong += int(np.count_nonzero(row.view(np.uint32) != batch))
        return wrong


def manifest_of(lake_uri: str, snapshot: str | None) -> Manifest:
    """The manifest of a snapshot; by default the one with the latest cut-off. Raises BadInputError without one."""
    snapshots = catalog.TRAINING_SETS.at(lake_uri)
    if snapshot is not None:
        found = snapshots.manifest(snapshot)
        if found is None:
            raise BadInputError(
                f"there is no training set {snapshot}", expected=", ".join(snapshots.partitions()) or "at least one",
                hint="fraud training-set",
            )  # fmt: skip
        return found
    every = [manifest for name in snapshots.partitions() if (manifest := snapshots.manifest(name)) is not None]
    if not every:
        raise BadInputError("there is no training set", hint="fraud training-set")
    return max(every, key=lambda m: (m.made_from.get("cut_off", ""), m.partition))


def load(lake_uri: str, manifest: Manifest, params: Params) -> TrainingData:
    """Read and split a snapshot. Raises BadInputError if it cannot be split, or if a part has one class only."""
    table = catalog.TRAINING_SETS.at(lake_uri).read(manifest.partition)
    if not table.num_rows:
        raise BadInputError(f"training set {manifest.partition} is empty", hint="fraud ingest, then fraud training-set")
    event_us: NDArray[np.int64] = table["event_timestamp"].cast(pa.int64()).to_numpy()
    lengths = params.split
    try:
        split = split_by_time(
            int(event_us[0]), int(event_us[-1]), train_days=lengths.train_days, gap_days=lengths.gap_days,
            validation_days=lengths.validation_days, holdout_days=lengths.holdout_days,
            holdout_first_us=None if lengths.holdout_from is None else _first_us(lengths.holdout_from),
        )  # fmt: skip
    except ValueError as error:
        raise BadInputError(
            f"training set {manifest.partition} cannot be split",
            got=str(error),
            hint="ingest more days, or change split in params.yaml",
        ) from error
    users = table["user_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    whole = Rows(vectors(table), table["is_fraud"].to_numpy(), users.astype(np.int64))

    def part(name: str, bounds: Part) -> Rows:
        first, end = np.searchsorted(event_us, [bounds.first_us, bounds.end_us])
        rows = Rows(whole.vectors[first:end], whole.is_fraud[first:end], whole.users[first:end])
        frauds = int(rows.is_fraud.sum())
        if frauds in (0, len(rows.is_fraud)):
            raise BadInputError(
                f"the {name} part has one class only", expected="both frauds and legitimate transactions",
                got=f"{frauds} frauds in {len(rows.is_fraud)} rows", hint="ingest more days, or their labels",
            )  # fmt: skip
        return rows._replace(users=np.unique(rows.users, return_inverse=True)[1])

    final = Part(split.train.first_us, (split.validation if params.training.refit else split.train).end_us)
    return TrainingData(
        manifest, table, event_us, split,
        part("training", split.train), part("validation", split.validation), part("holdout", split.holdout),
        final, part("final", final),
    )  # fmt: skip


def quarantine_rate(lake_uri: str) -> float | None:
    """Share of all delivered rows that were quarantined. None when the lake has no transactions."""
    accepted, quarantined = (_rows(d.at(lake_uri)) for d in (catalog.TRANSACTIONS, catalog.QUARANTINE))
    return quarantined / (accepted + quarantined) if accepted else None


def _rows(dataset: Dataset) -> int:
    return sum(manifest.rows for name in dataset.partitions() if (manifest := dataset.manifest(name)) is not None)


def describe(data: TrainingData) -> Mapping[str, object]:
    """Days, rows and frauds of each part, for log, record and report."""
    parts = zip(
        ("train", "validation", "holdout", "final"), (*data.split[:3], data.final_part),
        (data.train, data.validation, data.holdout, data.final), strict=True,
    )  # fmt: skip
    found = {
        name: {
            "first_day": _day(bounds.first_us), "end_day": _day(bounds.end_us),
            "rows": len(rows.is_fraud), "frauds": int(rows.is_fraud.sum()),
        }
        for name, bounds, rows in parts
    }  # fmt: skip
    return {**found, "gap_days": data.split.gap_days, "shrunk": data.split.shrunk}


def _first_us(day: date) -> int:
    return round(datetime.combine(day, time.min, UTC).timestamp()) * US_PER_SECOND


def _day(at_us: int) -> str:
    return str(np.datetime64(at_us, "us").astype("datetime64[D]"))
