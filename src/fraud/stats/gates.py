"""The gates for a candidate: measured values, bounds, verdicts and reasons.

A gate whose value could not be measured has failed. An empty, single-class or immature holdout passes no gate.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from fraud.params import Gates
from fraud.stats.metrics import Interval
from fraud.stats.slices import SliceLoss

Comparison = Literal["at least", "at most", "above"]


@dataclass(frozen=True, slots=True)
class Gate:
    """One verdict: `value` is `comparison` `threshold`. `value` is None if it could not be measured."""

    name: str
    value: float | None
    comparison: Comparison
    threshold: float
    passed: bool
    why: str
    detail: str

    def as_dict(self) -> dict[str, Any]:
        """As in gates.json."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Measured:
    """Input of the gates. None: not measured; `reasons` has the reason by gate."""

    holdout_rows: int
    holdout_frauds: int
    immature_rows: int | None
    """Holdout rows whose label delay had not passed at the training set's cut-off."""
    quarantine_rate: float | None
    average_precision_lift: float | None
    """Lower end of the interval of average precision, over the fraud rate."""
    auc: Interval | None
    gain: Interval | None
    """USD saved per 1,000 transactions more than the opponent."""
    opponent: str
    simpler_gain: Interval | None
    """USD saved per 1,000 transactions more than the ladder's next simpler level."""
    simpler: str
    calibration_error: float | None
    calibration_ratio: Interval | None
    """Expected over observed frauds."""
    slices: tuple[SliceLoss, ...] | None
    onnx_difference: float | None
    browser_parity: str
    """What the comparison with the browser's runtime found, or why there was none."""
    latency_us: float | None
    feature_mismatches: int | None
    reasons: dict[str, str]


def judge(measured: Measured, bounds: Gates) -> tuple[Gate, ...]:
    """The verdicts of all gates, in the order of the report."""
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
              "all measures below count frauds", needs_holdout=True),
        _gate(m, "label_maturity", m.immature_rows, "at most", 0,
              "a transaction whose label may still be received would count as legitimate"),
        _gate(m, "average_precision", m.average_precision_lift, "at least", bounds.min_average_precision_lift,
              "the ranking must be significantly better than chance",
              "lower end of the 95% interval of average precision, over the fraud rate", needs_holdout=True),
        _gate(m, "auc", None if m.auc is None else m.auc.low, "at least", bounds.min_auc,
              "the ranking must be useful by itself, also when there is no Production to compare with",
              "" if m.auc is None else f"AUC {m.auc.value:.3f}, 95% interval {m.auc.low:.3f} to {m.auc.high:.3f}; the "
              "gate uses the lower end", needs_holdout=True),
        _gate(m, "better_than_production", gain, "above", 0.0,
              "a new version must save significantly more money than the current one",
              _gain(m.gain, m.opponent), needs_holdout=True),
        _gate(m, "simpler_level", None if m.simpler_gain is None else m.simpler_gain.high, "at least", 0.0,
              "a simpler level that saves significantly more money must be preferred",
              _gain(m.simpler_gain, m.simpler, end="upper"), needs_holdout=True),
        _gate(m, "calibration_error", m.calibration_error, "at most", bounds.max_calibration_error,
              "the threshold was chosen by cost, so probabilities must be calibrated",
              "mean distance of predicted and observed rates, ten bins of equal expected frauds", needs_holdout=True),
        _gate(m, "calibration_ratio", ratio, "at most", bounds.max_calibration_ratio,
              "with a wrong fraud rate, the threshold is wrong", ratio_detail, needs_holdout=True),
        _gate(m, "slices", loss, "at most", bounds.max_slice_loss,
              "an improvement on average must not be a large loss for a group: recall at capacity that a slice lost",
              loss_detail, needs_holdout=True),
        _gate(m, "onnx_parity", m.onnx_difference, "at most", bounds.max_onnx_difference,
              "the served model must be the measured one, in the browser too",
              f"largest difference to the native model, including rows beside every split; {m.browser_parity}"),
        _gate(m, "latency", m.latency_us, "at most", bounds.max_latency_us,
              "a customer waits for the answer", "p99 of one row through ONNX Runtime on one thread, in us"),
        _gate(m, "feature_parity", m.feature_mismatches, "at most", 0,
              "the request path must compute the same vectors as training",
              "values whose bits differ between the vectors of batch and request path"),
    )  # fmt: skip


