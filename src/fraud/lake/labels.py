"""Labels of transactions as of a point in time."""

from datetime import datetime
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from fraud.core.contract import LABEL_COLUMNS
from fraud.lake import catalog
from fraud.lake.dataset import DatasetVersion

NO_LABELS: Final = pa.Table.from_batches([], catalog.LABEL_SCHEMA)  # empty_table() would import pandas
_ORDER: Final = [("transaction_id", "ascending"), ("label_timestamp", "ascending"), ("is_fraud", "ascending")]


def labels_as_of(labels: DatasetVersion, as_of: datetime) -> pa.Table:
    """One row per labelled transaction (contract.LABEL_COLUMNS), sorted by transaction_id: the latest report with
    `label_timestamp <= as_of`. Of two opposite reports at the same microsecond, the report of fraud is used."""
    reports = labels.read_range("", as_of.date().isoformat(), list(LABEL_COLUMNS))
    return NO_LABELS if reports is None else latest(reports, as_of)


def latest(reports: pa.Table, as_of: datetime) -> pa.Table:
    """`labels_as_of` for a table of reports (contract.LABEL_COLUMNS)."""
    past = reports.filter(pc.less_equal(reports["label_timestamp"], pa.scalar(as_of)))
    ordered = past.sort_by(_ORDER).combine_chunks()
    ids = ordered["transaction_id"]
    last = pc.fill_null(pc.not_equal(ids.slice(0, max(len(ids) - 1, 0)), ids.slice(1)), True).combine_chunks()
    return ordered.filter(pa.concat_arrays([last, pa.array([True] * min(len(ids), 1), pa.bool_())]))
