"""Gates of a candidate: measured value, bound, verdict and reason.

A gate whose value could not be measured has failed, for example with an empty, single-class or immature holdout.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from fraud.stats.metrics import Interval
from fraud.stats.slices import SliceLoss

Asked = Literal["at least", "at most", "above"]


class Bounds(Protocol):
    """Bounds of the gates (params.yaml, section `gates`)."""

    @property
    def min_holdout_rows(self) -> int:
        """See params.yaml."""

    @property
    def min_holdout_frauds(self) -> int:
        """See params.yaml."""

    @property
    def min_average_precision_lift(self) -> float:
        """See params.yaml."""

    @property
    def min_auc(self) -> float:
        """See params.yaml."""

    @property
    def max_calibration_error(self) -> float:
        """See params.yaml."""

    @property
    def max_calibration_ratio(self) -> float:
        """See params.yaml."""

    @property
    def max_slice_loss(self) -> float:
        """See params.yaml."""

    @property
    def min_slice_frauds(self) -> int:
        """See params.yaml."""

    @property
    def max_onnx_difference(self) -> float:
        """See params.yaml."""

    @property
    def max_latency_us(self) -> float:
        """See params.yaml."""

    @property
    def max_quarantine_rate(self) -> float:
        """See params.yaml."""


@dataclass(frozen=True, slots=True)
class Gate:
    """The verdict of one gate. `value` is None when it could not be measured."""

    name: str
    value: float | None
    requested: Asked
    threshold: float
    passed: bool
    why: str
    detail: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Measured:
    """The measured values of the gates. None: not measured; `reasons` has the cause by gate."""

    holdout_rows: int
    holdout_frauds: int
    immature_rows: int | None
    """Holdout rows whose label delay had not passed at the training set's cut-off."""
    quarantine_rate: float | None
    average_precision_lift: float | None
    """Lower end of the interval of average precision, over the fraud rate."""
    auc: Interval | None
    gain: Interval | None
    """Additional USD saved per 1,000 transactions, compared with the opponent."""
    opponent: str
    simpler_gain: Interval | None
    """Additional USD saved per 1,000 transactions, compared with the next simpler level of the ladder."""
    simpler: str
    calibration_error: float | None
    calibration_ratio: Interval | None
    """Expected over observed frauds."""
    slices: tuple[SliceLoss, ...] | None
    onnx_difference: float | None
    latency_us: float | None
    feature_mismatches: int | None
    reasons: dict[str, str]


def judge(measured: Measured, bounds: Bounds) -> tuple[Gate, ...]:
    """Evaluate all gates, in the order of the report."""
    m = measured
    gain = None if m.gain is None else m.gain.low
    ratio, ratio_detail = _ratio(m.calibration_ratio)
    loss, loss_detail = _worst_loss(m.slices, bounds.min_slice_frauds)
    return (
        _gate(m, "data_contract", m.quarantine_rate, "at most", bounds.max_quarantine_rate,
              "a source that violates the contract this often has changed, and the model was trained on the change",
              "share of the delivered rows that were quarantined"),
        _gate(m, "holdout_rows", m.holdout_rows, "at least", bounds.min_holdout_rows,
              "figures of a small holdout are not reliable"),
        _gate(m, "holdout_frauds", m.holdout_frauds, "at least", bounds.min_holdout_frauds,
              "the other figures are computed from the frauds of the holdout", needs_holdout=True),
        _gate(m, "label_maturity", m.immature_rows, "at most", 0,
              "a transaction whose label is not due yet would count as legitimate"),
        _gate(m, "average_precision", m.average_precision_lift, "at least", bounds.min_average_precision_lift,
              "the ranking must be much better than chance, at the lower end of the interval",
              "lower end of the 95% interval of average precision, over the fraud rate", needs_holdout=True),
        _gate(m, "auc", None if m.auc is None else m.auc.low, "at least", bounds.min_auc,
              "the first model has no production version to be compared with",
              "" if m.auc is None else f"AUC {m.auc.value:.3f}, 95% interval {m.auc.low:.3f} to {m.auc.high:.3f}; the "
              "gate uses the lower end", needs_holdout=True),
        _gate(m, "better_than_production", gain, "above", 0.0,
              "a new version must save more money than the production version, at the lower end of the interval",
              _gain(m.gain, m.opponent), needs_holdout=True),
        _gate(m, "simpler_level", None if m.simpler_gain is None else m.simpler_gain.high, "at least", 0.0,
              "a simpler level must not save more money, at the upper end of the interval",
              _gain(m.simpler_gain, m.simpler, end="upper"), needs_holdout=True),
        _gate(m, "calibration_error", m.calibration_error, "at most", bounds.max_calibration_error,
              "the threshold is chosen by cost, so probabilities must be calibrated",
              "mean distance between predicted and observed rates, ten bins of equal expected frauds",
              needs_holdout=True),
        _gate(m, "calibration_ratio", ratio, "at most", bounds.max_calibration_ratio,
              "with a wrong overall fraud rate, the threshold is wrong too", ratio_detail, needs_holdout=True),
        _gate(m, "slices", loss, "at most", bounds.max_slice_loss,
              "the candidate must not be much worse on a part of the transactions: loss of recall at capacity",
              loss_detail, needs_holdout=True),
        _gate(m, "onnx_parity", m.onnx_difference, "at most", bounds.max_onnx_difference,
              "the served model must be the measured one",
              "largest difference to the native model, including rows next to every tree split"),
        _gate(m, "latency", m.latency_us, "at most", bounds.max_latency_us,
              "requests wait for the model", "p99 of one row through ONNX Runtime on one thread, us"),
        _gate(m, "feature_parity", m.feature_mismatches, "at most", 0,
              "the request path must compute the same vectors as the training data",
              "values whose bits differ between the vectors of batch and request"),
    )  # fmt: skip