def _gate(
    m: Measured, name: str, value: float | None, comparison: Comparison, threshold: float, why: str, detail: str = "",
    *, needs_holdout: bool = False,
) -> Gate:  # fmt: skip
    reason = m.reasons.get(name, "") or (_unusable(m) if needs_holdout else "")
    if reason or value is None or not math.isfinite(value):
        return Gate(name, None, comparison, threshold, False, why, reason or "could not be measured")
    passed = {"at least": value >= threshold, "at most": value <= threshold, "above": value > threshold}[comparison]
    return Gate(name, float(value), comparison, float(threshold), passed, why, detail)


def served_skew(report: Mapping[str, Any] | None) -> Gate:
    """The platform's gate at promotion: the newest checked day of answers must have no skew.

    `report` is skew.json of that day; None, which passes, before anything was served.
    """
    wrong, detail = 0, "nothing was served yet"
    if report is not None:
        parts = {
            "served values differ": report["mismatches"],
            "events are lost": report["events_lost"],
            "probabilities differ": report["probabilities"]["wrong"],
        }
        wrong = sum(parts.values())
        detail = f"{report['records']:,} answers of {report['day']}: " + (
            ", ".join(f"{count:,} {what}" for what, count in parts.items() if count) or "nothing differs"
        )
    why = "with other features than in training, the figures of the model are not valid"
    return Gate("skew", float(wrong), "at most", 0.0, wrong == 0, why, detail)


def online_state(absent: Collection[str] | None, needed: int, reason: str) -> Gate:
    """The platform's gate at promotion: the online store has what the version reads.

    `absent`: the missing ones of the `needed` histories and daily tables; None, which fails, with the reason.
    Without needed ones, `reason` is why; "": the version reads none.
    """
    why = "without its histories and daily tables, the answers of the version would differ from its training"
    if absent is None:
        return Gate("online_state", None, "at most", 0.0, False, why, reason)
    detail = f"all of {needed} histories and daily tables are loaded" if needed else reason or "the version reads none"
    if absent:
        detail = f"not in the online store: {', '.join(absent)}; run fraud build-features, then fraud materialize"
    return Gate("online_state", float(len(absent)), "at most", 0.0, not absent, why, detail)


def failed(gates: Iterable[Gate]) -> list[str]:
    """Names of the gates that did not pass."""
    return [gate.name for gate in gates if not gate.passed]


def _unusable(m: Measured) -> str:
    if not m.holdout_rows:
        return "the holdout is empty"
    if m.holdout_frauds in (0, m.holdout_rows):
        return f"the holdout has one class only: {m.holdout_frauds} frauds in {m.holdout_rows} rows"
    if m.immature_rows is None:
        return "it is not known whether the labels of the holdout are mature"
    if m.immature_rows:
        return f"{m.immature_rows} holdout rows are younger than the label maturity"
    return ""


def _gain(gain: Interval | None, opponent: str, *, end: str = "lower") -> str:
    if gain is None:
        return ""
    return (
        f"{gain.value:+.2f} USD per 1,000 transactions compared with {opponent}, 95% interval {gain.low:+.2f} to "
        f"{gain.high:+.2f}; the gate uses the {end} end"
    )


def _ratio(ratio: Interval | None) -> tuple[float | None, str]:
    """Ratio of expected and observed frauds, or its inverse: at least 1."""
    if ratio is None or not ratio.value > 0:
        return None, ""
    detail = (
        f"{ratio.value:.2f} expected frauds for each observed one, 95% interval {ratio.low:.2f} to {ratio.high:.2f}"
    )
    return max(ratio.value, 1 / ratio.value), detail


def _worst_loss(slices: tuple[SliceLoss, ...] | None, min_frauds: int) -> tuple[float | None, str]:
    """The largest significant loss, whose interval lies above zero; 0 if there is none."""
    if slices is None:
        return None, ""
    judged = [s for s in slices if s.frauds >= min_frauds]
    worst = max((s for s in judged if s.loss.low > 0), key=lambda s: s.loss.value, default=None)
    where = f"worst: {worst.name}, {worst.opponent:.2f} -> {worst.candidate:.2f}" if worst else "no significant loss"
    return worst.loss.value if worst else 0.0, f"{len(judged)} slices with at least {min_frauds} frauds; {where}"
