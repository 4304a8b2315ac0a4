"""The monitors over random small lakes: nulls, ties, one class, labels that contradict each other, days without rows.

Every count of a report is compared with one that is taken from the generated rows in plain Python.
"""

import datetime as dt
import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.served_answers import THREE

from fraud.audit import prediction_log
from fraud.core.contract import US_PER_DAY
from fraud.core.plan import Plan
from fraud.features.engines.arrow_vector import vectors
from fraud.job import Context
from fraud.lake import catalog
from fraud.lake.labels import NO_LABELS
from fraud.monitoring import concept_drift, consistency, drift, skew
from fraud.scoring.onnx_session import OnnxModel

FIRST = dt.date(2026, 3, 2)
DAYS = [FIRST + dt.timedelta(days=n) for n in range(3)]
HOLDOUT = FIRST - dt.timedelta(days=1)
AS_OF = DAYS[-1] + dt.timedelta(days=7)
"""When all of DAYS are mature."""
VERSION = "1"
Row = dict[str, Any]
Make = Callable[..., Any]


@st.composite
def rows_of(draw: st.DrawFn, day: dt.date) -> list[Row]:
    """Up to twelve transactions of few people, at few times, with few amounts: ties everywhere."""
    far, mean = (st.none() | st.sampled_from([least, 2.5, 1e6]) for least in (0.0, 0.0001))
    made = [
        {
            "transaction_id": f"{day}-{i}", "user_id": draw(st.sampled_from(["u0", "u1"])), "merchant_id": "m0",
            "merchant_category": draw(st.sampled_from(["travel", "other", "grocery"])),
            "amount": draw(st.sampled_from([0.0001, 100.0, 400.0, 1e9])),
            "event_us": _day_us(day) + draw(st.sampled_from([0, 1, US_PER_DAY - 1])),
            "distance_from_home": draw(far), "avg_amount_7d": draw(mean),
            "transaction_velocity_1h": draw(st.sampled_from([0.0, 9.0])),
            "unique_merchants_30d": draw(st.integers(0, 2)),
            "scored": draw(st.booleans()),
            "answered": draw(st.sampled_from([None, None, "store", "request", "none"])),
            # Days after the event's until each report, and what it says.
            "labels": draw(st.dictionaries(st.integers(0, 9), st.booleans(), max_size=2)),
        }
        for i in range(draw(st.integers(0, 12)))
    ]  # fmt: skip
    return sorted(made, key=lambda row: (row["event_us"], row["transaction_id"]))


@st.composite
def lakes(draw: st.DrawFn) -> dict[dt.date, list[Row]]:
    """Rows by day; a day that is not there was never published."""
    days = draw(st.lists(st.sampled_from([HOLDOUT, *DAYS]), unique=True))
    return {day: draw(rows_of(day)) for day in sorted(days)}


class Lake:
    """Publishes generated rows as every dataset the monitors read."""

    def __init__(self, context: Context, model: bytes, sha256: str) -> None:
        self._context, self._model, self._sha256 = context, OnnxModel(model), sha256
        self._number = itertools.count()

    def of(self, days: dict[dt.date, list[Row]]) -> Context:
        home = self._context.settings.home / f"lake-{next(self._number)}"
        update = {"lake_uri": f"file://{home}/lake", "reports_uri": f"file://{home}/reports"}
        context = replace(self._context, settings=self._context.settings.model_copy(update=update))
        lake = context.settings.lake_uri
        windows = ["transaction_velocity_1h", "avg_amount_7d", "unique_merchants_30d"]
        for day, rows in days.items():
            whole = _table(rows)
            catalog.features(THREE.stored_hash).at(lake).publish(str(day), whole)
            catalog.TRANSACTIONS.at(lake).publish(str(day), whole.drop_columns(windows))
            probabilities = self._model.probabilities(vectors(whole, Plan(THREE))).astype(np.float64).tolist()
            for row, probability in zip(rows, probabilities, strict=True):
                row["probability"], row["stopped"] = probability, probability >= 0.2
            self._scores(lake, day, [row for row in rows if row["scored"]])
            answers = [self._answer(row) for row in rows if row["answered"]]
            if answers:
                table = prediction_log.table_of(answers, THREE)
                catalog.PREDICTIONS.at(lake).publish(str(day), table)
        self._labels(lake, [row for rows in days.values() for row in rows])
        return context

    def _scores(self, lake: str, day: dt.date, rows: list[Row]) -> None:
        table = pa.table(
            {
                "transaction_id": pa.array([row["transaction_id"] for row in rows], pa.string()),
                "fraud_probability": pa.array([row["probability"] for row in rows], pa.float32()),
                "is_fraud": pa.array([row["stopped"] for row in rows], pa.bool_()),
                "model_version": pa.array([VERSION] * len(rows), pa.string()),
            }
        )
        catalog.SCORES.at(lake).publish(str(day), table, {"model_sha256": self._sha256})

    def _answer(self, row: Row) -> Row:
        no_user = dict.fromkeys(("transaction_id", "user_id", "merchant_id", "event_us")) if (
            row["answered"] == "request") else {}  # fmt: skip
        return {
            **{name: row.get(name) for name in catalog.PREDICTIONS.schema(THREE).names},
            "prediction_id": row["transaction_id"],
            "hour_of_day": row["event_us"] // 3_600_000_000 % 24, "served_us": row["event_us"], "sequence_user": 0,
            "day_of_week": dt.date.fromisoformat(row["transaction_id"][:10]).weekday(), "newest_us_user": 0,
            "history": row["answered"], "degraded": row["answered"] == "none",
            "fraud_probability": row["probability"], "is_fraud": row["stopped"], "threshold": 0.2,
            "model_version": VERSION, "model_sha256": self._sha256, "feature_hash": THREE.hash,
            "latency_us": 1, **no_user,
        }  # fmt: skip

    def _labels(self, lake: str, rows: list[Row]) -> None:
        reports: dict[dt.date, list[Row]] = {AS_OF: [_report("unknown-id", AS_OF, fraud=True)]}
        for row in rows:
            for days_after, fraud in row["labels"].items():
                day = dt.date.fromisoformat(row["transaction_id"][:10]) + dt.timedelta(days=days_after)
                reports.setdefault(day, []).append(_report(row["transaction_id"], day, fraud=fraud))
        for day, made in reports.items():
            catalog.LABELS.at(lake).publish(str(day), pa.Table.from_pylist(made, schema=NO_LABELS.schema))


