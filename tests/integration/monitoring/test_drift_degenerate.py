"""`fraud drift` on columns without values and samples without rows: a verdict and a page, whatever is missing."""

import dataclasses
import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from prometheus_client import CollectorRegistry
from tests.served_answers import THREE

from fraud.core.plan import Plan
from fraud.features.engines.arrow_vector import vectors
from fraud.job import Context
from fraud.lake.dataset import Dataset
from fraud.monitoring import drift
from fraud.monitoring.platform_metrics import PlatformMetrics
from fraud.scoring.onnx_session import OnnxModel

LAST = dt.date(2026, 3, 9)
JANUARY = dt.date(2026, 1, 11)
CATEGORY = "category"
"""The input of the column KIND."""
DISTANCE, KIND, AVERAGE, BUSY = (
    "distance_from_home", "merchant_category", "avg_amount_7d", "transaction_velocity_1h",
)  # fmt: skip
Make = Callable[..., Any]
Change = Callable[[pa.Table], pa.Table]


def filled(column: str, value: object) -> Change:
    """Every row has this value; None: it has none."""

    def change(table: pa.Table) -> pa.Table:
        kind = table.schema.field(column).type
        at = table.column_names.index(column)
        return table.set_column(at, column, pa.array([value] * table.num_rows, kind))

    return change


def untyped(column: str) -> Change:
    """No values, and the file has no type for them either."""

    def change(table: pa.Table) -> pa.Table:
        return table.set_column(table.column_names.index(column), column, pa.nulls(table.num_rows))

    return change


def first(rows: int) -> Change:
    return lambda table: table.slice(0, rows)


def same(table: pa.Table) -> pa.Table:
    return table


CASES: dict[str, tuple[Change, Change, str, list[str], str]] = {
    # what changes in the reference, in the window; verdict, drifted features, the note of the drifted or changed column
    "no values now": (same, filled(DISTANCE, None), "drift", [DISTANCE], "no values in the current window"),
    "no values then": (filled(DISTANCE, None), same, "drift", [DISTANCE], "no values in the reference"),
    "no values ever": (filled(DISTANCE, None), filled(DISTANCE, None), "ok", [], "no values in the reference"),
    "no values, no type": (same, untyped(AVERAGE), "drift", [AVERAGE], "no values in the current window"),
    "no category now": (same, filled(KIND, None), "drift", [CATEGORY], "no values in the current window"),
    "no category then": (filled(KIND, None), same, "drift", [CATEGORY], "no values in the reference"),
    "no category ever": (filled(KIND, None), filled(KIND, None), "ok", [], "no values in the current window"),
    "constant now": (same, filled(AVERAGE, 33.0), "drift", [AVERAGE], "constant in the current window: 33.0"),
    "constant then": (filled(BUSY, 0.0), same, "drift", [BUSY], "constant in the reference: 0.0"),
    "constant and lower": (filled(BUSY, 4.0), filled(BUSY, 2.0), "drift", [BUSY], "constant in the reference: 4.0"),
    "constant ever": (filled(BUSY, 4.0), filled(BUSY, 4.0), "ok", [], "constant in the reference: 4.0"),
    "one category now": (same, filled(KIND, "jewelry"), "drift", [CATEGORY], "not in the reference: jewelry"),
    "no reference rows": (first(0), same, "unknown", [], "no values in the reference"),
    "few reference rows": (first(30), same, "unknown", [], "30 values in the reference, fewer than 1,000"),
    "one row now": (same, first(1), "unknown", [], "1 value in the current window, fewer than 1,000"),
    "no rows now": (same, first(0), "unknown", [], "no values in the current window"),
    "no rows ever": (first(0), first(0), "unknown", [], "no values in the current window"),
}


@pytest.mark.parametrize("case", CASES)
def test_every_degenerate_column_has_a_verdict_a_note_a_page_and_figures(
    case: str, context: Context, register: Make, linear_model: Make, features: Dataset, features_of: Make
) -> None:
    in_reference, now, verdict, drifted, note = CASES[case]
    table = pa.concat_tables([features_of(JANUARY + dt.timedelta(days=n), 400, seed=1) for n in range(5)])
    probability = pa.array(OnnxModel(linear_model()).probabilities(vectors(table, Plan(THREE))))
    register(linear_model(), reference=in_reference(table.append_column("fraud_probability", probability)))
    features.publish(str(LAST), now(features_of(LAST, 1_500)))

    result = drift.run(drift.Config(), context)
    assert (result.verdict, result.drifted_features) == (verdict, drifted)
    assert bool(result.reason) == (verdict == "unknown")
    # One of seven features is within what params.yaml allows; the newest day alone makes the verdict.
    assert (result.retrain, result.jumped_features) == (False, drifted)
    page = Path(result.report_uri.removeprefix("file://"))
    record = json.loads(page.with_suffix(".json").read_text(), parse_constant=_not_json)
    changed = drifted or [name for name, f in record["features"].items() if f["notes"]]
    assert note in record["features"][changed[0]]["notes"]
    assert note in page.read_text()
    assert result.reason in page.read_text()
    assert drift.run(drift.Config(), context) == result.model_copy(update={"changed": False})
    assert figures(context)["fraud_drift_rows"] == record["rows"]
    assert figures(context).get("fraud_drift_found") == {"drift": 1, "ok": 0, "unknown": None}[verdict]


def figures(context: Context) -> dict[str, float]:
    """What the exporter makes of the newest report."""
    registry = CollectorRegistry()
    settings = context.settings.model_copy(update={"mlflow_url": "http://127.0.0.1:1"})
    registry.register(PlatformMetrics(dataclasses.replace(context, settings=settings), ()))
    samples = [sample for metric in registry.collect() for sample in metric.samples]
    assert {s.labels["source"]: s.value for s in samples if s.name == "fraud_source_up"}["reports"] == 1
    return {s.name: s.value for s in samples if not s.labels}


def _not_json(constant: str) -> object:
    raise AssertionError(f"{constant} is not JSON")


def test_a_report_of_an_older_format_is_written_again(
    context: Context, register: Make, linear_model: Make, features: Dataset, features_of: Make
) -> None:
    table = features_of(JANUARY, 50)
    probability = pa.array(np.full(50, 0.5, np.float32))
    register(linear_model(), reference=table.append_column("fraud_probability", probability))
    features.publish(str(LAST), features_of(LAST, 10))
    result = drift.run(drift.Config(), context)
    path = Path(result.report_uri.removeprefix("file://")).with_suffix(".json")
    record = json.loads(path.read_text())
    del record["reason"], record["made_from"]["format"]
    path.write_text(json.dumps(record))
    assert drift.run(drift.Config(), context) == result
