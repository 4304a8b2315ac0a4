"""Compare the production model's decisions with the labels received since, and with its figures on the holdout.

For each day with mature labels: precision, recall, average precision, calibration and savings of the decisions, with
intervals. Over the days: evidence that the decisions are worse than on the holdout, which remains valid when it is
checked every day (`fraud.stats.e_detector`). Writes `<reports>/concept/<day>/concept.html` and `concept.json`, with the
same bytes for the same inputs.
"""

import datetime as dt
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from pydantic import Field

from fraud.errors import BadInputError
from fraud.job import Context, JobConfig, JobResult
from fraud.lake import catalog, reports
from fraud.monitoring import concept_report
from fraud.monitoring.labelled_decisions import Day, Decisions, Labelled
from fraud.stats.costs import Costs, costs_of
from fraud.stats.decision_quality import FIGURES, Outcomes
from fraud.stats.e_detector import evidence, fires, promised, shares
from fraud.stats.metrics import Floats

if TYPE_CHECKING:
    from fraud.registry.model_versions import ModelArtifact

RESAMPLINGS: Final = 200
MONITORED: Final = ("recall", "precision")
_FORMAT: Final = "3"
"""Format of the record. A report in another format is written again."""
_COUNTS: Final = ("served", "nightly", "undecided", "late_frauds", "unlabelled", "unlabelled_stops")


class Config(JobConfig):
    """Date of the report."""

    date: dt.date | None = Field(
        default=None, description="use labels received until the end of this day; default the newest day of labels"
    )


class Result(JobResult):
    """The verdict. `retrain` is true when the evidence has reached its limit."""

    day: str
    """Labels received until the end of this day are used."""
    verdict: str
    """ok | drift | unknown"""
    reason: str
    """Why the verdict is unknown; "" for the others."""
    retrain: bool
    evidence: float
    limit: float
    days: int
    """Mature days with decisions of this version."""
    rows: int
    frauds: int
    figures: dict[str, float | None]
    """Over those days: `fraud.stats.decision_quality.FIGURES`."""
    promise: dict[str, float | None]
    """The same figures over the holdout: the baseline."""
    late_frauds: int
    unlabelled_stops: int
    model_version: str
    report_uri: str
    changed: bool


@dataclass(frozen=True, slots=True)
class Span:
    """The days of the report, and the hashes of all its inputs."""

    as_of: dt.date
    days: list[str]
    holdout: list[str]
    made_from: dict[str, str]


def run(config: Config, context: Context) -> Result:
    """Measure and report. Raises RefusedError without a Production model, BadInputError without labels."""
    from fraud.registry import model_versions  # noqa: PLC0415 - mlflow takes seconds to import

    artifact = model_versions.fetch(context.settings)
    training = json.loads(model_versions.artifact(context.settings, artifact.run_id, "training.json"))
    span = _span(config, context, artifact, training["parts"]["holdout"])
    root = f"{context.settings.reports_uri.rstrip('/')}/concept"
    report = reports.read(f"{root}/{span.as_of}", "concept")
    changed = report is None or report["made_from"] != span.made_from
    if report is None or changed:
        context.log.info("comparison started", days=len(span.days), holdout_days=len(span.holdout))
        report = _judge(span, artifact, context)
        reports.write(f"{root}/{span.as_of}", "concept", concept_report.page(report), report)
        reports.expire(root, context.settings.report_days)
    return _result(report, f"{root}/{span.as_of}/concept.html", changed=changed)


