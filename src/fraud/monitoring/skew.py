"""Compare the features and probabilities of served answers with values recomputed from the lake, bit for bit.

For every logged answer of a day, the window features are recomputed at its sequences and the daily features are read
from the snapshots it names, its own fields are compared with the ingested transaction, and its probability is
recomputed with its model version. What a record contains follows from the declaration of the version that answered.
`fraud.stats.served_skew` describes the sources of the values.
"""

import datetime as dt
from collections.abc import Iterable, Mapping
from hashlib import sha256
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from fraud.audit.answering_versions import RULE, AnsweringVersions
from fraud.audit.daily_snapshots import snapshot_day
from fraud.audit.history_as_served import DEGRADED, LayoutHistory, Record, ServedHistory
from fraud.audit.prediction_log import typed
from fraud.core.declaration import Declaration
from fraud.core.plan import Plan
from fraud.errors import BadInputError, RefusedError
from fraud.features.engines.arrow_records import id_hashes
from fraud.job import Context, JobConfig, JobResult
from fraud.lake import catalog, reports
from fraud.lake.dataset import DatasetVersion
from fraud.monitoring import skew_report
from fraud.monitoring.delivered_requests import as_in_request, delivered_requests, request_of
from fraud.stats import served_skew

MAX_PROBABILITY_DIFFERENCE: Final = 1e-6
RECENT_DAYS: Final = 7
_FORMAT: Final = "2"
"""Format of the record. A report in another format is written again."""


class Config(JobConfig):
    """Day of the answers."""

    date: dt.date | None = Field(
        default=None, description="day of served_at; default all days of the last week whose check is out of date"
    )


class Result(JobResult):
    """The comparison. `verdict` is "skew" when a served value differs from the recomputed one."""

    days: list[str]
    verdict: str
    """ok | skew | nothing (no value could be compared)"""
    retrain: bool
    """Whether there is skew. Training is requested then."""
    records: int
    compared: int
    """Answers whose window and daily features were all recomputed."""
    mismatches: int
    features: dict[str, dict[str, float]]
    """Per feature and field of the request: equal, mismatch, missing, extra, worst."""
    skipped: dict[str, int]
    """Answers of which some features were not recomputed, by reason."""
    snapshots: dict[str, int]
    """Lookups of daily features, by the age of their snapshot: current, stale, missing."""
    probabilities: dict[str, float]
    """checked, wrong, worst, unchecked"""
    contradicted: int
    """Answers to a delivery of an id of which the lake keeps another delivery with a different content."""
    events_lost: int
    """Events that are missing in the online store."""
    report_uri: str
    changed: bool


def run(config: Config, context: Context) -> Result:
    """Check the requested days. Raises UnavailableError when the online store or the registry does not answer."""
    lake = context.settings.lake_uri
    predictions, transactions = catalog.PREDICTIONS.at(lake).open(), catalog.TRANSACTIONS.at(lake).open()
    published = predictions.partitions()
    if config.date and str(config.date) not in published:
        raise BadInputError(f"no answers of {config.date} in the lake", hint="fraud ship-predictions")
    days = [str(config.date)] if config.date else published[-RECENT_DAYS:]
    root, found, changed = f"{context.settings.reports_uri.rstrip('/')}/skew", [], False
    for day in days:
        made_from = _made_from(day, predictions, transactions)
        report = reports.read(f"{root}/{day}", "skew")
        if report is None or report["made_from"] != made_from:
            records = predictions.read(day).to_pylist()
            context.log.info("skew check started", day=day, records=len(records))
            report = {**_check(records, context).report(), "day": day, "made_from": made_from}
            reports.write(f"{root}/{day}", "skew", skew_report.page(report), report)
            changed = True
            reports.expire(root, context.settings.report_days)
        found.append(report)
    return _result(days, found, root, changed=changed)


def _made_from(day: str, predictions: DatasetVersion, transactions: DatasetVersion) -> dict[str, str]:
    """Hashes of the answers and of all transactions: a transaction may land later, and histories may change."""
    landed = [partition.content_sha256 for partition in transactions.contents.partitions.values()]
    served = predictions.partition(day)
    return {
        "predictions": served.content_sha256 if served else "",
        "transactions": sha256("".join(landed).encode()).hexdigest(),
        "format": _FORMAT,
    }