def _gate(
    m: Measured, name: str, value: float | None, requested: Asked, threshold: float, why: str, detail: str = "",
    *, needs_holdout: bool = False,
) -> Gate:  # fmt: skip
    reason = m.reasons.get(name, "") or (_unusable(m) if needs_holdout else "")
    if reason or value is None or not math.isfinite(value):
        return Gate(name, None, requested, threshold, False, why, reason or "could not be measured")
    passed = {"at least": value >= threshold, "at most": value <= threshold, "above": value > threshold}[requested]
    return Gate(name, float(value), requested, float(threshold), passed, why, detail)


def served_skew(report: Mapping[str, Any] | None) -> Gate:
    """The gate on skew at promotion: the served features of the newest day compared with the recomputed ones.

    `report` is skew.json of that day, None before the first one. Without a report the gate passes.
    """
    differences, detail = 0, "no answers were checked yet"
    if report is not None:
        parts = {
            "served values differ": report["mismatches"],
            "events are missing in the store": report["events_lost"],
            "probabilities differ": report["probabilities"]["wrong"],
        }
        differences = sum(parts.values())
        detail = f"{report['records']:,} answers of {report['day']}: " + (
            ", ".join(f"{count:,} {what}" for what, count in parts.items() if count) or "nothing differs"
        )
    why = "a model that is served other features than in training does not have the measured quality"
    return Gate("skew", float(differences), "at most", 0.0, differences == 0, why, detail)


def failed(gates: Iterable[Gate]) -> list[str]:
    """Names of the gates that did not pass."""
    return [gate.name for gate in gates if not gate.passed]


def _unusable(m: Measured) -> str:
    if not m.holdout_rows:
        return "the holdout is empty"
    if m.holdout_frauds in (0, m.holdout_rows):
        return f"the holdout has one class only: {m.holdout_frauds} frauds in {m.holdout_rows} rows"
    if m.immature_rows is None:
        return "the maturity of the holdout's labels is unknown"
    if m.immature_rows:
        return f"{m.immature_rows} holdout rows are younger than the label maturity"
    return ""


def _gain(gain: Interval | None, opponent: str, *, end: str = "lower") -> str:
    if gain is None:
        return ""
    return (
        f"{gain.value:+.2f} USD per 1,000 transactions against {opponent}, 95% interval {gain.low:+.2f} to "
        f"{gain.high:+.2f}; the gate uses the {end} end"
    )


def _ratio(ratio: Interval | None) -> tuple[float | None, str]:
    """The ratio of expected and observed frauds, as a factor of at least 1."""
    if ratio is None or not ratio.value > 0:
        return None, ""
    detail = f"{ratio.value:.2f} frauds expected per observed fraud, 95% interval {ratio.low:.2f} to {ratio.high:.2f}"
    return max(ratio.value, 1 / ratio.value), detail


def _worst_loss(slices: tuple[SliceLoss, ...] | None, min_frauds: int) -> tuple[float | None, str]:
    """The largest loss whose interval is above zero; 0 without one."""
    if slices is None:
        return None, ""
    judged = [s for s in slices if s.frauds >= min_frauds]
    worst = max((s for s in judged if s.loss.low > 0), key=lambda s: s.loss.value, default=None)
    where = f"worst: {worst.name}, {worst.opponent:.2f} -> {worst.candidate:.2f}" if worst else "no loss beyond noise"
    return worst.loss.value if worst else 0.0, f"{len(judged)} slices with at least {min_frauds} frauds; {where}"
