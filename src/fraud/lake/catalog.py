"""Every dataset of the lake: name, partition key, schema, sort order and retention.

Jobs open a dataset with `catalog.TRANSACTIONS.at(lake_uri)`; no other module of the package contains a dataset name.
The name, the path of the table, has no `key=value`: polars takes each such folder above a table as a partition key too.
Tests compare docs/architecture.md with this module and reject dataset names elsewhere.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal

import pyarrow as pa

from fraud.core.daily import Table
from fraud.core.declaration import Declaration
from fraud.core.plan import tables
from fraud.lake.dataset import Dataset
from fraud.lake.objects import folders, listed

TIMESTAMP: Final = pa.timestamp("us", "UTC")
_TYPES: Final = {
    "number": pa.float64(), "flag": pa.bool_(), "category": pa.string(), "id": pa.string(),
    "float64": pa.float64(), "int64": pa.int64(),
}  # fmt: skip
_WHAT_IF: Final = "what_if"
_FEATURES: Final = "features"
_DAILY: Final = "daily"
_PARTS: Final = "daily_parts"
Columns = list[tuple[str, pa.DataType]]
LOOK_BACK_DAYS: Final = 180
"""Transactions and labels are kept this much longer than features: windows (at most 180 days) and daily aggregates (at
most 150 days) of the oldest features read them."""


@dataclass(frozen=True, slots=True)
class Retention:
    """How long a partition is kept: a setting, and a fixed number of days more."""

    setting: Literal["transaction_days", "prediction_retention_days", "landing_days", "version_days"]
    """Field of `Settings`, in days."""
    starts_at: Literal["newest day of transactions", "publication", "today"]
    """The age of a partition is counted back from this day, or from today to its publication."""
    more_days: int = 0
    condition: str = ""
    """A second condition for removal, for the documentation; the retention job implements it."""


@dataclass(frozen=True, slots=True)
class DatasetDefinition:
    """Name and layout of a dataset."""

    name: str
    key: str
    """Name of the partition key, as in `dt=2025-03-01`."""
    key_value: str
    """Description of the key's values."""
    schema: Callable[[Declaration], pa.Schema]
    """The columns in order, of a declaration; timestamps are UTC microseconds."""
    sorted_by: tuple[str, ...]
    """Order of the rows in a partition; empty: the order in which they were delivered."""
    retention: Retention

    @property
    def order(self) -> list[tuple[str, str]]:
        """`sorted_by`, as `pyarrow.Table.sort_by` takes it."""
        return [(column, "ascending") for column in self.sorted_by]

    @property
    def family(self) -> str:
        """The name without the declaration, table or version."""
        return self.name.partition("/")[0]

    def at(self, lake_uri: str) -> Dataset:
        """The dataset in the lake at a `file://` or `s3://` URI."""
        return Dataset(lake_uri, self.name, self.key)


def declared_columns(declaration: Declaration) -> Columns:
    """The declared columns of a transaction, sorted by name, with their types in the lake."""
    return [(name, _TYPES[column.type]) for name, column in sorted(declaration.columns.items())]


def transaction_columns(declaration: Declaration) -> Columns:
    """The columns of an accepted transaction, in order."""
    return [
        ("transaction_id", pa.string()), ("event_timestamp", TIMESTAMP), ("created_timestamp", TIMESTAMP),
        ("user_id", pa.string()), ("merchant_id", pa.string()), ("amount", pa.float64()),
        *declared_columns(declaration),
    ]  # fmt: skip


def feature_columns(declaration: Declaration) -> Columns:
    """The window and daily features, in declared order, with their types in the lake."""
    return [(feature.name, _TYPES[feature.dtype]) for feature in declaration.stored_features]


_BY_EVENT_TIME: Final = ("event_timestamp", "created_timestamp", "transaction_id")

