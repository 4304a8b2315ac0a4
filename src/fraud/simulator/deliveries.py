"""Simulated deliveries: one table of transactions and one of labels per day.

The tables of a day have the rows with an ingestion time on that day: a late transaction is in a later table, and a
label is in the table of the day it was reported. Every day has its own random stream, so the same seed and start give
the same bytes, and the first days of a longer run equal those of a shorter one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa

from fraud.core.contract import LABEL_COLUMNS, TRANSACTION_COLUMNS, US_PER_DAY, US_PER_SECOND
from fraud.core.declaration_types import Column
from fraud.simulator import legitimate, roles, world
from fraud.simulator.bad_rows import spoil
from fraud.simulator.devices import Devices
from fraud.simulator.fraudulent import Fraudsters
from fraud.simulator.legitimate import Rows
from fraud.simulator.world import Bools, Floats, Ints

TIMESTAMP: Final = pa.timestamp("us", "UTC")
EPOCH: Final = date(1970, 1, 1)

LATE: Final = 0.003
"""Share of transactions that are ingested ten minutes to three days after the event; the others within seconds."""
LATE_US: Final = (600.0 * US_PER_SECOND, 3.0 * US_PER_DAY)
LABEL_MEDIAN_DAYS: Final = 7.0
LABEL_SIGMA: Final = 0.885
"""ln(30 / 7) / 1.645: with a median of 7 days, the 95th percentile is 30 days."""
NEVER_LABELLED: Final = 0.05
WRONGLY_LABELLED: Final = 0.0005

_DAYS, _BAD, _DEVICES, _EXTRA, _COLUMN = 1, 2, 4, 5, 6


@dataclass(frozen=True, slots=True)
class Plan:
    """Parameters of a simulation. The same plan gives the same bytes."""

    start: date
    days: int
    users: int
    seed: int
    fraud_rate: float
    bad_rows_per_100k: float
    columns: Mapping[str, Column]
    """The declared columns."""
    data_drift_from: int | None = None
    """Number of the day (0 is the first) from which legitimate spending changes."""
    concept_drift_from: int | None = None
    """Number of the day from which fraud changes."""


class Delivery(NamedTuple):
    """The tables of one day."""

    day: date
    transactions: pa.Table
    labels: pa.Table
    frauds: int
    """Number of fraudulent transactions in the table. Labels follow later, and some are wrong."""
    bad_rows: int


class _Ingested(NamedTuple):
    """Payments with their ingestion times. Columns of one length."""

    rows: Rows
    number: Ints
    """Index among the payments of the event day, a part of the id."""
    created_us: Ints

    def take(self, chosen: Ints | Bools) -> "_Ingested":
        return _Ingested(self.rows.take(chosen), self.number[chosen], self.created_us[chosen])

    @classmethod
    def join(cls, parts: list["_Ingested"]) -> "_Ingested":
        return cls(
            Rows.join([part.rows for part in parts]),
            np.concatenate([part.number for part in parts]),
            np.concatenate([part.created_us for part in parts]),
        )


class _Labels(NamedTuple):
    """Reports of fraud. Columns of one length."""

    event_day: Ints
    number: Ints
    is_fraud: Bools
    label_us: Ints

    def take(self, chosen: Ints | Bools) -> "_Labels":
        return _Labels(self.event_day[chosen], self.number[chosen], self.is_fraud[chosen], self.label_us[chosen])


def deliveries(plan: Plan) -> Iterator[Delivery]:
    """One delivery per day, in order. Memory use depends on users and rows per day, not on the number of days.

    Raises BadConfigError for a declared column that cannot have the values of its role.
    """
    roles.check(plan.columns)
    place = world.build(plan.seed, plan.users)
    devices = Devices(place, _stream(plan, _DEVICES))
    travel, fraudsters = legitimate.Travel(place), Fraudsters(place, devices, plan.fraud_rate)
    users = pa.array([f"u{i:06d}" for i in range(plan.users)])
    merchants = pa.array([f"m{i:05d}" for i in range(place.merchants)])
    first = (plan.start - EPOCH).days
    spilled: list[Rows] = []
    waiting: list[_Ingested] = []
    reported: list[_Labels] = []
    for index in range(plan.days):
        day, end_us = first + index, (first + index + 1) * US_PER_DAY
        rng, extra = _stream(plan, _DAYS, day), _stream(plan, _EXTRA, day)
        paid = legitimate.payments(
            rng, extra, place, devices, day, travel.city(rng, extra, day), drifted=_from(plan.data_drift_from, index)
        )
        stolen = fraudsters.payments(rng, extra, day, concept_drifted=_from(plan.concept_drift_from, index))
        today = Rows.join([*spilled, paid, stolen])
        tomorrow = today.event_us >= end_us
        spilled, today = [today.take(tomorrow)], today.take(~tomorrow)
        today = today.take(np.argsort(today.event_us, kind="stable"))
        ingested = _Ingested(today, np.arange(len(today.user)), _created(rng, today.event_us))
        reported.append(_labels(rng, ingested, day))
        arrived, waiting = _split([*waiting, ingested], end_us)
        labels = _Labels(*(np.concatenate(columns) for columns in zip(*reported, strict=True)))
        due = labels.label_us < end_us
        reported, labels = [labels.take(~due)], labels.take(due)
        table = _transactions(plan, arrived, users, merchants)
        for name, values in roles.values(
            partial(_stream, plan, _COLUMN), place, arrived.rows, day, plan.columns
        ).items():
            table = table.append_column(name, values)
        spoiled = spoil(_stream(plan, _BAD, day), table, plan.bad_rows_per_100k, plan.columns)
        yield Delivery(
            plan.start + timedelta(days=index), spoiled, _label_table(plan.seed, labels),
            int(arrived.rows.fraud.sum()), spoiled.num_rows - table.num_rows,
        )  # fmt: skip


def _stream(plan: Plan, *key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(plan.seed, spawn_key=key))


def _from(start: int | None, index: int) -> bool:
    return start is not None and index >= start


def _created(rng: np.random.Generator, event_us: Ints) -> Ints:
    n = len(event_us)
    soon = np.exp(rng.normal(np.log(2.0), 0.7, n)) * US_PER_SECOND
    late = np.exp(rng.uniform(np.log(LATE_US[0]), np.log(LATE_US[1]), n))
    return event_us + np.where(rng.random(n) < LATE, late, soon).astype(np.int64)


def _labels(rng: np.random.Generator, ingested: _Ingested, day: int) -> _Labels:
    fraud = ingested.rows.fraud
    n = len(fraud)
    delay: Floats = np.exp(rng.normal(np.log(LABEL_MEDIAN_DAYS), LABEL_SIGMA, n)) * US_PER_DAY
    mislabelled = rng.random(n) < WRONGLY_LABELLED
    reported = (fraud & (rng.random(n) >= NEVER_LABELLED)) | mislabelled
    labels = _Labels(
        np.full(n, day), ingested.number, fraud ^ mislabelled, ingested.created_us + delay.astype(np.int64)
    )  # fmt: skip
    return labels.take(reported)


def _split(parts: list[_Ingested], end_us: int) -> tuple[_Ingested, list[_Ingested]]:
    """The rows ingested before `end_us`, ordered by ingestion time, and the others."""
    everything = _Ingested.join(parts)
    arrived = everything.created_us < end_us
    now = everything.take(arrived)
    return now.take(np.argsort(now.created_us, kind="stable")), [everything.take(~arrived)]


def _ids(seed: int, event_day: Ints, number: Ints) -> pa.Array:
    names = {int(d): f"{seed}-{EPOCH + timedelta(days=int(d)):%Y%m%d}" for d in np.unique(event_day)}
    pairs = zip(event_day.tolist(), number.tolist(), strict=True)
    return pa.array([f"{names[d]}-{n:07d}" for d, n in pairs], pa.string())


def _transactions(plan: Plan, ingested: _Ingested, users: pa.Array, merchants: pa.Array) -> pa.Table:
    """The built-in columns."""
    rows = ingested.rows
    columns = {
        "transaction_id": _ids(plan.seed, rows.event_us // US_PER_DAY, ingested.number),
        "event_timestamp": pa.array(rows.event_us).cast(TIMESTAMP),
        "created_timestamp": pa.array(ingested.created_us).cast(TIMESTAMP),
        "user_id": users.take(pa.array(rows.user)),
        "merchant_id": merchants.take(pa.array(rows.merchant)),
        "amount": pa.array(np.maximum(np.round(rows.amount, 2), 0.01)),
    }
    return pa.table({name: columns[name] for name in TRANSACTION_COLUMNS})


def _label_table(seed: int, labels: _Labels) -> pa.Table:
    order = np.argsort(labels.label_us, kind="stable")
    columns = {
        "transaction_id": _ids(seed, labels.event_day[order], labels.number[order]),
        "is_fraud": pa.array(labels.is_fraud[order]),
        "label_timestamp": pa.array(labels.label_us[order]).cast(TIMESTAMP),
    }
    return pa.table({name: columns[name] for name in LABEL_COLUMNS})
