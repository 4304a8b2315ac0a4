"""`fraud concept-drift` over a real registry and lake: a model as good as on its holdout, a worse one, late labels."""

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pyarrow as pa
import pytest
from tests.served_answers import THREE

from fraud.audit import prediction_log
from fraud.core.plan import Plan
from fraud.errors import BadInputError, RefusedError
from fraud.job import Context
from fraud.lake import catalog
from fraud.monitoring import concept_drift
from fraud.scoring.onnx_session import OnnxModel
from fraud.scoring.scorer import Scorer

FIRST = dt.date(2026, 3, 2)
HOLDOUT = [FIRST + dt.timedelta(days=n) for n in range(5)]
AFTER = [FIRST + dt.timedelta(days=5 + n) for n in range(4)]
AS_OF = AFTER[-1] + dt.timedelta(days=7)
THRESHOLD = 0.2
BIAS = -2.3  # some 30 of 200 amounts are stopped
Make = Callable[..., Any]


class World:
    """Days of transactions, the linear model's scores, and labels that agree with the model at a given rate."""

    def __init__(self, context: Context, version: str, model: bytes, features_of: Make) -> None:
        self.lake = context.settings.lake_uri
        self._version, self._features_of = version, features_of
        self._scorer = Scorer(OnnxModel(model), version, Plan(THREE), THRESHOLD)
        self.frauds: dict[dt.date, list[str]] = {}

    def day(self, day: dt.date, *, caught: float = 0.8, scored: bool = True) -> pa.Table:
        """200 rows; 20 frauds, of which the model stops the share `caught`. Returns the scores."""
        rows = self._features_of(day, 200)
        catalog.TRANSACTIONS.at(self.lake).publish(str(day), rows.drop_columns(list(_WINDOWS)))
        catalog.features(THREE.stored_hash).at(self.lake).publish(str(day), rows)
        scores = self._scorer.score(rows.select(self._scorer.input.names).cast(self._scorer.input))[0]
        if scored:
            catalog.SCORES.at(self.lake).publish(str(day), scores)
        stopped = [row["transaction_id"] for row in scores.to_pylist() if row["is_fraud"]]
        passed = [row["transaction_id"] for row in scores.to_pylist() if not row["is_fraud"]]
        hits = round(20 * caught)
        self.frauds[day] = stopped[:hits] + passed[: 20 - hits]
        return scores

    def label(self, ids: list[str], on: dt.date, *, fraud: bool = True) -> None:
        labels = catalog.LABELS.at(self.lake)
        before = [labels.read(str(on))] if labels.partition(str(on)) else []
        at = pa.array([dt.datetime.combine(on, dt.time(1), dt.UTC)] * len(ids), pa.timestamp("us", "UTC"))
        new = pa.table({"transaction_id": ids, "is_fraud": [fraud] * len(ids), "label_timestamp": at})
        labels.publish(str(on), pa.concat_tables([*before, new]))

    def label_all(self, days: list[dt.date], after_days: int = 5) -> None:
        for day in days:
            self.label(self.frauds[day], day + dt.timedelta(days=after_days))


_WINDOWS = ("transaction_velocity_1h", "avg_amount_7d", "unique_merchants_30d")


@pytest.fixture
def world(context: Context, register: Make, linear_model: Make, features_of: Make, tmp_path: Path) -> World:
    """A version whose holdout was the first five days: 80 % of the frauds stopped."""
    version = register(linear_model(bias=BIAS), THRESHOLD)
    client = mlflow.MlflowClient(context.settings.mlflow_url)
    parts = {"holdout": {"first_day": str(HOLDOUT[0]), "end_day": str(AFTER[0])}}
    (tmp_path / "training.json").write_text(json.dumps({"parts": parts}))
    run_id = client.get_model_version("fraud-detector", version).run_id
    client.log_artifact(run_id, str(tmp_path / "training.json"))
    made = World(context, version, linear_model(bias=BIAS), features_of)
    for day in HOLDOUT:
        made.day(day, scored=False)
    made.label_all(HOLDOUT)
    return made


