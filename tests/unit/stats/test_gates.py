"""Verdicts: what passes, and that nothing passes by being empty, single-class, immature or unmeasured."""

from dataclasses import replace

import pytest

from fraud.params import Gates
from fraud.stats.gates import Measured, failed, judge, online_state, served_skew
from fraud.stats.metrics import Interval
from fraud.stats.slices import SliceLoss

BOUNDS = Gates(
    min_holdout_rows=5000, min_holdout_frauds=30, min_average_precision_lift=5.0, min_auc=0.7,
    max_calibration_error=0.02, max_calibration_ratio=2.0, max_slice_loss=0.15, min_slice_frauds=15,
    max_onnx_difference=1e-5, max_latency_us=500.0, max_quarantine_rate=0.02,
)  # fmt: skip
GOOD = Measured(
    holdout_rows=20000, holdout_frauds=100, immature_rows=0, quarantine_rate=0.001, average_precision_lift=20.0,
    auc=Interval(0.93, 0.88, 0.96),
    gain=Interval(50.0, 10.0, 90.0), opponent="version 3",
    simpler_gain=Interval(5.0, -4.0, 12.0), simpler="level 1-logistic", calibration_error=0.002,
    calibration_ratio=Interval(1.2, 0.9, 1.6),
    slices=(SliceLoss("category travel", 30, 0.5, 0.6, Interval(0.1, -0.05, 0.2)),),
    onnx_difference=8e-7, browser_parity="not compared", latency_us=30.0, feature_mismatches=0, reasons={},
)  # fmt: skip
ON_HOLDOUT = {
    "holdout_frauds",
    "average_precision",
    "auc",
    "better_than_production",
    "simpler_level",
    "calibration_error",
    "calibration_ratio",
    "slices",
}


def test_a_good_candidate_passes_every_gate() -> None:
    assert failed(judge(GOOD, BOUNDS)) == []


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"quarantine_rate": 0.021}, "data_contract"),
        ({"holdout_rows": 4999}, "holdout_rows"),
        ({"holdout_frauds": 29}, "holdout_frauds"),
        ({"average_precision_lift": 4.9}, "average_precision"),
        ({"auc": Interval(0.585, 0.551, 0.618)}, "auc"),
        ({"auc": Interval(0.72, 0.69, 0.75)}, "auc"),
        ({"gain": Interval(50.0, 0.0, 90.0)}, "better_than_production"),
        ({"gain": Interval(-5.0, -9.0, -1.0)}, "better_than_production"),
        ({"simpler_gain": Interval(-8.0, -15.0, -0.01)}, "simpler_level"),
        ({"calibration_error": 0.03}, "calibration_error"),
        ({"calibration_ratio": Interval(2.1, 1.5, 3.0)}, "calibration_ratio"),
        ({"calibration_ratio": Interval(0.4, 0.3, 0.6)}, "calibration_ratio"),
        ({"onnx_difference": 2e-5}, "onnx_parity"),
        ({"latency_us": 501.0}, "latency"),
        ({"feature_mismatches": 1}, "feature_parity"),
    ],
)
def test_each_bound_blocks_by_itself(change: dict[str, object], name: str) -> None:
    assert failed(judge(replace(GOOD, **change), BOUNDS)) == [name]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"holdout_rows": 0, "holdout_frauds": 0}, "empty"),
        ({"holdout_frauds": 0}, "one class only"),
        ({"holdout_frauds": 20000}, "one class only"),
        ({"immature_rows": 5}, "younger than the label maturity"),
        ({"immature_rows": None}, "not known"),
    ],
)
def test_an_unusable_holdout_fails_all_that_is_measured_on_it(change: dict[str, object], reason: str) -> None:
    gates = {gate.name: gate for gate in judge(replace(GOOD, **change), BOUNDS)}  # type: ignore[arg-type]
    assert set(failed(gates.values())) >= ON_HOLDOUT
    assert all(reason in gates[name].detail and gates[name].value is None for name in ON_HOLDOUT)


@pytest.mark.parametrize(
    "unmeasured",
    ["quarantine_rate", "average_precision_lift", "gain", "simpler_gain", "calibration_error", "calibration_ratio",
     "slices", "onnx_difference", "latency_us", "feature_mismatches"],
)  # fmt: skip
def test_what_was_not_measured_has_failed(unmeasured: str) -> None:
    assert len(failed(judge(replace(GOOD, **{unmeasured: None}), BOUNDS))) == 1  # type: ignore[arg-type]


def test_not_a_number_is_no_value() -> None:
    assert failed(judge(replace(GOOD, average_precision_lift=float("nan")), BOUNDS)) == ["average_precision"]


def test_a_reason_fails_its_gate_and_is_told() -> None:
    [gate] = [g for g in judge(replace(GOOD, reasons={"latency": "no clock"}), BOUNDS) if not g.passed]
    assert (gate.name, gate.detail) == ("latency", "no clock")


@pytest.mark.parametrize(
    ("frauds", "loss", "passes"),
    [
        (30, Interval(0.3, 0.1, 0.5), False),
        (30, Interval(0.3, -0.01, 0.6), True),
        (30, Interval(0.1, 0.05, 0.15), True),
        (14, Interval(0.9, 0.8, 1.0), True),
    ],
)
def test_a_slice_fails_when_its_loss_is_large_real_and_seen_often_enough(
    frauds: int, loss: Interval, passes: bool
) -> None:
    measured = replace(GOOD, slices=(SliceLoss("category travel", frauds, 0.2, 0.5, loss),))
    assert failed(judge(measured, BOUNDS)) == ([] if passes else ["slices"])


def test_the_gate_on_skew_counts_everything_that_was_served_wrong() -> None:
    assert served_skew(None).passed
    report = {"day": "2026-03-09", "records": 1200, "mismatches": 0, "events_lost": 1, "probabilities": {"wrong": 2}}
    gate = served_skew(report)
    assert (gate.value, gate.passed) == (3.0, False)
    assert gate.detail == "1,200 answers of 2026-03-09: 1 events are lost, 2 probabilities differ"
    assert served_skew({**report, "events_lost": 0, "probabilities": {"wrong": 0}}).passed


def test_the_online_store_must_have_everything_that_a_version_reads() -> None:
    complete = online_state((), 3, "")
    assert (complete.passed, complete.value, complete.threshold) == (True, 0.0, 0.0)
    absent = online_state(["history of user (ab)"], 3, "")
    assert (absent.passed, absent.value) == (False, 1.0)
    assert "history of user (ab); run fraud build-features, then fraud materialize" in absent.detail
    unknown = online_state(None, 3, "the online store does not answer")
    assert (unknown.passed, unknown.value, unknown.detail) == (False, None, "the online store does not answer")