TRANSACTIONS: Final = DatasetDefinition(
    "transactions", "dt", "day of event_timestamp", lambda d: pa.schema(transaction_columns(d)), _BY_EVENT_TIME,
    Retention("transaction_days", "newest day of transactions", LOOK_BACK_DAYS),
)  # fmt: skip
# The schema is that of a transaction file. A partition of a label file has the columns of LABELS, as text, instead.
QUARANTINE: Final = DatasetDefinition(
    "quarantine", "batch", "sha256 of the landed file",
    lambda d: pa.schema([
        *((name, pa.string()) for name, _ in transaction_columns(d)),
        ("parse_error", pa.string()), ("position", pa.int64()), ("reason", pa.string()),
    ]),
    (), Retention("landing_days", "publication"),
)  # fmt: skip
LABEL_SCHEMA: Final = pa.schema(
    [("transaction_id", pa.string()), ("is_fraud", pa.bool_()), ("label_timestamp", TIMESTAMP)]
)
LABELS: Final = DatasetDefinition(
    "labels", "dt", "day of label_timestamp", lambda _: LABEL_SCHEMA,
    ("label_timestamp", "transaction_id", "is_fraud"),
    Retention("transaction_days", "newest day of transactions", LOOK_BACK_DAYS),
)  # fmt: skip
TRAINING_SETS: Final = DatasetDefinition(
    "training_sets", "snapshot", "hash of the inputs it was made from",
    lambda d: pa.schema(
        [*transaction_columns(d), *feature_columns(d), ("is_fraud", pa.bool_()), ("label_timestamp", TIMESTAMP)]
    ),
    ("event_timestamp", "transaction_id"),
    Retention("version_days", "publication", condition="no model version or run that is kept was trained on it"),
)  # fmt: skip
SCORE_SCHEMA: Final = pa.schema([
    pa.field("transaction_id", pa.string(), nullable=False),
    pa.field("user_id", pa.string(), nullable=False),
    pa.field("event_timestamp", TIMESTAMP, nullable=False),
    pa.field("fraud_probability", pa.float32(), nullable=False),
    pa.field("is_fraud", pa.bool_(), nullable=False),
    pa.field("model_version", pa.string(), nullable=False),
    pa.field("feature_hash", pa.string(), nullable=False),
])  # fmt: skip
SCORES: Final = DatasetDefinition(
    "scores", "dt", "day of event_timestamp", lambda _: SCORE_SCHEMA,
    _BY_EVENT_TIME, Retention("prediction_retention_days", "newest day of transactions"),
)  # fmt: skip
PREDICTIONS: Final = DatasetDefinition(
    "predictions", "dt", "day of served_us",
    lambda d: pa.schema([
        pa.field("prediction_id", pa.string(), nullable=False),
        ("transaction_id", pa.string()),
        ("user_id", pa.string()),
        ("merchant_id", pa.string()),
        pa.field("amount", pa.float64(), nullable=False),
        *declared_columns(d),
        ("event_us", pa.int64()),
        pa.field("hour_of_day", pa.int64(), nullable=False),
        pa.field("day_of_week", pa.int64(), nullable=False),
        pa.field("served_us", pa.int64(), nullable=False),
        pa.field("history", pa.string(), nullable=False),
        pa.field("degraded", pa.bool_(), nullable=False),
        *((f.name, _TYPES["float64"]) for f in d.stored_features),
        *((f"sequence_{entity}", pa.int64()) for entity in entities_with_windows(d)),
        *((f"newest_us_{entity}", pa.int64()) for entity in entities_with_windows(d)),
        *((f"snapshot_{table.entity}", pa.string()) for table in tables(d)),
        pa.field("fraud_probability", pa.float64(), nullable=False),
        pa.field("is_fraud", pa.bool_(), nullable=False),
        pa.field("threshold", pa.float64(), nullable=False),
        pa.field("model_version", pa.string(), nullable=False),
        pa.field("model_sha256", pa.string(), nullable=False),
        pa.field("feature_hash", pa.string(), nullable=False),
        pa.field("latency_us", pa.int64(), nullable=False),
        ("challenger_version", pa.string()),
        ("challenger_probability", pa.float64()),
        ("traceparent", pa.string()),
    ]),
    ("served_us", "prediction_id"), Retention("prediction_retention_days", "today"),
)  # fmt: skip
ALL: Final = (TRANSACTIONS, QUARANTINE, LABELS, TRAINING_SETS, SCORES, PREDICTIONS)
"""The datasets that are not one per declaration or version."""


def entities_with_windows(declaration: Declaration) -> list[str]:
    """Names of the entities that have a history, sorted."""
    return [entity for entity in sorted(declaration.entities) if declaration.windows(entity)]


