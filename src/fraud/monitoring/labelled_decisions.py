"""Join decisions about transactions with their labels at a given age.

A decision is the answer of serving, or the nightly score if there is no answer. A label counts if it was received
within `maturity_days` after the day of the event; a fraud that was reported later is counted as late. A transaction
without a label counts as legitimate, as in training, and is counted separately.
"""

import datetime as dt
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fraud.core.contract import US_PER_DAY
from fraud.lake import catalog
from fraud.lake.labels import NO_LABELS, latest
from fraud.stats.decision_quality import Outcomes

_DECIDED: Final = ["transaction_id", "fraud_probability", "is_fraud"]
_EPOCH: Final = dt.date(1970, 1, 1)


@dataclass(frozen=True, slots=True)
class Day:
    """One day's decided transactions."""

    day: str
    outcomes: Outcomes
    served: int
    """Decisions of serving."""
    nightly: int
    """Decisions of the nightly scores, for transactions without a decision of serving."""
    undecided: int
    """Transactions that this version neither answered nor scored."""
    late_frauds: int
    """Frauds that were reported after the label maturity."""
    unlabelled: int
    """Transactions without a label."""
    unlabelled_stops: int
    """Stopped transactions without a label."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """The labels of some days, read once. Create it with `read`."""

    labels: pa.Table
    """contract.LABEL_COLUMNS, in any order."""
    maturity_days: int
    as_of: dt.datetime
    """Labels with a later ingestion time are ignored."""

    @classmethod
    def read(cls, lake_uri: str, first: str, as_of: dt.date, maturity_days: int) -> Self:
        """Labels of events from the day `first` on, received until the end of the day `as_of`."""
        labels = catalog.LABELS.at(lake_uri).read_range(first, str(as_of))
        return cls(labels if labels is not None else NO_LABELS, maturity_days, _end(as_of))

    def judge(self, day: str, rows: pa.Table, *, served: int) -> Day:
        """Join a day's rows with labels. `rows`: transaction_id, user_id, amount, fraud_probability and is_fraud, null
        without a decision. `served`: number of decisions by serving."""
        labels = self.labels.filter(pc.is_in(self.labels["transaction_id"], rows["transaction_id"].combine_chunks()))
        mature = _end(dt.date.fromisoformat(day) + dt.timedelta(days=self.maturity_days))
        now, then = latest(labels, self.as_of), latest(labels, min(mature, self.as_of))
        frauds, frauds_then = (pc.filter(t["transaction_id"], t["is_fraud"]).combine_chunks() for t in (now, then))
        decided = rows.filter(pc.is_valid(rows["is_fraud"]))
        ids = decided["transaction_id"]
        is_fraud = pc.is_in(ids, frauds_then).to_numpy()
        unlabelled = pc.invert(pc.is_in(ids, now["transaction_id"].combine_chunks())).to_numpy()
        stopped = decided["is_fraud"].to_numpy()
        return Day(
            day,
            Outcomes(
                decided["fraud_probability"].cast(pa.float64()).to_numpy(), stopped, is_fraud,
                decided["amount"].to_numpy(), _numbers(decided["user_id"]),
            ),
            served=served, nightly=decided.num_rows - served, undecided=rows.num_rows - decided.num_rows,
            late_frauds=int((pc.is_in(ids, frauds).to_numpy() & ~is_fraud).sum()),
            unlabelled=int(unlabelled.sum()), unlabelled_stops=int((unlabelled & stopped).sum()),
        )  # fmt: skip


class Decisions:
    """Decisions of one model version about events of the days [first, last]."""

    def __init__(self, lake_uri: str, version: str, first: str, last: str) -> None:
        self._version = version
        self._transactions, self._scores, self._log = (
            definition.at(lake_uri).open() for definition in (catalog.TRANSACTIONS, catalog.SCORES, catalog.PREDICTIONS)
        )
        bounds = [(dt.date.fromisoformat(day) - _EPOCH).days for day in (first, last)]
        self._first_us, self._end_us = bounds[0] * US_PER_DAY, (bounds[1] + 1) * US_PER_DAY
        self._served = self._first_answers()

    def of(self, day: str) -> tuple[pa.Table, int]:
        """The day's rows for `Labelled.judge`, and the number of decisions by serving."""
        rows = self._transactions.read(day, ["transaction_id", "user_id", "amount"])
        nightly = _NO_DECISIONS
        if self._scores.partition(day) is not None:
            scored = self._scores.read(day, [*_DECIDED, "model_version"])
            nightly = scored.filter(pc.equal(scored["model_version"], self._version)).select(_DECIDED)
        ids = rows["transaction_id"].combine_chunks()
        served = self._served.filter(pc.is_in(self._served["transaction_id"], ids))
        rest = nightly.filter(pc.invert(pc.is_in(nightly["transaction_id"], served["transaction_id"].combine_chunks())))
        decided = pa.concat_tables([t.cast(_NO_DECISIONS.schema) for t in (served, rest)])
        return rows.join(decided, "transaction_id").sort_by("transaction_id"), served.num_rows

    def _first_answers(self) -> pa.Table:
        """The first answer to each transaction. The log is partitioned by time of the answer, not by event time."""
        columns = [*_DECIDED, "event_us", "served_us", "model_version"]
        schema = _NO_DECISIONS.schema.append(pa.field("served_us", pa.int64()))
        found = [schema.empty_table()]
        for day in self._log.partitions():
            table = self._log.read(day, columns)
            selected = pc.and_(
                pc.and_(pc.greater_equal(table["event_us"], self._first_us), pc.less(table["event_us"], self._end_us)),
                pc.and_(pc.equal(table["model_version"], self._version), pc.is_valid(table["transaction_id"])),
            )
            found.append(table.filter(selected).select(schema.names).cast(schema))
        answers = pa.concat_tables(found).sort_by([("transaction_id", "ascending"), ("served_us", "ascending")])
        names = answers["transaction_id"].to_numpy(zero_copy_only=False)
        first = np.unique(names, return_index=True)[1] if len(names) else np.array([], dtype=np.int64)
        return answers.take(pa.array(first)).select(_DECIDED)


_DECISION: Final = pa.schema(
    [("transaction_id", pa.string()), ("fraud_probability", pa.float64()), ("is_fraud", pa.bool_())]
)
_NO_DECISIONS: Final = pa.Table.from_batches([], _DECISION)  # empty_table() would import pandas


def _numbers(users: pa.ChunkedArray) -> NDArray[np.int64]:
    """A number for each user, int64[n]."""
    numbers: NDArray[np.int64] = users.combine_chunks().dictionary_encode().indices.cast(pa.int64()).to_numpy()
    return numbers


def _end(day: dt.date) -> dt.datetime:
    """The last microsecond of a day, UTC."""
    return dt.datetime.combine(day, dt.time.max, dt.UTC)