def _day_us(day: dt.date) -> int:
    return (day - dt.date(1970, 1, 1)).days * US_PER_DAY


def _report(transaction_id: str, day: dt.date, *, fraud: bool) -> Row:
    at = dt.datetime.combine(day, dt.time(1), dt.UTC)
    return {"transaction_id": transaction_id, "is_fraud": fraud, "label_timestamp": at}


def _table(rows: list[Row]) -> pa.Table:
    made = [{**row, "event_timestamp": row["event_us"], "created_timestamp": row["event_us"]} for row in rows]
    return pa.Table.from_pylist(made, schema=catalog.features(THREE.stored_hash).schema(THREE))


@pytest.fixture(name="lake")
def _lake(context: Context, register: Make, linear_model: Make, features_of: Make, tmp_path: Path) -> Lake:
    from fraud.registry import model_versions  # noqa: PLC0415 - mlflow takes seconds to import

    rows = features_of(HOLDOUT, 10).append_column("fraud_probability", pa.array(np.full(10, 0.5, np.float32)))
    assert register(linear_model(), 0.2, reference=rows) == VERSION
    part = {"first_day": str(HOLDOUT), "end_day": str(FIRST)}
    (tmp_path / "training.json").write_text(json.dumps({"parts": {"holdout": part}}))
    artifact = model_versions.fetch(context.settings)
    mlflow.MlflowClient(context.settings.mlflow_url).log_artifact(artifact.run_id, str(tmp_path / "training.json"))
    return Lake(context, linear_model(), artifact.model_sha256)


@settings(
    max_examples=10, deadline=None, derandomize=True, phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(days=lakes())
def test_every_count_of_every_monitor_is_that_of_the_rows(lake: Lake, days: dict[dt.date, list[Row]]) -> None:
    context = lake.of(days)
    every = [row for rows in days.values() for row in rows]
    answered = [row for row in every if row["answered"]]

    checked = skew.run(skew.Config(), context)
    assert (checked.records, checked.mismatches, checked.events_lost) == (len(answered), 0, 0)
    assert checked.compared + sum(checked.skipped.values()) == len(answered)
    assert checked.verdict == ("ok" if answered else "nothing")

    common = sum(row["answered"] == "store" and row["scored"] for row in every)
    compared = consistency.run(consistency.Config(), context)
    assert (compared.compared, compared.mismatches) == (common, 0)
    assert compared.compared + sum(compared.skipped.values()) == len(answered)

    if days:
        drifted = drift.run(drift.Config(), context)
        week = [r for day, rows in days.items() for r in rows]
        assert (drifted.verdict, drifted.rows) == ("unknown", len(week))
        assert _record(drifted.report_uri)["rows_scored"] == sum(row["scored"] for row in week)

    concept = concept_drift.run(concept_drift.Config(date=AS_OF), context)
    mature = {day: [row for row in rows if _decided(row)] for day, rows in days.items() if day >= FIRST}
    assert (concept.rows, concept.days) == (sum(map(len, mature.values())), sum(map(bool, mature.values())))
    for day in _record(concept.report_uri)["days"]:
        rows = mature[dt.date.fromisoformat(day["day"])]
        assert {name: day[name] for name in ("rows", "frauds", "stops", "served", "late_frauds", "unlabelled")} == {
            "rows": len(rows), "frauds": sum(_fraud(row, 7) for row in rows),
            "stops": sum(row["stopped"] for row in rows),
            "served": sum(row["answered"] in ("store", "none") for row in rows),
            "late_frauds": sum(_fraud(row, _until_now(row)) and not _fraud(row, 7) for row in rows),
            "unlabelled": sum(all(after > _until_now(row) for after in row["labels"]) for row in rows),
        }  # fmt: skip
    assert (concept.reason == "") == (concept.verdict != "unknown")


def _decided(row: Row) -> bool:
    """By the version: an answer that names its transaction, or the nightly score."""
    return row["scored"] or row["answered"] in ("store", "none")


def _until_now(row: Row) -> int:
    """Days from the event's until AS_OF."""
    return (AS_OF - dt.date.fromisoformat(row["transaction_id"][:10])).days


def _fraud(row: Row, days: int) -> bool:
    """What the last report within so many days says."""
    received = [after for after in row["labels"] if after <= days]
    return bool(received) and row["labels"][max(received)]


def _record(report_uri: str) -> dict[str, Any]:
    def refuse(constant: str) -> object:
        raise AssertionError(f"{constant} is not JSON")

    path = Path(report_uri.removeprefix("file://"))
    found: dict[str, Any] = json.loads(path.with_suffix(".json").read_text(), parse_constant=refuse)
    return found