def features(stored_hash: str) -> DatasetDefinition:
    """Window and daily features of every transaction, of the declarations with this `stored_hash`."""
    return DatasetDefinition(
        f"{_FEATURES}/declaration-{stored_hash[:12]}", "dt", "day of event_timestamp",
        lambda d: pa.schema([*transaction_columns(d), *feature_columns(d)]), _BY_EVENT_TIME,
        Retention("transaction_days", "newest day of transactions"),
    )  # fmt: skip


def daily(table: Table) -> DatasetDefinition:
    """Snapshots of a daily table: a row per entity, sorted by id. The last row, with a null id, is the default row."""
    return DatasetDefinition(
        f"{_DAILY}/table-{table.id}", "dt", "first day on which the snapshot holds",
        lambda _: daily_schema(table), (table.id_column,),
        Retention("transaction_days", "newest day of transactions", 1),  # holds until `available_at` of the next day
    )  # fmt: skip


def daily_schema(table: Table) -> pa.Schema:
    """Columns of `daily`."""
    return pa.schema([(table.id_column, pa.string()), *((f.name, _TYPES[f.dtype]) for f in table.features)])


def daily_parts(table: Table) -> DatasetDefinition:
    """What the snapshots of a table need of one event day: a row per entity and day on which something became known."""
    return DatasetDefinition(
        f"{_PARTS}/table-{table.id}", "dt", "day of event_timestamp", lambda _: part_schema(table),
        ("known", table.id_column),
        Retention("transaction_days", "newest day of transactions", LOOK_BACK_DAYS),
    )  # fmt: skip


def part_schema(table: Table) -> pa.Schema:
    """Columns of `daily_parts`.

    Counts and sums are of the rows that became known on the day `known`; `frauds` counts the rows that became a fraud
    less those that are no longer one. `values:` has the values of a column that the entity had not had before `known`.
    """
    of_column = [(feature.aggregate, feature.column) for feature in table.features if feature.column is not None]
    distinct = sorted({column for aggregate, column in of_column if aggregate == "distinct"})
    numbers = sorted({column for aggregate, column in of_column if aggregate != "distinct"})
    return pa.schema([
        ("known", pa.date32()), (table.id_column, pa.string()), ("rows", pa.int64()), ("frauds", pa.int64()),
        *((f"{what}:{name}", pa.int64()) for name in numbers for what in ("count", "sum")),
        *((f"values:{name}", pa.list_(pa.string())) for name in distinct),
    ])  # fmt: skip


def of_declarations(declarations: Iterable[Declaration]) -> list[DatasetDefinition]:
    """The datasets that exist per declaration or daily table, each once: `features`, `daily` and `daily_parts`."""
    found = [
        definition
        for declaration in declarations
        for definition in (
            features(declaration.stored_hash),
            *(make(table) for table in tables(declaration) for make in (daily, daily_parts)),
        )
    ]
    return list({definition.name: definition for definition in found}.values())


def in_lake(lake_uri: str) -> list[DatasetDefinition]:
    """`features`, `daily` and `daily_parts` of every declaration that the lake contains, without columns."""
    examples = ((_FEATURES, features("")), (_DAILY, daily(_NO_TABLE)), (_PARTS, daily_parts(_NO_TABLE)))
    return [
        replace(example, name=f"{family}/{name}", schema=lambda _: pa.schema([]))
        for family, example in examples
        for name in folders(f"{lake_uri.rstrip('/')}/{family}")
        if name.startswith(("declaration-", "table-"))
    ]


_NO_TABLE: Final = Table("", "", (), 0, ())


def what_if(version: str) -> DatasetDefinition:
    """Scores by a model version that was named on the command line; not part of `SCORES`."""
    return DatasetDefinition(
        f"{_WHAT_IF}/version-{version}", SCORES.key, SCORES.key_value, SCORES.schema, SCORES.sorted_by,
        SCORES.retention,
    )  # fmt: skip


def what_ifs(lake_uri: str) -> list[DatasetDefinition]:
    """The `what_if` datasets that the lake contains, sorted by name."""
    found = listed(f"{lake_uri.rstrip('/')}/{_WHAT_IF}", 3)
    versions = {name.split("/")[0].removeprefix("version-") for name in found if name.startswith("version-")}
    return [what_if(version) for version in sorted(versions)]