def record_of(result: concept_drift.Result) -> dict[str, Any]:
    path = Path(result.report_uri.removeprefix("file://")).with_suffix(".json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_a_model_as_good_as_on_the_holdout_is_ok_and_a_rerun_touches_nothing(context: Context, world: World) -> None:
    for day in AFTER:
        world.day(day)
    world.label_all(AFTER)
    world.label(["unknown-id"], AS_OF)
    result = concept_drift.run(concept_drift.Config(), context)
    assert (result.day, result.verdict, result.retrain) == (str(AS_OF), "ok", False)
    assert (result.days, result.rows, result.frauds) == (4, 800, 80)
    assert result.figures["recall"] == pytest.approx(0.8)
    assert result.promise["recall"] == pytest.approx(0.8)
    assert result.evidence < 1
    page = Path(result.report_uri.removeprefix("file://"))
    assert "holdout" in page.read_text()
    before = page.read_bytes(), page.with_suffix(".json").read_bytes()
    assert concept_drift.run(concept_drift.Config(), context) == result.model_copy(update={"changed": False})
    assert (page.read_bytes(), page.with_suffix(".json").read_bytes()) == before


def test_frauds_that_the_model_misses_ask_for_retraining(context: Context, world: World) -> None:
    for day in AFTER:
        world.day(day, caught=0.1)
    world.label_all(AFTER)
    world.label(["unknown-id"], AS_OF)
    result = concept_drift.run(concept_drift.Config(), context)
    assert (result.verdict, result.retrain) == ("drift", True)
    assert result.figures["recall"] == pytest.approx(0.1)
    assert result.evidence > result.limit == 365
    days = record_of(result)["days"]
    assert [d["frauds"] for d in days] == [20] * 4
    assert days[0]["evidence"]["recall"] < days[-1]["evidence"]["recall"]


def test_labels_that_come_late_or_never_are_counted_and_count_as_legitimate(context: Context, world: World) -> None:
    day = AFTER[0]
    scores = world.day(day)
    frauds = world.frauds[day]
    stopped = [row["transaction_id"] for row in scores.to_pylist() if row["is_fraud"]]
    world.label(frauds[:12], day + dt.timedelta(days=7))
    world.label(frauds[12:15], day + dt.timedelta(days=8))  # a day too late
    world.label(stopped[16:18], day + dt.timedelta(days=2), fraud=False)
    result = concept_drift.run(concept_drift.Config(), context)
    assert (result.days, result.frauds, result.late_frauds) == (1, 12, 3)
    assert result.unlabelled_stops == len(stopped) - 12 - 3 - 2
    assert record_of(result)["days"][0]["unlabelled"] == 200 - 12 - 3 - 2
    assert concept_drift.run(concept_drift.Config(date=day + dt.timedelta(days=7)), context).late_frauds == 0


def test_days_that_are_not_mature_or_were_decided_by_another_version_are_ignored(
    context: Context, world: World
) -> None:
    world.label(["unknown-id"], AFTER[0] + dt.timedelta(days=6))
    world.day(AFTER[0])
    assert concept_drift.run(concept_drift.Config(), context).verdict == "unknown"
    scores = catalog.SCORES.at(world.lake)
    table = scores.read(str(AFTER[0]))
    other = table.set_column(5, "model_version", pa.array(["77"] * table.num_rows))
    scores.publish(str(AFTER[0]), other)
    world.label(["unknown-id"], AFTER[0] + dt.timedelta(days=7))
    result = concept_drift.run(concept_drift.Config(), context)
    assert (result.verdict, result.days) == ("unknown", 0)


def test_what_serving_answered_counts_before_the_nightly_score(context: Context, world: World) -> None:
    scores = world.day(AFTER[0]).to_pylist()
    world.label(world.frauds[AFTER[0]], AFTER[0] + dt.timedelta(days=7))
    missed = [row["transaction_id"] for row in scores if row["is_fraud"]]
    first = {field.name: _filler(field) for field in prediction_log.FIXED}
    at_us = int(dt.datetime.combine(AFTER[0], dt.time(9), dt.UTC).timestamp()) * 1_000_000
    answers = [
        {**first, "prediction_id": f"p{n}-{i}", "transaction_id": i, "event_us": at_us, "served_us": at_us + 10**12 + n,
         "fraud_probability": 0.01, "is_fraud": False, "model_version": scores[0]["model_version"]}
        for i in missed for n in range(2)  # a retry has the same answer
    ]  # fmt: skip
    catalog.PREDICTIONS.at(world.lake).publish("2026-03-19", prediction_log.table_of(answers, THREE))
    result = concept_drift.run(concept_drift.Config(), context)
    day = record_of(result)["days"][0]
    assert (day["served"], day["nightly"], day["undecided"]) == (len(missed), 200 - len(missed), 0)
    assert result.figures["recall"] == 0.0


def _filler(field: pa.Field) -> object:
    if field.nullable:
        return None
    if pa.types.is_string(field.type):
        return ""
    return False if pa.types.is_boolean(field.type) else 0


def test_a_missing_input_is_named(context: Context, register: Make, linear_model: Make) -> None:
    with pytest.raises(RefusedError, match="no production version"):
        concept_drift.run(concept_drift.Config(), context)
    register(linear_model())
    with pytest.raises(RefusedError, match=r"training\.json"):
        concept_drift.run(concept_drift.Config(), context)


def test_without_any_label_there_is_nothing_to_judge_by(context: Context, world: World) -> None:
    labels = catalog.LABELS.at(world.lake)
    for day in labels.partitions():
        labels.drop(day)
    with pytest.raises(BadInputError, match="no labels"):
        concept_drift.run(concept_drift.Config(), context)


def test_days_of_the_holdout_are_excluded(context: Context, world: World) -> None:
    """Days of the holdout are not part of the comparison, though the version scored them."""
    for day in HOLDOUT:
        world.day(day)
    world.label(["unknown-id"], AS_OF)
    assert concept_drift.run(concept_drift.Config(), context).days == 0
    assert np.isfinite(concept_drift.run(concept_drift.Config(), context).evidence)
