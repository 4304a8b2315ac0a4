"""The monitors on every combination of inputs that are absent, empty, or of one kind only: a result, never a traceback.

The expected result of each combination is worked out here from docs/monitoring.md, not by the code under test.
"""

import datetime as dt
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import mlflow
import numpy as np
import pyarrow as pa
import pytest
import redis
from tests.served_answers import THREE

from fraud.audit import prediction_log, ship_predictions
from fraud.core.contract import US_PER_DAY
from fraud.core.plan import Plan
from fraud.errors import BadInputError, FraudError, RefusedError
from fraud.features.engines.arrow_vector import vectors
from fraud.job import Context, JobResult
from fraud.lake import catalog
from fraud.lake.labels import NO_LABELS
from fraud.monitoring import concept_drift, consistency, drift, skew
from fraud.scoring.onnx_session import OnnxModel

DAY = dt.date(2026, 3, 9)
"""The one day that has anything."""
MATURE = DAY + dt.timedelta(days=7)
HOLDOUT = DAY - dt.timedelta(days=20)
MIDNIGHT_US = (DAY - dt.date(1970, 1, 1)).days * US_PER_DAY
THRESHOLD = 0.2
WINDOWS = ["transaction_velocity_1h", "avg_amount_7d", "unique_merchants_30d"]
Make = Callable[..., Any]

AMOUNT_OF_DATA = ("absent", "no rows", "one row", "some rows")
ROWS = {"no rows": 0, "one row": 1, "some rows": 20}
LABELS = ("absent", "no rows", "of other ids", "all fraud", "all legitimate", "some fraud")
ANSWERS = ("absent", "no rows", "without user", "degraded", "by the rule", "not landed", "landed")


@dataclass(frozen=True)
class Inputs:
    """What the lake has of each dataset."""

    transactions: str = "absent"
    features: str = "absent"
    scores: str = "absent"
    labels: str = "absent"
    answers: str = "absent"
    holdout: bool = False


class Platform:
    """A registry with a Production version, and a new lake for each combination of inputs."""

    def __init__(self, context: Context, features_of: Make, model: bytes, sha256: str) -> None:
        self._context, self._features_of, self._model, self._sha256 = context, features_of, OnnxModel(model), sha256
        self._number = itertools.count()

    def holding(self, inputs: Inputs) -> Context:
        """A context over a lake with these inputs."""
        home = self._context.settings.home / f"lake-{next(self._number)}"
        update = {"lake_uri": f"file://{home}/lake", "reports_uri": f"file://{home}/reports"}
        context = replace(self._context, settings=self._context.settings.model_copy(update=update))
        lake = context.settings.lake_uri
        rows = self._features_of(DAY, 20)
        if inputs.transactions != "absent":
            some = rows.slice(0, ROWS[inputs.transactions]).drop_columns(WINDOWS)
            catalog.TRANSACTIONS.at(lake).publish(str(DAY), some)
        if inputs.features != "absent":
            catalog.features(THREE.stored_hash).at(lake).publish(str(DAY), rows.slice(0, ROWS[inputs.features]))
        if inputs.scores != "absent":
            self._publish_scores(lake, rows.slice(0, ROWS[inputs.scores]))
        if inputs.labels != "absent":
            catalog.LABELS.at(lake).publish(str(MATURE), self._labels(inputs.labels, rows["transaction_id"]))
        if inputs.answers != "absent":
            table = prediction_log.table_of(list(self._answers(inputs.answers, rows)), THREE)
            catalog.PREDICTIONS.at(lake).publish(str(DAY), table)
        if inputs.holdout:
            catalog.features(THREE.stored_hash).at(lake).publish(str(HOLDOUT), self._features_of(HOLDOUT, 20))
        return context

    def probabilities(self, rows: pa.Table) -> np.ndarray[Any, np.dtype[np.float32]]:
        return self._model.probabilities(vectors(rows, Plan(THREE)))

    def _publish_scores(self, lake: str, rows: pa.Table) -> None:
        found = self.probabilities(rows)
        table = rows.select(["transaction_id", "user_id", "event_timestamp"])
        for name, values in (
            ("fraud_probability", pa.array(found)), ("is_fraud", pa.array(found.astype(np.float64) >= THRESHOLD)),
            ("model_version", pa.array(["1"] * rows.num_rows, pa.string())),
        ):  # fmt: skip
            table = table.append_column(name, values)
        made_from = {"model_version": "1", "model_sha256": self._sha256, "threshold": repr(THRESHOLD), "flagged": "0"}
        catalog.SCORES.at(lake).publish(str(DAY), table, made_from)

    def _labels(self, kind: str, ids: pa.ChunkedArray) -> pa.Table:
        named = {"no rows": [], "of other ids": ["unknown-id"]}.get(kind, ids.to_pylist())
        frauds = [kind == "all fraud" or (kind == "some fraud" and i % 4 == 0) for i in range(len(named))]
        at = [dt.datetime.combine(DAY, dt.time(23), dt.UTC)] * len(named)
        return pa.table({"transaction_id": named, "is_fraud": frauds, "label_timestamp": at}, schema=NO_LABELS.schema)

    def _answers(self, kind: str, rows: pa.Table) -> Iterator[dict[str, Any]]:
        for i, row in enumerate([] if kind == "no rows" else rows.to_pylist()):
            probability = float(self.probabilities(rows.slice(i, 1))[0])
            event_us = int(rows["event_timestamp"].cast(pa.int64())[i].as_py())
            record = {
                **{name: row.get(name) for name in catalog.PREDICTIONS.schema(THREE).names}, "prediction_id": f"p{i}",
                "event_us": event_us, "hour_of_day": event_us // 3_600_000_000 % 24, "day_of_week": DAY.weekday(),
                "served_us": MIDNIGHT_US + i, "sequence_user": i, "newest_us_user": 0, "history": "store",
                "degraded": False,
                "fraud_probability": probability, "is_fraud": probability >= THRESHOLD, "threshold": THRESHOLD,
                "model_version": "1", "model_sha256": self._sha256, "feature_hash": THREE.hash,
                "latency_us": 900,
            }  # fmt: skip
            no_user = dict.fromkeys(
                ("transaction_id", "user_id", "merchant_id", "event_us", "sequence_user", "newest_us_user")
            )
            yield record | {
                "without user": {**no_user, "history": "request"},
                "degraded": {"history": "none", "degraded": True, "sequence_user": None, "newest_us_user": None},
                "by the rule": {**no_user, "history": "request", "model_version": "rule", "model_sha256": ""},
                "not landed": {"transaction_id": f"elsewhere-{i}"},
            }.get(kind, {})


