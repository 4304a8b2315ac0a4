"""Figures as a person reads them, and the pages of a version of which nothing could be measured."""

from pathlib import Path
from typing import Any

import pytest

from fraud import declaration_file
from fraud.core.plan import Plan
from fraud.params import Params
from fraud.stats.gates import Measured, failed, judge
from fraud.stats.metrics import Interval
from fraud.training import gate_report, model_card
from fraud.training.gate_report import figure

ROOT = Path(__file__).resolve().parents[3]
PARAMS = Params.load(ROOT / "params.yaml")
UNKNOWN = [float("nan"), float("-inf"), float("inf")]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (5000, "5,000"), (0.12345, "0.123"), (28.74, "28.7"), (8.5e-7, "8.5e-07"), (-17.2, "-17.2"),
     (float("nan"), "none"), (float("inf"), "none"), (1234.56, "1,234.6")],
)  # fmt: skip
def test_a_figure_shows_the_digits_that_count(value: float, text: str) -> None:
    assert figure(value) == text


def nothing_measured() -> tuple[dict[str, Any], dict[str, Any]]:
    """gates.json and training.json of a version whose holdout had no rows; every figure is undefined."""
    undefined = Interval(*UNKNOWN)
    gates = judge(
        Measured(
            holdout_rows=0, holdout_frauds=0, immature_rows=None, quarantine_rate=None,
            average_precision_lift=float("nan"), auc=undefined, gain=undefined, opponent="the default rule",
            simpler_gain=undefined, simpler="level 0-rule", calibration_error=float("nan"),
            calibration_ratio=undefined, slices=(),
            onnx_difference=None, browser_parity="", latency_us=None, feature_mismatches=None, reasons={},
        ), PARAMS.gates,
    )  # fmt: skip
    part = {"first_day": "2026-03-01", "end_day": "2026-03-01", "rows": 0, "frauds": 0}
    measures = ("average_precision", "auc", "recall", "saved_per_1000", "expected_over_seen")
    level = {"level": 0, "name": "rule", "onnx_difference": 0.0, "holdout": dict.fromkeys(measures, UNKNOWN)}
    training = {
        "selected": 0, "steps": [], "levels": [level], "snapshot": "s1",
        "parts": {**dict.fromkeys(("train", "validation", "holdout", "final"), part), "gap_days": 7, "shrunk": True},
    }  # fmt: skip
    record = {
        "model": "fraud-detector", "version": "1", "candidate": "version 1", "run_id": "r", "selected_level": "0-rule",
        "threshold": 1.0, "opponent": "the default rule", "champion": "", "gates_passed": False,
        "failed_gates": failed(gates), "gates": [gate.as_dict() for gate in gates], "inputs": {"run": "r"},
        "features": [], "history": "the payment alone",
        "slices": [{"name": "category travel", "frauds": 0, "candidate": UNKNOWN[0], "opponent": UNKNOWN[0],
                    "loss": UNKNOWN}],
    }  # fmt: skip
    return record, training


def test_a_version_of_which_nothing_was_measured_fails_its_gates_and_has_a_page_and_a_card() -> None:
    record, training = nothing_measured()
    assert len(record["failed_gates"]) == len(record["gates"])
    page = gate_report.page(record, training, [], "<svg></svg>", PARAMS)
    card = model_card.card(record, training, PARAMS)
    unmeasured = [gate for gate in record["gates"] if gate["value"] is None]
    assert len(unmeasured) == len(record["gates"]) - 1  # the rows of the holdout were counted: 0
    assert card.count("| not measured |") == len(unmeasured)
    assert "the holdout is empty" in page
    for text in (page, card):
        assert "nan" not in text.lower()
        assert not {"inf", "-inf"} & set(text.split())


def test_page_and_card_have_each_feature_with_importance_and_missing_rate() -> None:
    record, training = nothing_measured()
    record["features"] = [
        {"name": "avg", "loss": 0.1234, "spread": 0.0021, "columns": 1, "missing": 0.125, "missing_in_training": 0.5},
        {"name": "ratio", "loss": -0.001, "spread": 0.0, "columns": 17, "missing": None, "missing_in_training": None},
    ]
    page = gate_report.page(record, training, [], "<svg></svg>", PARAMS)
    card = model_card.card(record, training, PARAMS)
    for text in ("+0.1234", "± 0.0021", "12.5%", "50.0%", "17 columns", "computed"):
        assert text in page
    assert "| avg | +0.1234 ± 0.0021 | 12.5% |" in card
    assert "| ratio | -0.0010 ± 0.0000 | computed |" in card


@pytest.mark.parametrize(
    ("amount", "hour", "text"), [(0, 1, "the hour alone"), (1, 0, "the amount alone"), (0, 0, "the fraud rate alone")]
)
def test_the_page_notes_that_level_0_lacks_amount_or_hour(amount: int, hour: int, text: str) -> None:
    record, training = nothing_measured()
    training["levels"][0]["facts"] = {"uses_amount": amount, "uses_hour": hour}
    assert f"so level 0 uses {text}." in gate_report.page(record, training, [], "<svg></svg>", PARAMS)


def test_the_card_names_the_histories_that_the_version_reads() -> None:
    shipped = declaration_file.load(ROOT / "tests/declarations/three.yaml")
    assert model_card.history(Plan(shipped)) == (
        "at most the last 1,024 payments of a user and none that is more than 37d older than the newest"
    )
