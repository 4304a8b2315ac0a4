"""Compare the features and probabilities of served answers with values recomputed from the lake, bit for bit.

For every logged answer of a day, the window features are recomputed at its sequence, its own fields are compared with
the ingested transaction, and its probability is recomputed with its model version. `fraud.stats.served_skew` describes
the sources of the values.
"""

import datetime as dt
from hashlib import sha256
from itertools import pairwise
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from fraud.audit.answers import RULE
from fraud.audit.history_as_served import Record, ServedHistory, event_us, id_hashes, no_windows
from fraud.core.contract import CATEGORY_INDEX, OTHER, amount_units
from fraud.core.features import WINDOW_NAMES
from fraud.core.vector import fill_table
from fraud.errors import BadInputError, RefusedError
from fraud.ingest import landing
from fraud.job import Context, JobConfig, JobResult
from fraud.lake import catalog, reports
from fraud.lake.dataset import Dataset
from fraud.monitoring import skew_report
from fraud.stats import served_skew

MAX_PROBABILITY_DIFFERENCE: Final = 1e-6
RECENT_DAYS: Final = 7
OWN_FIELDS: Final = ("event_us", "amount", "merchant_category", "distance_from_home")
FEATURES: Final = (*WINDOW_NAMES, *OWN_FIELDS)


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
    """Answers whose window features were recomputed."""
    mismatches: int
    features: dict[str, dict[str, float]]
    """Per feature: equal, mismatch, missing, extra, worst."""
    skipped: dict[str, int]
    """Answers whose windows were not recomputed, by reason."""
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
    predictions, transactions = catalog.PREDICTIONS.at(lake), catalog.TRANSACTIONS.at(lake)
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


def _made_from(day: str, predictions: Dataset, transactions: Dataset) -> dict[str, str]:
    """Hashes of the answers and of all transactions: a transaction may land later, and histories may change."""
    landed = [manifest.content_sha256 for d in transactions.partitions() if (manifest := transactions.manifest(d))]
    served = predictions.manifest(day)
    return {
        "predictions": served.content_sha256 if served else "",
        "transactions": sha256("".join(landed).encode()).hexdigest(),
    }


def _check(records: list[Record], context: Context) -> served_skew.Tally:
    tally = served_skew.Tally({name: served_skew.FeatureSkew() for name in FEATURES}, records=len(records))
    stored = []
    for record in records:
        if (reason := no_windows(record)) is None:
            stored.append(record)
        else:
            tally.skipped[reason] += 1
    if stored:
        histories = ServedHistory.load(context.settings, stored)
        _check_windows(stored, histories, tally)
        _check_own_fields(stored, histories.landed, context, tally)
        _check_completeness(histories, context, tally)
    _check_probabilities(records, context, tally)
    return tally


def _check_windows(stored: list[Record], histories: ServedHistory, tally: served_skew.Tally) -> None:
    """Compare window features with those recomputed over the events before each answer."""
    for record in stored:
        again = histories.windows(record)
        if isinstance(again, str):
            tally.skipped[again] += 1
            continue
        tally.compared += 1
        for name, value in zip(WINDOW_NAMES, again, strict=True):
            tally.features[name].add(record[name], value, record["prediction_id"])


def _check_own_fields(stored: list[Record], landed: pa.Table, context: Context, tally: served_skew.Tally) -> None:
    """Compare the fields of each request with the ingested transaction of the same id."""
    ids = pa.array([record["transaction_id"] for record in stored])
    rows = landed.filter(pc.is_in(landed["transaction_id"], ids))
    rows = rows.append_column("event_us", pa.array(event_us(rows)))
    by_id = {row["transaction_id"]: row for row in rows.select(["transaction_id", *OWN_FIELDS]).to_pylist()}
    tally.not_landed += sum(record["transaction_id"] not in by_id for record in stored)
    pairs = [(record, by_id[name]) for record in stored if (name := record["transaction_id"]) in by_id]
    different = [not all(served_skew.same(record[name], row[name]) for name in OWN_FIELDS) for record, row in pairs]
    suspects = {record["transaction_id"] for (record, _), differs in zip(pairs, different, strict=True) if differs}
    delivered = _delivered(context.settings.landing_uri, suspects) if suspects else set()
    for (record, row), differs in zip(pairs, different, strict=True):
        if differs and _fingerprint(record) in delivered:
            tally.contradicted += 1
            continue
        for name in OWN_FIELDS:
            tally.features[name].add(record[name], row[name], record["prediction_id"])


Fingerprint = tuple[str, int, int, str, float | None]
"""Transaction id, event time in us, amount in 1/10,000 USD, category, distance."""