def _span(config: Config, context: Context, artifact: "ModelArtifact", holdout: dict[str, Any]) -> Span:
    lake, maturity = context.settings.lake_uri, context.params.labels.maturity_days
    features = catalog.features(artifact.plan.stored_hash)
    label_days, feature_days = catalog.LABELS.at(lake).partitions(), features.at(lake).partitions()
    if not label_days:
        raise BadInputError("there are no labels", hint="fraud ingest-labels")
    as_of = config.date or dt.date.fromisoformat(label_days[-1])
    last = as_of - dt.timedelta(days=maturity)
    first = last - dt.timedelta(days=context.params.concept.window_days - 1)
    holdout_days = [d for d in feature_days if holdout["first_day"] <= d < holdout["end_day"]]
    # The days of the holdout are excluded: they are the baseline.
    landed = catalog.TRANSACTIONS.at(lake).partitions()
    days = [d for d in landed if str(first) <= d <= str(last) and d >= holdout["end_day"]]
    made_from = {
        "model_version": artifact.version,
        "model_sha256": artifact.model_sha256,
        "threshold": repr(artifact.threshold),
        "params": context.params.fingerprint("concept", "costs", "labels"),
        "format": _FORMAT,
    }
    inputs = (
        (catalog.TRANSACTIONS, days), (catalog.SCORES, days), (features, holdout_days),
        (catalog.LABELS, [d for d in label_days if d <= str(as_of)]),
        (catalog.PREDICTIONS, catalog.PREDICTIONS.at(lake).partitions()),
    )  # fmt: skip
    for definition, partitions in inputs:
        dataset = definition.at(lake).open()
        for d in partitions:
            if (partition := dataset.partition(d)) is not None:
                made_from[f"{definition.name} {d}"] = partition.content_sha256
    return Span(as_of, days, holdout_days, made_from)


def _judge(span: Span, artifact: "ModelArtifact", context: Context) -> dict[str, Any]:
    costs, bounds = costs_of(context.params), context.params.concept
    promise = _promise(span, artifact, context)
    days = _days(span, artifact.version, context)
    lows = {"recall": promised(_caught(promise)), "precision": promised(_right(promise))}
    by_day = {
        "recall": evidence([_caught(d.outcomes) for d in days], lows["recall"] or 0.0),
        "precision": evidence([_right(d.outcomes) for d in days], lows["precision"] or 0.0),
    }
    # The mean of two e-detectors is an e-detector.
    together = [sum(values) / len(MONITORED) for values in zip(*by_day.values(), strict=True)]
    found = together[-1] if together else 0.0
    reason = _unknown(promise, lows, days)
    return {
        "day": str(span.as_of),
        "model_version": artifact.version,
        "verdict": "unknown" if reason else "drift" if fires(together, bounds.false_alarm_days) else "ok",
        "reason": reason,
        "retrain": found >= bounds.false_alarm_days,
        "evidence": round(found, 6),
        "limit": bounds.false_alarm_days,
        "promise": {
            "days": [span.holdout[0], span.holdout[-1]] if span.holdout else [],
            "rows": len(promise.users),
            "frauds": int(promise.is_fraud.sum()),
            "figures": _figures(promise, costs, context),
            "lows": {name: None if low is None else round(low, 6) for name, low in lows.items()},
        },
        "days": [
            {
                "day": d.day, "rows": len(d.outcomes.users), "frauds": int(d.outcomes.is_fraud.sum()),
                "stops": int(d.outcomes.stopped.sum()), **{name: getattr(d, name) for name in _COUNTS},
                "figures": _figures(d.outcomes, costs, context),
                "evidence": {**{name: round(by_day[name][i], 6) for name in MONITORED}, "both": round(together[i], 6)},
            }
            for i, d in enumerate(days)
        ],
        "figures": _figures(_joined([d.outcomes for d in days]), costs, context),
        "made_from": span.made_from,
    }  # fmt: skip


def _unknown(promise: Outcomes, lows: Mapping[str, float | None], days: Sequence[Day]) -> str:
    """Why there is no verdict; "" when there is one."""
    if not len(promise.users):
        return "the features of the holdout are not in the lake"
    if not any(lows.values()):
        return "no fraud of the holdout was stopped, so there is no recall or precision above 0 to compare with"
    if not days:
        return "there are no decisions of this version on days with mature labels"
    if not any(len(_caught(d.outcomes)) or len(_right(d.outcomes)) for d in days):
        return "the days with mature labels have neither a fraud nor a stopped transaction"
    return ""


