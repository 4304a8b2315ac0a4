"""A version's model card as Markdown: what it is for, what it was made from, how good it is and where it is not.

The sections are those of Mitchell et al., Model Cards for Model Reporting (FAT* 2019).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from fraud.core.contract import US_PER_DAY
from fraud.core.features import LATENESS_US, MAX_EVENTS
from fraud.params import Params
from fraud.printing import figure

_MEASURES: Final = {
    "average_precision": "average precision", "auc": "AUC", "recall": "frauds found at capacity",
    "saved_per_1000": "USD saved per 1,000 payments", "expected_over_seen": "expected over seen frauds",
}  # fmt: skip


def card(record: Mapping[str, Any], training: Mapping[str, Any], params: Params) -> str:
    """`record` is gates.json, `training` training.json of the run. Equal inputs, equal text."""
    level, costs = training["levels"][training["selected"]], params.costs
    verdict = "every gate passed" if record["gates_passed"] else f"failed: {', '.join(record['failed_gates'])}"
    return "\n".join(
        [
            f"# {record['model']} version {record['version']}",
            "",
            (f"Level {record['selected_level']}, threshold {figure(record['threshold'])}, held against "
            f"{record['opponent']}: {verdict}."),
            "",
            "## Intended use",
            "",
            ("Scores a card payment while the customer waits, and all payments nightly. A probability at or above the "
            "threshold is an alert for an analyst; it stops no payment by itself. Not for judging a person or a "
            "merchant, not for payments outside the contract's categories and amounts, not for any decision without a "
            "way to appeal."),
            "",
            "## Data",
            "",
            *_table(("part", "days", "payments", "frauds"), _parts(training["parts"])),
            "",
            (f"{training['parts']['gap_days']} days lie between the parts, so that labels had time to come. A payment "
            f"without a label by then counts as legitimate. Snapshot `{training['snapshot']}`."),
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
            f"missed fraud its amount and {costs.chargeback_fee:g} USD, stopping an legitimate customer "
            f"{costs.friction:g} USD."),
            "",
            "## Slices",
            "",
            (f"Share of a slice's frauds found at the common capacity, against {record['opponent']}. Slices with fewer "
            f"than {params.gates.min_slice_frauds} frauds are not judged."),
            "",
            *_table(("slice", "frauds", "this version", "opponent", "lost"), _slices(record["slices"])),
            "",
            "## Gates",
            "",
            *_table(
                ("gate", "verdict", "measured", "asked for"),
                (
                    (
                        gate["name"], "passed" if gate["passed"] else "**failed**",
                        "not measured" if gate["value"] is None else figure(gate["value"]),
                        f"{gate['asked']} {figure(gate['threshold'])}",
                    )
                    for gate in record["gates"]
                ),
            ),
            "",
            "## Limits",
            "",
            (f"Features know at most a user's last {MAX_EVENTS:,} payments, and no event that came more than "
            f"{LATENESS_US // US_PER_DAY} days late. Frauds whose labels never come are learnt as legitimate. What "
            "fraud looks like changes: `monitor_drift` says when this card is out of date. On simulated data every "
            "figure is far above what real cards allow."),
            "",
            "## Lineage",
            "",
            *_table(("input", "value"), ((name, f"`{value}`") for name, value in record["lineage"].items())),
            "",
        ]
    )  # fmt: skip


def _parts(parts: Mapping[str, Any]) -> Iterable[Sequence[str]]:
    for name, part in parts.items():
        if isinstance(part, Mapping):
            days = f"{part['first_day']} to {part['end_day']}, not included"
            yield name, days, f"{part['rows']:,}", f"{part['frauds']:,}"


def _slices(slices: Sequence[Mapping[str, Any]]) -> Iterable[Sequence[str]]:
    for s in sorted(slices, key=lambda s: (-s["frauds"], s["name"])):
        lost = f"{figure(s['loss'][0])} ({figure(s['loss'][1])} to {figure(s['loss'][2])})"
        yield s["name"], str(s["frauds"]), figure(s["candidate"]), figure(s["opponent"]), lost


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]