@pytest.fixture
def platform(
    context: Context, register: Make, features_of: Make, linear_model: Make, tmp_path: Path, valkey_url: str
) -> Platform:
    from fraud.registry import model_versions  # noqa: PLC0415 - mlflow takes seconds to import

    model = linear_model(bias=-2.3)
    rows = features_of(HOLDOUT, 30)
    probability = pa.array(OnnxModel(model).probabilities(vectors(rows, Plan(THREE))))
    version = register(model, THRESHOLD, reference=rows.append_column("fraud_probability", probability))
    part = {"first_day": str(HOLDOUT), "end_day": str(HOLDOUT + dt.timedelta(days=1))}
    (tmp_path / "training.json").write_text(json.dumps({"parts": {"holdout": part}}))
    client = mlflow.MlflowClient(context.settings.mlflow_url)
    client.log_artifact(client.get_model_version("fraud-detector", version).run_id, str(tmp_path / "training.json"))
    with redis.Redis.from_url(valkey_url) as store:
        store.flushdb()
    return Platform(context, features_of, model, model_versions.fetch(context.settings).model_sha256)


def run(job: ModuleType, context: Context) -> JobResult | type[FraudError]:
    """The result, or the kind of our own error. Anything else is a traceback, and fails the test."""
    try:
        result: JobResult = job.run(job.Config(), context)
    except FraudError as error:
        return type(error)
    return result


def json_of(uri: str) -> dict[str, Any]:
    def refuse(constant: str) -> object:
        raise AssertionError(f"{constant} is not JSON")

    path = Path(uri.removeprefix("file://"))
    assert "</html>" in path.read_text()
    found: dict[str, Any] = json.loads(path.with_suffix(".json").read_text(), parse_constant=refuse)
    return found


def test_skew(platform: Platform) -> None:
    for transactions, answers in itertools.product(AMOUNT_OF_DATA, ANSWERS):
        context = platform.holding(Inputs(transactions=transactions, answers=answers))
        result = run(skew, context)
        case = (transactions, answers, result)
        records = {"absent": 0, "no rows": 0}.get(answers, 20)
        # Answers by the rule have no probability of a model, and nothing else to compare.
        verdict = "ok" if records and answers != "by the rule" else "nothing"
        assert (result.verdict, result.records) == (verdict, records), case
        # The store is empty, so it no longer has the histories of the answers.
        assert (result.compared, sum(result.skipped.values()), result.mismatches) == (0, records, 0), case
        assert result.probabilities.get("checked", 0) == (0 if answers == "by the rule" else records), case
        assert result.events_lost == 0, case
        assert bool(result.report_uri) == (answers != "absent"), case
        if result.report_uri:
            landed = {"landed": ROWS.get(transactions, 0)}.get(answers, 0)
            stored = records if answers in ("landed", "not landed") else 0
            assert json_of(result.report_uri)["not_landed"] == stored - landed, case