def _check(records: list[dict[str, Any]], context: Context) -> served_skew.Tally:
    versions, tally = AnsweringVersions(context.settings), served_skew.Tally(records=len(records))
    answers = [_answer(record, versions) for record in records]
    for plan in {answer.plan.hash: answer.plan for answer in answers if answer.plan}.values():
        for name in (*plan.features, *_own_fields(plan)):
            tally.features.setdefault(name, served_skew.FeatureSkew())
    histories = ServedHistory.load(context, [answer.record for answer in answers], versions)
    for answer in answers:
        _check_features(answer, histories, tally)
    _check_own_fields(answers, histories, context, tally)
    _check_completeness(histories, context, tally)
    _check_probabilities(answers, versions, context, tally)
    return tally


class _Answer(NamedTuple):
    record: Record
    plan: Plan | None
    """None for an answer by the rule, or by a version that is not available."""


def _answer(record: dict[str, Any], versions: AnsweringVersions) -> _Answer:
    version = versions.of(record)
    if isinstance(version, str):
        return _Answer(record, None)
    return _Answer(typed(record, version.plan.declaration), version.plan)


def _check_features(answer: _Answer, histories: ServedHistory, tally: served_skew.Tally) -> None:
    """Compare window and daily features with recomputed ones."""
    record, again = answer.record, histories.features(answer.record)
    for name, value in again.values.items():
        tally.add(name, record.get(name), value, record["prediction_id"])
    if record["degraded"] and record["history"] == "none":
        tally.skipped[DEGRADED] += 1
    elif again.reasons:
        tally.skipped[again.reasons[0]] += 1
    else:
        tally.compared += 1
    for table in answer.plan.tables if answer.plan else ():
        if record["event_us"] is None or record.get(table.id_column) is None:
            continue
        snapshot = record.get(f"snapshot_{table.entity}")
        day = str(np.datetime64(table.day_of(record["event_us"]), "D"))
        tally.snapshots["missing" if snapshot is None else "current" if snapshot_day(snapshot) == day else "stale"] += 1


def _check_own_fields(
    answers: list[_Answer], histories: ServedHistory, context: Context, tally: served_skew.Tally
) -> None:
    """Compare the fields of each request with the ingested transaction of the same id.

    A column that the transaction's day of the lake does not have is not compared.
    """
    ids = pa.array([name for a in answers if (name := a.record["transaction_id"]) is not None], pa.string())
    landed = dict[str, dict[str, Any]]()
    for events in histories.landed:
        own = pc.is_in(events.table["transaction_id"], ids)
        rows = events.table.filter(own).append_column("event_us", pa.array(events.event_us[own.to_numpy()]))
        landed |= {row["transaction_id"]: row for row in rows.to_pylist()}
    pairs = list[_Pair]()
    for record, plan in answers:
        if plan is None or record["history"] != "store":
            continue
        row = landed.get(record["transaction_id"])
        if row is None:
            tally.not_landed += 1
        else:
            names = [name for name in _own_fields(plan) if name in row]
            pairs.append(_Pair(record, as_in_request(row, plan.declaration), names, plan.declaration))
    suspects = {pair.record["transaction_id"] for pair in pairs if pair.differs()}
    delivered = delivered_requests(context, suspects) if suspects else {}
    for pair in pairs:
        record = pair.record
        if pair.differs() and pair.is_one_of(delivered.get(record["transaction_id"], ())):
            tally.contradicted += 1
            continue
        for name in pair.names:
            tally.add(name, record[name], pair.row[name], record["prediction_id"])


def _own_fields(plan: Plan) -> tuple[str, ...]:
    """The fields of a request that are compared."""
    return ("event_us", "amount", *plan.columns)


class _Pair(NamedTuple):
    """An answer, the transaction in the lake with its id, and the fields that both have. The categories of the row are
    those of the version's declaration."""

    record: Record
    row: Mapping[str, Any]
    names: list[str]
    declaration: Declaration

    def differs(self) -> bool:
        return not all(served_skew.same(self.record[name], self.row[name]) for name in self.names)

    def is_one_of(self, delivered: Iterable[Mapping[str, Any]]) -> bool:
        """Whether the request equals one of the deliveries."""
        return request_of(self.record, self.declaration, self.names) in [
            request_of(row, self.declaration, self.names) for row in delivered
        ]


