"""Render the gate report of one evaluation: a self-contained HTML page."""

import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import jinja2

from fraud.params import Params
from fraud.printing import figure
from fraud.training.model_card import share


def page(
    record: Mapping[str, Any], training: Mapping[str, Any], plots: Sequence[str], importance: str, params: Params
) -> str:
    """`record` is gates.json, `training` training.json of the run, `plots` and `importance` are <svg> elements."""
    costs = params.costs
    return template("gate_report.html.j2").render(
        r=record, levels=_levels(training), parts=training["parts"], plots=plots,
        headline=_headline(record, training),
        notes=_notes(training),
        min_slice_frauds=params.gates.min_slice_frauds, inputs=record["inputs"].items(),
        slices=sorted(record["slices"], key=lambda s: (-s["frauds"], s["name"])),
        costs=f"{costs.alerts_per_1000:g} alerts per 1,000 payments; a review costs {costs.review:g} USD, a missed "
        f"fraud its amount and {costs.chargeback_fee:g} USD, stopping a legitimate payment {costs.friction:g} USD.",
        importance=importance, features=record["features"], history=record["history"],
    )  # fmt: skip


def template(name: str) -> jinja2.Template:
    """A template of this package. Values are escaped; an undefined value is an error."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True,
        loader=jinja2.FunctionLoader(lambda file: files("fraud.training").joinpath(file).read_text()),
    )  # fmt: skip
    environment.filters.update(figure=figure, value=_value, words=_words, share=share, thousands=lambda n: f"{n:,}")
    return environment.get_template(name)


def _value(value: float | None, _gate: object) -> str:
    return "not measured" if value is None else figure(value)


def _words(name: str) -> str:
    return name.replace("_", " ").replace("onnx", "ONNX").replace("auc", "AUC")


def _levels(training: Mapping[str, Any]) -> list[dict[str, Any]]:
    steps = {step["level"]: step for step in training["steps"]}
    return [
        {**level, "chosen": level["level"] == training["selected"], "reason": _reason(steps.get(level["level"]))}
        for level in training["levels"]
    ]


def _reason(step: Mapping[str, Any] | None) -> str:
    if step is None:
        return "baseline"
    value, low, high = step["gain"]
    verdict = "selected over" if step["taken"] else "not selected over"
    return f"{verdict} level {step['against']}: average precision {value:+.3f} ({low:+.3f} to {high:+.3f})"


def _notes(training: Mapping[str, Any]) -> list[str]:
    """Remarks that no gate covers."""
    chosen = training["levels"][training["selected"]]
    saved = chosen["holdout"]["saved_per_1000"][0]
    return [
        f"On this holdout, level {other['level']} ({other['name']}) saves more at the alert capacity: "
        f"{figure(other['holdout']['saved_per_1000'][0])} compared with {figure(saved)} USD per 1,000 payments. Levels "
        "are selected by average precision on the validation part. The table below has the intervals of both figures."
        for other in training["levels"]
        if other["holdout"]["saved_per_1000"][0] > saved
    ] + [
        f"The amount or the hour is no input of the model, so level 0 uses {used}."
        for level in training["levels"]
        if level["level"] == 0 and (used := _used_by_rule(level.get("facts", {})))
    ]


def _used_by_rule(facts: Mapping[str, float]) -> str:
    """What level 0 uses if it does not use both amount and hour, otherwise ""."""
    amount, hour = facts.get("uses_amount", 1.0), facts.get("uses_hour", 1.0)
    if amount and hour:
        return ""
    return "the amount alone" if amount else "the hour alone" if hour else "the fraud rate alone"


def _headline(record: Mapping[str, Any], training: Mapping[str, Any]) -> list[tuple[str, str]]:
    chosen = training["levels"][training["selected"]]["holdout"]
    gates = {gate["name"]: gate["value"] for gate in record["gates"]}
    latency, recall = gates["latency"], chosen["recall"][0]
    found = [
        ("average precision", figure(chosen["average_precision"][0])),
        ("AUC", figure(chosen["auc"][0])),
        ("USD saved per 1,000 payments", figure(chosen["saved_per_1000"][0])),
        ("frauds found at capacity", f"{recall:.0%}" if math.isfinite(recall) else figure(recall)),
        ("frauds in the holdout", f"{training['parts']['holdout']['frauds']:,}"),
    ]
    return found if latency is None else [*found, ("us for one row, p99", f"{latency:.0f}")]