def test_consistency(platform: Platform) -> None:
    for features, scores, answers in itertools.product(("absent", "some rows"), AMOUNT_OF_DATA, ANSWERS):
        context = platform.holding(Inputs(features=features, scores=scores, answers=answers))
        result = run(consistency, context)
        compared = ROWS.get(scores, 0) if answers == "landed" else 0
        records = {"absent": 0, "no rows": 0}.get(answers, 20)
        case = (features, scores, answers, result)
        assert (result.verdict, result.compared) == ("ok" if compared else "nothing", compared), case
        assert (result.equal, sum(result.skipped.values())) == (compared, records - compared), case


def test_drift(platform: Platform) -> None:
    alone, together = (
        itertools.product(AMOUNT_OF_DATA, ("absent",)),
        itertools.product(("some rows",), AMOUNT_OF_DATA),
    )
    for features, scores in itertools.chain(alone, together):
        context = platform.holding(Inputs(features=features, scores=scores))
        result = run(drift, context)
        if features == "absent":
            assert result is BadInputError
            continue
        assert (result.verdict, result.retrain, result.rows) == ("unknown", False, ROWS[features])
        assert (
            result.reason == f"30 rows in the reference and {result.rows} rows in the current window, fewer than 1,000"
        )
        record = json_of(result.report_uri)
        assert record["rows_scored"] == min(ROWS[features], ROWS.get(scores, 0)), (features, scores)


def test_concept_drift(platform: Platform) -> None:
    of_labels = itertools.product(AMOUNT_OF_DATA, ("some rows",), LABELS, ("absent",))
    of_decisions = itertools.product(("some rows",), ("absent", "no rows", "some rows"), ("some fraud",), ANSWERS)
    for transactions, scores, labels, answers in itertools.chain(of_labels, of_decisions):
        context = platform.holding(Inputs(transactions, scores=scores, labels=labels, answers=answers))
        result = run(concept_drift, context)
        case = (transactions, scores, labels, answers, result)
        if labels == "absent":
            assert result is BadInputError, case
            continue
        assert (result.verdict, result.retrain, result.evidence) == ("unknown", False, 0.0), case
        assert result.reason == "the features of the holdout are not in the lake", case
        decided = ROWS.get(transactions, 0) if scores == "some rows" or answers in ("landed", "degraded") else 0
        assert (result.rows, result.days) == (decided, int(decided > 0)), case
        every_fourth = -(-decided // 4)
        assert result.frauds == {"all fraud": decided, "some fraud": every_fourth}.get(labels, 0), case
        assert all(value is None for value in result.promise.values()), case
        recall_known = result.frauds > 0
        assert (result.figures["recall"] is not None) == recall_known, case
        json_of(result.report_uri)


@pytest.mark.parametrize("labels", LABELS[1:])
def test_concept_drift_with_a_holdout(labels: str, platform: Platform) -> None:
    """No fraud of the holdout was ever reported: what is promised is that stops are right, which none was: 0."""
    context = platform.holding(Inputs("some rows", scores="some rows", labels=labels, holdout=True))
    result = concept_drift.run(concept_drift.Config(), context)
    assert (result.verdict, result.days, result.rows) == ("unknown", 1, 20)
    assert result.reason.startswith("no fraud of the holdout was stopped")
    assert result.promise["precision"] == 0.0
    assert result.promise["recall"] is None


def test_without_a_production_version_drift_is_refused_and_answers_are_still_checked(context: Context) -> None:
    assert run(drift, context) is run(concept_drift, context) is RefusedError
    assert run(skew, context).verdict == run(consistency, context).verdict == "nothing"


@pytest.mark.parametrize("folder", ["absent", "no segment", "empty segment", "a torn line", "no record in it"])
def test_ship_predictions(folder: str, context: Context) -> None:
    log = context.settings.prediction_log
    if folder != "absent":
        log.mkdir(parents=True)
    content = {"empty segment": b"", "a torn line": b'{"prediction_id": "p', "no record in it": b"[]\n{}\nnull\n\n"}
    if folder in content:
        (log / "segment-1773014400000000-1.jsonl").write_bytes(content[folder])
    result = ship_predictions.run(ship_predictions.Config(today=DAY), context)
    unreadable = 3 if folder == "no record in it" else 0
    assert (result.rows, result.unreadable, result.days, result.expired) == (0, unreadable, [], [])
