"""What was decided about transactions, and what their labels said when they had reached a certain age.

A decision is the answer that serving gave for the transaction, and the nightly score where it gave none. A label counts
when it had come `maturity` days after the event's day; a fraud reported later is counted as late. A transaction about
which nobody ever says anything counts as legitimate, as in training, and is counted too.
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
    """Decisions that serving gave."""
    nightly: int
    """Decisions of the nightly scores, where serving gave none."""
    undecided: int
    """Transactions that this version neither answered nor scored."""
    late_frauds: int
    """Reported as fraud after they had counted as legitimate."""
    unlabelled: int
    """Nobody has said anything about them until now."""
    unlabelled_stops: int
    """Of those, the stopped ones: nobody has said whether rightly."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """The labels of some days, read once. Make it with `read`."""

    known: pa.Table
    """contract.LABEL_COLUMNS, in any order."""
    maturity_days: int
    as_of: dt.datetime
    """Nothing that was learned later counts."""

    @classmethod
    def read(cls, lake_uri: str, first: str, as_of: dt.date, maturity_days: int) -> Self:
        """For events from the day `first` on, as known at the end of the day `as_of`."""
        known = catalog.LABELS.at(lake_uri).read_range(first, str(as_of))
        return cls(known if known is not None else NO_LABELS, maturity_days, _end(as_of))

    def outcomes(self, day: str, rows: pa.Table, *, served: int) -> Day:
        """Of a day's rows: transaction_id, user_id, amount, fraud_probability and is_fraud, null where undecided."""
        mine = self.known.filter(pc.is_in(self.known["transaction_id"], rows["transaction_id"].combine_chunks()))
        mature = _end(dt.date.fromisoformat(day) + dt.timedelta(days=self.maturity_days))
        now, then = latest(mine, self.as_of), latest(mine, min(mature, self.as_of))
        frauds, frauds_then = (pc.filter(t["transaction_id"], t["is_fraud"]).combine_chunks() for t in (now, then))
        decided = rows.filter(pc.is_valid(rows["is_fraud"]))
        ids = decided["transaction_id"]
        is_fraud = pc.is_in(ids, frauds_then).to_numpy()
        silent = pc.invert(pc.is_in(ids, now["transaction_id"].combine_chunks())).to_numpy()
        stopped = decided["is_fraud"].to_numpy()
        return Day(
            day,
            Outcomes(
                decided["fraud_probability"].cast(pa.float64()).to_numpy(), stopped, is_fraud,
                decided["amount"].to_numpy(), _numbers(decided["user_id"]),
            ),
            served=served, nightly=decided.num_rows - served, undecided=rows.num_rows - decided.num_rows,
            late_frauds=int((pc.is_in(ids, frauds).to_numpy() & ~is_fraud).sum()),
            unlabelled=int(silent.sum()), unlabelled_stops=int((silent & stopped).sum()),
        )  # fmt: skip


class Decisions:
    """What one model version decided, of events of the days [first, last]."""

    def __init__(self, lake_uri: str, version: str, first: str, last: str) -> None:
        self._lake, self._version = lake_uri, version
        bounds = [(dt.date.fromisoformat(day) - _EPOCH).days for day in (first, last)]
        self._first_us, self._end_us = bounds[0] * US_PER_DAY, (bounds[1] + 1) * US_PER_DAY
        self._served = self._answers()

    def of(self, day: str) -> tuple[pa.Table, int]:
        """The day's rows for `Labelled.outcomes`, and how many of the decisions serving gave."""
        rows = catalog.TRANSACTIONS.at(self._lake).read(day, ["transaction_id", "user_id", "amount"])
        scores = catalog.SCORES.at(self._lake)
        nightly = _NO_DECISIONS
        if scores.manifest(day) is not None:
            scored = scores.read(day, [*_DECIDED, "model_version"])
            nightly = scored.filter(pc.equal(scored["model_version"], self._version)).select(_DECIDED)
        ids = rows["transaction_id"].combine_chunks()
        served = self._served.filter(pc.is_in(self._served["transaction_id"], ids))
        rest = nightly.filter(pc.invert(pc.is_in(nightly["transaction_id"], served["transaction_id"].combine_chunks())))
        decided = pa.concat_tables([t.cast(_NO_DECISIONS.schema) for t in (served, rest)])
        return rows.join(decided, "transaction_id").sort_by("transaction_id"), served.num_rows

    def _answers(self) -> pa.Table:
        """The first answer to each transaction. Its day in the log is when it was asked, not when it happened."""
        log, columns = catalog.PREDICTIONS.at(self._lake), [*_DECIDED, "event_us", "served_us", "model_version"]
        schema = _NO_DECISIONS.schema.append(pa.field("served_us", pa.int64()))
        found = [schema.empty_table()]
        for day in log.partitions():
            table = log.read(day, columns)
            expected = pc.and_(
                pc.and_(pc.greater_equal(table["event_us"], self._first_us), pc.less(table["event_us"], self._end_us)),
                pc.and_(pc.equal(table["model_version"], self._version), pc.is_valid(table["transaction_id"])),
            )
            found.append(table.filter(expected).select(schema.names).cast(schema))
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