def _promise(span: Span, artifact: "ModelArtifact", context: Context) -> Outcomes:
    """Outcomes of the model on its holdout, with labels of the same age as those of the compared days."""
    from fraud.scoring.onnx_session import OnnxModel  # noqa: PLC0415 - not needed for a report that is up to date
    from fraud.scoring.scorer import Scorer  # noqa: PLC0415

    scorer, parts = Scorer(OnnxModel(artifact.model), artifact.version, artifact.plan, artifact.threshold), []
    features = catalog.features(artifact.plan.stored_hash).at(context.settings.lake_uri).open()
    if span.holdout:
        labels = _labels(span.holdout[0], span, context)
        for day in span.holdout:
            rows = features.read_as(day, scorer.input)
            scored = scorer.score(rows)[0].select(["transaction_id", "fraud_probability", "is_fraud"])
            decided = rows.select(["transaction_id", "user_id", "amount"]).join(scored, "transaction_id")
            parts.append(labels.judge(day, decided.sort_by("transaction_id"), served=0).outcomes)
    return _joined(parts)


def _days(span: Span, version: str, context: Context) -> list[Day]:
    """The mature days with decisions of this version."""
    if not span.days:
        return []
    labels = _labels(span.days[0], span, context)
    decisions = Decisions(context.settings.lake_uri, version, span.days[0], span.days[-1])
    found = []
    for day in span.days:
        rows, served = decisions.of(day)
        judged = labels.judge(day, rows, served=served)
        if len(judged.outcomes.users):
            found.append(judged)
    return found


def _labels(first: str, span: Span, context: Context) -> Labelled:
    return Labelled.read(context.settings.lake_uri, first, span.as_of, context.params.labels.maturity_days)


def _caught(outcomes: Outcomes) -> Floats:
    """Share of stopped frauds of each victim, float64[victims]."""
    return shares(outcomes.users[outcomes.is_fraud], outcomes.stopped[outcomes.is_fraud])


def _right(outcomes: Outcomes) -> Floats:
    """Share of frauds among the stopped transactions of each customer, float64[customers]."""
    return shares(outcomes.users[outcomes.stopped], outcomes.is_fraud[outcomes.stopped])


def _joined(parts: Sequence[Outcomes]) -> Outcomes:
    """Concatenate outcomes. A person counts once per day, as in the evidence."""
    if not parts:
        none = np.zeros(0)
        return Outcomes(none, none.astype(bool), none.astype(bool), none, none.astype(np.int64))
    first = np.cumsum([0, *(int(part.users.max(initial=-1)) + 1 for part in parts)])
    parts = [part._replace(users=part.users + start) for part, start in zip(parts, first, strict=False)]
    return Outcomes(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _figures(outcomes: Outcomes, costs: Costs, context: Context) -> dict[str, list[float | None]]:
    found = outcomes.figures(costs, resamplings=RESAMPLINGS, seed=context.params.training.seed)
    return {name: [_number(value) for value in interval] for name, interval in found.items()}


def _number(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


def _result(report: dict[str, Any], report_uri: str, *, changed: bool) -> Result:
    def total(name: str) -> int:
        return sum(day[name] for day in report["days"])

    return Result(
        day=report["day"], verdict=report["verdict"], reason=report["reason"], retrain=report["retrain"],
        evidence=report["evidence"], limit=report["limit"], days=len(report["days"]), rows=total("rows"),
        frauds=total("frauds"),
        figures={name: report["figures"][name][0] for name in FIGURES},
        promise={name: report["promise"]["figures"][name][0] for name in FIGURES},
        late_frauds=total("late_frauds"), unlabelled_stops=total("unlabelled_stops"),
        model_version=report["model_version"], report_uri=report_uri, changed=changed,
    )  # fmt: skip