def _delivered(landing_uri: str, transactions: set[str]) -> set[Fingerprint]:
    """Fingerprints of all deliveries of these transactions, cleaned as in ingest and serving."""
    rows = landing.delivered(landing_uri, transactions)
    rows = rows.filter(pc.and_(pc.is_valid(rows["event_timestamp"]), pc.is_valid(rows["amount"])))
    rows = rows.append_column("event_us", pa.array(event_us(rows))).to_pylist()
    for row in rows:
        if row["merchant_category"] not in CATEGORY_INDEX:
            row["merchant_category"] = OTHER
    return {_fingerprint(row) for row in rows}


def _fingerprint(row: Record) -> Fingerprint:
    units = amount_units(row["amount"])
    return row["transaction_id"], row["event_us"], units, row["merchant_category"], row["distance_from_home"]


def _check_completeness(histories: ServedHistory, context: Context, tally: served_skew.Tally) -> None:
    """Count missing events of days that materialize loaded with their current content."""
    transactions, loaded = catalog.TRANSACTIONS.at(context.settings.lake_uri), histories.materialized
    whole = [d for d, digest in loaded.items() if (m := transactions.manifest(d)) and m.content_sha256 == digest]
    delivered = histories.landed.filter(pc.is_in(histories.landed["dt"], pa.array(whole, pa.string()))).sort_by(
        "user_id"
    )
    ids, at_us = id_hashes(delivered["transaction_id"].to_pylist()), event_us(delivered)
    users, starts = np.unique(np.array(delivered["user_id"].to_pylist(), dtype=object), return_index=True)
    for user, (start, stop) in zip(users, pairwise([*starts, len(ids)]), strict=True):
        tally.events_lost += served_skew.lost(histories.orders[user], ids[start:stop], at_us[start:stop])


def _check_probabilities(records: list[Record], context: Context, tally: served_skew.Tally) -> None:
    """Recompute the probability of each answer from its logged fields and its model version."""
    from fraud.registry import model_versions  # noqa: PLC0415 - mlflow takes seconds to import
    from fraud.scoring.onnx_session import OnnxModel  # noqa: PLC0415 - not needed for a day without answers

    by_version: dict[str, list[Record]] = {}
    for record in records:
        by_version.setdefault(record["model_version"], []).append(record)
    for version, some in sorted(by_version.items()):
        if version == RULE:
            tally.probabilities_unchecked += len(some)
            continue
        try:
            artifact = model_versions.fetch(context.settings, int(version))
        except RefusedError as error:
            context.log.warning("served model version not available", model_version=version, reason=str(error))
            tally.probabilities_unchecked += len(some)
            continue
        again = OnnxModel(artifact.model).probabilities(_vectors(some)).astype(np.float64)
        served = np.array([record["fraud_probability"] for record in some], dtype=np.float64)
        same_model = np.array([record["model_sha256"] == artifact.model_sha256 for record in some])
        tally.add_probabilities(np.where(same_model, np.abs(again - served), 1.0), MAX_PROBABILITY_DIFFERENCE)


def _vectors(records: list[Record]) -> NDArray[np.float32]:
    def floats(name: str) -> NDArray[np.float64]:
        return np.array([np.nan if r[name] is None else r[name] for r in records], dtype=np.float64)

    def integers(name: str) -> NDArray[np.int64]:
        return np.array([r[name] for r in records], dtype=np.int64)

    return fill_table(
        amount=floats("amount"),
        hour=integers("hour_of_day"),
        weekday=integers("day_of_week"),
        distance=floats("distance_from_home"),
        category=np.array([CATEGORY_INDEX[r["merchant_category"]] for r in records], dtype=np.int64),
        velocity_1h=floats("transaction_velocity_1h"),
        avg_amount_7d=floats("avg_amount_7d"),
        unique_merchants_30d=integers("unique_merchants_30d"),
    )


def _result(days: list[str], found: list[dict[str, Any]], root: str, *, changed: bool) -> Result:
    def total(*keys: str) -> dict[str, float]:
        """Sum numbers at a path of the reports over the days; the maximum for `worst`."""
        sums: dict[str, float] = {}
        for report in found:
            for key in keys:
                report = report[key]  # noqa: PLW2901 - follows the path
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
        mismatches=int(all_of.get("mismatches", 0)), features={n: total("features", n) for n in FEATURES},
        skipped={reason: int(count) for reason, count in total("skipped").items()},
        probabilities=total("probabilities"), contradicted=int(all_of.get("contradicted", 0)),
        events_lost=int(all_of.get("events_lost", 0)),
        report_uri=f"{root}/{days[-1]}/skew.html" if days else "", changed=changed,
    )  # fmt: skip
