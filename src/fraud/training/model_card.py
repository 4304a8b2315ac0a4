"""A version's model card as Markdown: intended use, data, metrics, slices, gates, limits and inputs.

The sections are those of Mitchell et al., Model Cards for Model Reporting (FAT* 2019).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from fraud.core.declaration_types import duration_text
from fraud.core.plan import Plan
from fraud.params import Params
from fraud.printing import figure

_MEASURES: Final = {
    "average_precision": "average precision", "auc": "AUC", "recall": "frauds found at capacity",
    "saved_per_1000": "USD saved per 1,000 payments", "expected_over_seen": "expected over observed frauds",
}  # fmt: skip


def card(record: Mapping[str, Any], training: Mapping[str, Any], params: Params) -> str:
    """`record` is gates.json, `training` training.json of the run. The same inputs give the same text."""
    level, costs = training["levels"][training["selected"]], params.costs
    verdict = "every gate passed" if record["gates_passed"] else f"failed: {', '.join(record['failed_gates'])}"
    return "\n".join(
        [
            f"# {record['model']} version {record['version']}",
            "",
            (f"Level {record['selected_level']}, threshold {figure(record['threshold'])}, compared with "
            f"{record['opponent']}: {verdict}."),
            "",
            "## Intended use",
            "",
            ("Scoring card payments at checkout and nightly. A probability at or above the threshold is an alert for "
            "an analyst; it does not stop a payment by itself. Out of scope: decisions about a person or a merchant, "
            "payments outside the contract's bounds, and decisions without a way to appeal."),
            "",
            "## Data",
            "",
            *_table(("part", "first day", "end day (not included)", "payments", "frauds"), _parts(training["parts"])),
            "",
            (f"The gap between the parts is {training['parts']['gap_days']} days, the label delay. A payment without "
            "a label after it counts as legitimate. The deployed model was fitted on the part `final`. Snapshot "
            f"`{training['snapshot']}`."),
            "",
            "## Metrics",
            "",
            "On the holdout, with 95% intervals (bootstrap over users).",
            "",
            *_table(
                ("measure", "value", "interval"),
                (
                    (words, figure(value), f"{figure(low)} to {figure(high)}")
                    for words, (value, low, high) in ((w, level["holdout"][m]) for m, w in _MEASURES.items())
                ),
            ),
            "",
            (f"Assumed: {costs.alerts_per_1000:g} alerts per 1,000 payments; a review costs {costs.review:g} USD, a "
            f"missed fraud its amount and {costs.chargeback_fee:g} USD, stopping a legitimate payment "
            f"{costs.friction:g} USD."),
            "",
            "## Slices",
            "",
            (f"Share of a slice's frauds found at the same capacity, compared with {record['opponent']}. The gate "
            f"ignores slices with fewer than {params.gates.min_slice_frauds} frauds."),
            "",
            *_table(("slice", "frauds", "this version", "opponent", "lost"), _slices(record["slices"])),
            "",
            "## Features",
            "",
            ("Permutation importance: the loss of average precision on the holdout when a feature is shuffled, with "
            "its standard deviation. Missing: share of the holdout's rows without a value."),
            "",
            *_table(
                ("feature", "loss of average precision", "missing"),
                (
                    (f["name"], f"{f['loss']:+.4f} ± {f['spread']:.4f}", share(f["missing"]))
                    for f in record["features"]
                ),
            ),
            "",
            "## Gates",
            "",
            *_table(
                ("gate", "verdict", "measured", "required"),
                (
                    (
                        gate["name"], "passed" if gate["passed"] else "**failed**",
                        "not measured" if gate["value"] is None else figure(gate["value"]),
                        f"{gate['comparison']} {figure(gate['threshold'])}",
                    )
                    for gate in record["gates"]
                ),
            ),
            "",
            "## Limits",
            "",
            (f"Features use {record['history']}. Frauds that are never labelled count as legitimate. "
            "Fraud patterns change; `monitor_drift` reports when data or decisions have drifted since this card was "
            "written. On simulated data all figures are much higher than on real card data."),
            "",
            "## Inputs",
            "",
            *_table(("input", "value"), ((name, f"`{value}`") for name, value in record["inputs"].items())),
            "",
        ]
    )  # fmt: skip


def history(plan: Plan) -> str:
    """The bounds of the histories that a version reads, as the end of a sentence."""
    bounds = [
        f"at most the last {w.layout.max_events:,} payments of a {w.layout.entity} and none that is more than "
        f"{duration_text(w.layout.keep_us)} older than the newest"
        for w in plan.windows
    ]
    bounds += [f"values of each {table.entity} of the last complete days" for table in plan.tables]
    return "; ".join(bounds) or "the payment alone"


def share(value: float | None) -> str:
    """A missing rate; features that are computed from others have none."""
    return "computed" if value is None else f"{value:.1%}"


def _parts(parts: Mapping[str, Any]) -> Iterable[Sequence[str]]:
    for name in ("train", "validation", "holdout", "final"):
        part = parts[name]
        yield name, part["first_day"], part["end_day"], f"{part['rows']:,}", f"{part['frauds']:,}"


def _slices(slices: Sequence[Mapping[str, Any]]) -> Iterable[Sequence[str]]:
    for s in sorted(slices, key=lambda s: (-s["frauds"], s["name"])):
        lost = f"{figure(s['loss'][0])} ({figure(s['loss'][1])} to {figure(s['loss'][2])})"
        yield s["name"], str(s["frauds"]), figure(s["candidate"]), figure(s["opponent"]), lost


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]
