"""Load a training set as matrices, split by time."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fraud.core.columns import learnt_values
from fraud.core.contract import US_PER_DAY, US_PER_HOUR, US_PER_SECOND, day_of_week, hour_of_day
from fraud.core.declaration import Declaration
from fraud.core.declaration_types import CategoryColumn
from fraud.core.plan import Plan
from fraud.errors import BadInputError
from fraud.features.engines.arrow_vector import base_values, vectors
from fraud.lake import catalog
from fraud.lake.records import Partition
from fraud.params import Params
from fraud.stats.comparison import Rows
from fraud.stats.slices import slices
from fraud.stats.split import Part, Split, split_by_time

_COMPARED_ROWS: Final = 2_000


class TrainingData(NamedTuple):
    """A snapshot in memory. `table` is sorted by event time; the rows of each part are a slice of it."""

    snapshot: Partition
    plan: Plan
    """Of the declaration with its category lists filled in."""
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
        made_from = self.snapshot.made_from
        if not {"cut_off", "maturity_days"} <= made_from.keys():
            return None
        cut_off_us = round(datetime.fromisoformat(made_from["cut_off"]).timestamp() * 1e6)
        mature_us = cut_off_us - int(made_from["maturity_days"]) * US_PER_DAY
        return int(np.count_nonzero(self.event_us[self.rows_of(self.split.holdout)] >= mature_us))

    def feature_mismatches(self) -> int:
        """Values, in evenly spaced rows, whose bits differ from those of the vector that the request path computes."""
        plan = self.plan
        row = np.empty(len(plan.vector.names), dtype=np.float32)
        chosen = np.linspace(0, self.table.num_rows - 1, min(_COMPARED_ROWS, self.table.num_rows)).astype(np.int64)
        rows = self.table.take(chosen)
        wrong = 0
        for batch, event_us, given in zip(
            vectors(rows, plan).view(np.uint32), self.event_us[chosen].tolist(), rows.to_pylist(), strict=True
        ):
            features = [None if (value := given[name]) is None else float(value) for name in plan.features]
            plan.vector.row(row, plan.base_values(hour_of_day(event_us), day_of_week(event_us), given, features))
            wrong += int(np.count_nonzero(row.view(np.uint32) != batch))
        return wrong


def partition_of(lake_uri: str, snapshot: str | None, declaration: Declaration) -> Partition:
    """A snapshot; by default the one with the latest cut-off of the declaration's features.

    Raises BadInputError without one, and for a snapshot with the features of another declaration.
    """
    snapshots = catalog.TRAINING_SETS.at(lake_uri).open()
    if snapshot is not None:
        found = snapshots.partition(snapshot)
        if found is None:
            raise BadInputError(
                f"there is no training set {snapshot}", expected=", ".join(snapshots.partitions()) or "at least one",
                hint="fraud training-set",
            )  # fmt: skip
        if not _of_declaration(found, declaration):
            raise BadInputError(
                f"training set {snapshot} has the columns and features of another declaration",
                expected=f"declaration {declaration.stored_hash[:12]}, that of features.yaml or of the version",
                got=found.made_from.get("declaration", "none")[:12], hint="fraud training-set",
            )  # fmt: skip
        return found
    every = list(snapshots.contents.partitions.values())
    usable = [partition for partition in every if _of_declaration(partition, declaration)]
    if not usable:
        raise BadInputError(
            "there is no training set" + (" with the declared columns and features" if every else ""),
            hint="fraud build-features, then fraud training-set",
        )
    return max(usable, key=lambda m: (m.made_from.get("cut_off", ""), m.name))


def _of_declaration(partition: Partition, declaration: Declaration) -> bool:
    return partition.made_from.get("declaration") == declaration.stored_hash


def load(lake_uri: str, partition: Partition, params: Params, declaration: Declaration) -> TrainingData:
    """Read and split a snapshot. Category lists that the declaration does not have are learnt on the training part.

    Raises BadInputError if it cannot be split, or if a part has one class only.
    """
    table = catalog.TRAINING_SETS.at(lake_uri).read(partition.name)
    if not table.num_rows:
        raise BadInputError(f"training set {partition.name} is empty", hint="fraud ingest, then fraud training-set")
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
            f"training set {partition.name} cannot be split",
            got=str(error),
            hint="ingest more days, or change split in params.yaml",
        ) from error
    first, end = np.searchsorted(event_us, [split.train.first_us, split.train.end_us])
    plan = Plan(declaration.resolved(learnt_lists(declaration, table[first:end])))
    whole = rows_of(table, plan)

    def part(name: str, bounds: Part) -> Rows:
        first, end = np.searchsorted(event_us, [bounds.first_us, bounds.end_us])
        rows = whole.at(slice(int(first), int(end)))
        frauds = int(rows.is_fraud.sum())
        if frauds in (0, len(rows.is_fraud)):
            raise BadInputError(
                f"the {name} part has one class only", expected="both frauds and legitimate transactions",
                got=f"{frauds} frauds in {len(rows.is_fraud)} rows", hint="ingest more days, or their labels",
            )  # fmt: skip
        return rows._replace(users=np.unique(rows.users, return_inverse=True)[1])

    final = Part(split.train.first_us, (split.validation if params.training.refit else split.train).end_us)
    return TrainingData(
        partition, plan, table, event_us, split,
        part("training", split.train), part("validation", split.validation), part("holdout", split.holdout),
        final, part("final", final),
    )  # fmt: skip


def rows_of(table: pa.Table, plan: Plan) -> Rows:
    """Vectors, labels, amounts and slices of the rows of a training set."""
    base = base_values(table, plan)
    users = table["user_id"].combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    hour = table["event_timestamp"].cast(pa.int64()).to_numpy() // US_PER_HOUR % 24
    amount = table["amount"].to_numpy()
    return Rows(
        plan.vector.table(base), table["is_fraud"].to_numpy(), users, amount, hour, slices(plan, base, amount)
    )  # fmt: skip


def holdout_vectors(data: TrainingData, plan: Plan, lake_uri: str) -> NDArray[np.float32]:
    """The holdout's rows as vectors of another version's plan: float32[n, len(plan.vector.names)].

    The features of another declaration are read from its dataset of the lake. Raises BadInputError if rows are missing
    there.
    """
    table = data.table[data.rows_of(data.split.holdout)]
    if plan.stored_hash == data.plan.stored_hash:
        return vectors(table, plan)
    dataset = catalog.features(plan.stored_hash).at(lake_uri).open()
    first, end = (_day(at_us) for at_us in data.split.holdout)
    parts = [dataset.read(day) for day in dataset.partitions() if first <= day < end]
    found = None
    if parts:
        features = pa.concat_tables(parts)
        found = pc.index_in(table["transaction_id"], value_set=features["transaction_id"])
    if found is None or found.null_count:
        raise BadInputError(
            f"the lake has no features of declaration {plan.stored_hash[:12]} for rows of the holdout",
            expected=f"{table.num_rows:,} rows of {first} to {end}",
            got=f"{table.num_rows - found.null_count if found is not None else 0:,} rows",
            hint="fraud build-features --live",
        )  # fmt: skip
    return vectors(features.take(found), plan)


def missing_rates(data: TrainingData, part: Part) -> dict[str, float]:
    """Share of a part's rows without a value, before imputation, of each column, window and daily feature."""
    table = data.table[data.rows_of(part)]
    columns = zip(data.plan.vector.inputs[2:], data.plan.sources, strict=True)
    return {
        given.name: table[column or given.name].null_count / max(1, table.num_rows) for given, (column, _) in columns
    }  # fmt: skip


def learnt_lists(declaration: Declaration, table: pa.Table) -> dict[str, tuple[str, ...]]:
    """The list of each category column with `learn`: as the declaration has it, otherwise from the rows of `table`."""
    found = {}
    for name in declaration.to_learn:
        column = declaration.column(name)
        if not isinstance(column, CategoryColumn):
            continue
        if column.values is None:
            counted = pc.value_counts(table[name].combine_chunks().drop_null())
            counts = zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True)
            found[name] = learnt_values(column, dict(counts))
        else:
            found[name] = column.values
    return found


def quarantine_rate(lake_uri: str) -> float | None:
    """Share of all delivered rows that were quarantined. None when the lake has no transactions."""
    accepted, quarantined = (d.at(lake_uri).open().rows for d in (catalog.TRANSACTIONS, catalog.QUARANTINE))
    return quarantined / (accepted + quarantined) if accepted else None


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