def _check_completeness(histories: ServedHistory, context: Context, tally: served_skew.Tally) -> None:
    """Count missing events of days that materialize loaded with their current content, in every layout."""
    transactions = catalog.TRANSACTIONS.at(context.settings.lake_uri).open()
    for loaded in histories.layouts.values():
        whole = [
            d for d, digest in loaded.materialized.items()
            if (m := transactions.partition(d)) and m.content_sha256 == digest
        ]  # fmt: skip
        for events in histories.landed:
            if loaded.layout.id_column in events.columns:
                rows = pc.is_in(events.table["dt"], pa.array(whole, pa.string()))
                at_us = events.event_us[rows.to_numpy()]
                tally.events_lost += _lost(events.table.filter(rows), at_us, loaded)


def _lost(delivered: pa.Table, at_us: NDArray[np.int64], loaded: LayoutHistory) -> int:
    """Events of delivered transactions that are missing in one layout."""
    ids = id_hashes(delivered["transaction_id"].to_pylist())
    entities = np.array([name or "" for name in delivered[loaded.layout.id_column].to_pylist()], dtype=object)
    order = np.argsort(entities, kind="stable")
    names, starts = np.unique(entities[order], return_index=True)
    total = 0
    for name, (start, stop) in zip(names, pairwise([*starts, len(ids)]), strict=True):
        if name in loaded.orders:
            own = order[start:stop]
            total += served_skew.lost(loaded.orders[name], ids[own], at_us[own], loaded.layout)
    return total


def _check_probabilities(
    answers: list[_Answer], versions: AnsweringVersions, context: Context, tally: served_skew.Tally
) -> None:
    """Recompute the probability of each answer from its logged fields and its model version."""
    from fraud.scoring.onnx_session import OnnxModel  # noqa: PLC0415 - not needed for a day without answers

    by_version: dict[str, list[_Answer]] = {}
    for answer in answers:
        by_version.setdefault(answer.record["model_version"], []).append(answer)
    for number, some in sorted(by_version.items()):
        if number == RULE:
            tally.probabilities_unchecked += len(some)
            continue
        try:
            version = versions.fetched(number)
        except RefusedError as error:
            context.log.warning("served model version not available", model_version=number, reason=str(error))
            tally.probabilities_unchecked += len(some)
            continue
        own = [answer.record for answer in some if answer.plan is not None]
        again = OnnxModel(version.model).probabilities(_vectors(own, version.plan)).astype(np.float64)
        served = np.array([record["fraud_probability"] for record in own], dtype=np.float64)
        same_model = np.array([record["model_sha256"] == version.model_sha256 for record in own], dtype=np.bool_)
        tally.add_probabilities(np.where(same_model, np.abs(again - served), 1.0), MAX_PROBABILITY_DIFFERENCE)
        tally.probabilities_unchecked += len(some) - len(own)


def _vectors(records: list[Record], plan: Plan) -> NDArray[np.float32]:
    """float32[n, len(plan.vector.names)] of logged answers."""
    base = [
        plan.base_values(r["hour_of_day"], r["day_of_week"], r, [r.get(name) for name in plan.features])
        for r in records
    ]  # fmt: skip
    values = np.array(base, dtype=np.float64).reshape(len(records), len(plan.vector.inputs))  # None becomes NaN
    return plan.vector.table(list(values.T))


def _result(days: list[str], found: list[dict[str, Any]], root: str, *, changed: bool) -> Result:
    def total(*keys: str) -> dict[str, float]:
        """Sum numbers at a path of the reports over the days; the maximum for `worst`."""
        sums: dict[str, float] = {}
        for report in found:
            for key in keys:
                report = report.get(key, {})  # noqa: PLW2901 - follows the path
            for name, number in report.items():
                if isinstance(number, int | float):
                    sums[name] = max(sums.get(name, 0.0), number) if name == "worst" else sums.get(name, 0) + number
        return sums

    all_of = total()
    verdicts = {report["verdict"] for report in found}
    verdict = next((v for v in ("skew", "ok") if v in verdicts), "nothing")
    return Result(
        days=days, verdict=verdict, retrain=verdict == "skew",
        records=int(all_of.get("records", 0)), compared=int(all_of.get("compared", 0)),
        mismatches=int(all_of.get("mismatches", 0)),
        features={n: total("features", n) for n in dict.fromkeys(name for r in found for name in r["features"])},
        snapshots={age: int(count) for age, count in total("snapshots").items()},
        skipped={reason: int(count) for reason, count in total("skipped").items()},
        probabilities=total("probabilities"), contradicted=int(all_of.get("contradicted", 0)),
        events_lost=int(all_of.get("events_lost", 0)),
        report_uri=f"{root}/{days[-1]}/skew.html" if days else "", changed=changed,
    )  # fmt: skip
