"""Evaluate a registered version against the gates and the production version, on a holdout that selected neither.

Writes `report/gates.html` and `report/gates.json` to the run and to `<reports>/training/<run>/`, and the verdict as
tags of the version. `fraud train` ends with this evaluation. `fraud evaluate` renews it after Production has changed.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fraud import printing
from fraud.core import rule
from fraud.errors import BadInputError, RefusedError
from fraud.job import Context, JobConfig, JobResult
from fraud.lake import reports
from fraud.params import Params
from fraud.registry import model_versions
from fraud.registry.mlflow_client import ModelVersion, registry_errors
from fraud.registry.model_versions import MODEL_NAME
from fraud.registry.promotion_log import opened
from fraud.registry.training_runs import TrainingRuns, as_json
from fraud.scoring import browser_runtime
from fraud.scoring.onnx_session import OnnxModel
from fraud.stats import gates
from fraud.stats.comparison import Compared, Rows, slice_losses
from fraud.stats.costs import Costs, costs_of
from fraud.stats.importance import importances, vector_columns
from fraud.stats.metrics import calibration
from fraud.training import gate_report, model_card, model_inputs, plots, training_data
from fraud.training.dvc import outputs
from fraud.training.ladder import onnx_checks
from fraud.training.training_data import TrainingData

REPORT: Final = "report"
PENDING: Final = "pending"
_OPPONENT_GATES: Final = ("better_than_production", "slices")
_BROWSER_ROWS: Final = 20_000
"""Rows of the holdout that the browser's runtime scores, in one to two seconds."""


class Config(JobConfig):
    """Version to evaluate."""

    version: int = Field(description="version to evaluate against the gates")
    out: Path | None = Field(default=None, description="folder for metrics and curves that dvc.yaml tracks")


class Result(JobResult):
    """The verdict and its report. `levels` is the ladder on the holdout, `gates` all gates in order."""

    version: str
    run_id: str
    reused: bool
    selected: str
    gates_passed: bool
    failed_gates: tuple[str, ...]
    champion: str
    levels: tuple[dict[str, Any], ...]
    gates: tuple[dict[str, Any], ...]
    report_uri: str
    mlflow_run_url: str

    def as_text(self) -> str:
        found = ", found by its fingerprint" if self.reused else ""
        return "\n".join(
            [
                f"version {self.version}, level {self.selected}{found}",
                "",
                *printing.table(_level_row(level) for level in self.levels),
                "  on the holdout, with 95% intervals",
                "",
                *gate_lines(self.gates),
                f"report  {self.report_uri}",
                f"run     {self.mlflow_run_url}",
            ]
        )


def gate_lines(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Gates as lines of a table, the failed ones first."""
    return printing.table(
        {
            "gate": gate["name"],
            "verdict": "passed" if gate["passed"] else "FAILED",
            "measured": "not measured" if gate["value"] is None else printing.figure(gate["value"]),
            "required": f"{gate['comparison']} {printing.figure(gate['threshold'])}",
        }
        for gate in sorted(found, key=lambda gate: bool(gate["passed"]))
    )


def _level_row(level: Mapping[str, Any]) -> dict[str, object]:
    intervals = {
        title: printing.interval([level[name], level[f"{name}_low"], level[f"{name}_high"]])
        for title, name in (("AUC", "auc"), ("average precision", "average_precision"))
    }
    return {
        "level": f"{level['level']}-{level['name']}", **intervals, "recall at capacity": level["recall_at_capacity"],
        "USD saved per 1,000": level["saved_per_1000"], "selected": level["selected"],
    }  # fmt: skip


class Opponent(NamedTuple):
    """What the candidate is compared with. `probabilities` float32[n]; None if not measured, with the reason."""

    name: str
    probabilities: NDArray[np.float32] | None
    reason: str = ""


def run(config: Config, context: Context) -> Result:
    """Evaluate a version. Raises RefusedError for Production, and for other parameters than in params.yaml."""
    with registry_errors():
        version = model_versions.find(context.settings, config.version)
        if str(version.version) == model_versions.production_version(context.settings):
            raise RefusedError(f"version {version.version} is Production: candidates are compared with it")
        current = context.params.fingerprint(*model_inputs.TRAINING_PARAMS)
        if version.tags.get("params_sha256") != current:
            raise RefusedError(
                f"version {version.version} was trained with other parameters, so its holdout is not known",
                expected=f"params_sha256 {version.tags.get('params_sha256')}", got=current, hint="fraud train",
            )  # fmt: skip
        lake = context.settings.lake_uri
        declaration = model_versions.plan_of(context.settings, version).declaration
        partition = training_data.partition_of(lake, version.tags.get("snapshot"), declaration)
        data = training_data.load(lake, partition, context.params, declaration)
        verdict = judge(version, data, context, TrainingRuns(context.settings))
        if config.out is not None:
            model = OnnxModel(model_versions.fetch(context.settings, config.version).model)
            answers = model.probabilities(data.holdout.vectors)
            outputs.write_evaluation(config.out, verdict.model_dump(), answers, data.holdout.is_fraud)
        return verdict


def current_verdict(version: ModelVersion, context: Context, runs: TrainingRuns) -> Result | None:
    """The recorded verdict; None if there is none, or if it does not refer to the current Production and bounds."""
    champion = model_versions.production_version(context.settings) or ""
    tags = version.tags
    up_to_date = tags.get("champion") == champion and tags.get("gates_sha256") == _bounds_sha256(context.params)
    if tags.get("gates") not in ("passed", "failed") or not (up_to_date or str(version.version) == champion):
        return None
    record = json.loads(runs.artifacts(version.run_id, f"{REPORT}/gates.json")["gates.json"])
    training = json.loads(runs.artifacts(version.run_id, "training.json")["training.json"])
    return _result(record, training, context, runs, reused=True)


def judge(version: ModelVersion, data: TrainingData, context: Context, runs: TrainingRuns) -> Result:
    """Measure, apply the gates, write the reports, tag the version. A rerun after a kill gives the same state."""
    settings, params, run_id, number = context.settings, context.params, version.run_id, str(version.version)
    runs.tag_version(number, {"gates": PENDING})  # invalidates an older verdict until the last tag below is set
    champion = model_versions.production_version(settings) or ""
    training = json.loads(runs.artifacts(run_id, "training.json")["training.json"])
    ladder = {name.removesuffix(".onnx"): OnnxModel(m) for name, m in runs.artifacts(run_id, "ladder").items()}
    model_bytes = model_versions.fetch(settings, int(number)).model
    model = OnnxModel(model_bytes)
    opponent = _opponent(context, champion, data)
    context.log.info("evaluation started", version=number, against=opponent.name, **training["parts"]["holdout"])

    costs = costs_of(params)
    simpler = _simpler(version.tags["level"], ladder, data.holdout)
    measured, slices = _measure(data, model, opponent, simpler, training, costs, context)
    measured = _in_browser(measured, model_bytes, data.holdout.vectors, context)
    verdicts = gates.judge(measured, params.gates)
    began = time.monotonic()
    features = _features(data, model, params.training.seed)
    context.log.info("feature importances measured", seconds=round(time.monotonic() - began, 1))
    failed = gates.failed(verdicts)
    record = {
        "model": MODEL_NAME, "version": number, "candidate": f"version {number}", "run_id": run_id,
        "selected_level": version.tags["level"], "threshold": float(version.tags["threshold"]),
        "opponent": opponent.name, "champion": champion, "gates_passed": not failed, "failed_gates": failed,
        "gates": [gate.as_dict() for gate in verdicts], "slices": slices, "features": features,
        "history": model_card.history(data.plan), "inputs": inputs_of(version),
    }  # fmt: skip
    named = {f"version {number}": model.probabilities(data.holdout.vectors)}
    if champion and opponent.probabilities is not None:
        named[opponent.name] = opponent.probabilities
    named |= {
        name: m.probabilities(data.holdout.vectors) for name, m in ladder.items() if name != version.tags["level"]
    }
    drawn = plots.of_models(named, data.holdout.amount, data.holdout.is_fraud, costs)
    page = gate_report.page(record, training, drawn, plots.svg(plots.importance(features)), params)
    runs.put_text(run_id, f"{REPORT}/gates.html", page)
    runs.put_text(run_id, f"{REPORT}/gates.json", as_json(record))
    runs.put_text(run_id, f"{REPORT}/model_card.md", model_card.card(record, training, params))
    reports.write(report_folder(context, run_id), "gates", page, record)
    runs.record(run_id, metrics={f"gate_{g.name}": g.value for g in verdicts if g.value is not None})
    verdict = {
        "champion": champion, "failed_gates": ",".join(failed), "gates_sha256": _bounds_sha256(params),
        "gates": "failed" if failed else "passed",
    }  # fmt: skip
    runs.tag_version(number, verdict)
    runs.stage(number, passed=not failed)
    with opened(settings) as promotion:
        promotion.repair()  # the stages follow the aliases
    for gate in verdicts:
        (context.log.info if gate.passed else context.log.warning)(
            "gate evaluated",
            name=gate.name,
            passed=gate.passed,
            value=gate.value,
            bound=f"{gate.comparison} {gate.threshold:g}",
        )
    return _result(record, training, context, runs, reused=False)


def inputs_of(version: ModelVersion) -> dict[str, str]:
    """The inputs of a version's training, in the order of the report."""
    names = ("git_commit", "git_dirty", "snapshot", "data_sha256", "params_sha256", "lock_sha256", "code_sha256",
             "feature_hash", "stored_hash", "seed", "fingerprint", "model_sha256", "serving_sha256")  # fmt: skip
    return {"run": version.run_id, **{name: version.tags.get(name, "unknown") for name in names}}


def _opponent(context: Context, champion: str, data: TrainingData) -> Opponent:
    """Production, on the features of its own declaration; without Production the default rule, which serving applies
    without a model."""
    if not champion:
        rows = data.holdout
        probability = rule.DEFAULT.probabilities(rows.amount.astype(np.float32), rows.hour.astype(np.float32))
        return Opponent("the default rule", probability)
    try:
        artifact = model_versions.fetch(context.settings, int(champion))
        given = training_data.holdout_vectors(data, artifact.plan, context.settings.lake_uri)
    except RefusedError as error:
        return Opponent(f"version {champion}", None, f"Production cannot be measured: {error.message}")
    except BadInputError as error:
        reason = f"Production cannot be measured: {error.message}; {error.hint}"
        return Opponent(f"version {champion}", None, reason)
    return Opponent(f"version {champion}", OnnxModel(artifact.model).probabilities(given))


def _simpler(level: str, ladder: Mapping[str, OnnxModel], rows: Rows) -> Opponent:
    """The next simpler level of the same ladder; without probabilities for the simplest level."""
    below = f"{int(level.partition('-')[0]) - 1}-"
    for name, model in ladder.items():
        if name.startswith(below):
            return Opponent(f"level {name}", model.probabilities(rows.vectors))
    return Opponent("no simpler level", None)


def _measure(
    data: TrainingData,
    model: OnnxModel,
    opponent: Opponent,
    simpler: Opponent,
    training: Mapping[str, Any],
    costs: Costs,
    context: Context,
) -> tuple[gates.Measured, list[dict[str, Any]]]:
    params, rows = context.params, data.holdout
    ours = model.probabilities(rows.vectors)
    theirs = np.zeros_like(ours) if opponent.probabilities is None else opponent.probabilities
    draws, seed = params.training.bootstrap, params.training.seed
    below = ours if simpler.probabilities is None else simpler.probabilities
    compared = Compared(rows, [ours, theirs, below], costs, resamplings=draws, seed=seed)
    losses = slice_losses(rows, ours, theirs, costs.capacity, resamplings=draws, seed=seed)
    rate = float(rows.is_fraud.mean())
    measured = gates.Measured(
        holdout_rows=len(rows.is_fraud),
        holdout_frauds=int(rows.is_fraud.sum()),
        immature_rows=data.immature_rows(),
        quarantine_rate=training_data.quarantine_rate(context.settings.lake_uri),
        average_precision_lift=compared.interval(0, "average_precision").low / rate,
        auc=compared.interval(0, "auc"),
        gain=compared.gain(0, 1, "saved_per_1000"),
        opponent=opponent.name,
        simpler_gain=compared.gain(0, 2, "saved_per_1000"),
        simpler=simpler.name,
        calibration_error=calibration(ours, rows.is_fraud)[0],
        calibration_ratio=compared.interval(0, "expected_over_seen"),
        slices=losses,
        onnx_difference=training["levels"][training["selected"]]["onnx_difference"],
        browser_parity="",
        latency_us=onnx_checks.latency_us(model, rows.vectors),
        feature_mismatches=data.feature_mismatches(),
        reasons=dict.fromkeys(_OPPONENT_GATES, opponent.reason),
    )
    return measured, [
        {"name": s.name, "frauds": s.frauds, "candidate": s.candidate, "opponent": s.opponent, "loss": list(s.loss)}
        for s in losses
    ]


def _in_browser(
    measured: gates.Measured, model: bytes, vectors: NDArray[np.float32], context: Context
) -> gates.Measured:
    """Compare the probabilities with those of the browser's runtime. Other bits fail the gate."""
    from fraud.scoring.trees import probes  # noqa: PLC0415 - numba takes a second to import

    chosen = np.linspace(0, len(vectors) - 1, min(_BROWSER_ROWS, len(vectors))).astype(np.int64)
    began = time.monotonic()
    try:
        found = browser_runtime.browser_parity(
            context.settings.project, model, np.vstack([vectors[chosen], probes(model)])
        )
    except browser_runtime.NotAvailableError as error:
        context.log.info("not compared with the browser's runtime", reason=str(error))
        return replace(measured, browser_parity=f"not compared with the browser's runtime: {error}")
    except browser_runtime.FailedError as error:
        reason = f"the browser's runtime does not score the model: {error}"
        return replace(measured, reasons=measured.reasons | {"onnx_parity": reason})
    context.log.info("browser's runtime compared", **asdict(found), seconds=round(time.monotonic() - began, 1))
    if found.differing:
        reason = (
            f"{found.differing:,} of {found.rows:,} rows have another probability in the browser's runtime, the "
            f"largest difference is {found.largest:.1e}"
        )
        return replace(measured, reasons=measured.reasons | {"onnx_parity": reason})
    return replace(measured, browser_parity=f"the browser's runtime gives the same bits for {found.rows:,} rows")


def _features(data: TrainingData, model: OnnxModel, seed: int) -> list[dict[str, Any]]:
    """Importance and missing rates of each declared feature, the most important first."""
    rows, columns = data.holdout, vector_columns(data.plan)
    missing, in_training = (
        training_data.missing_rates(data, part) for part in (data.split.holdout, data.final_part)
    )  # fmt: skip
    return [
        {
            "name": name, "loss": loss, "spread": spread, "columns": len(columns[name]),
            "missing": missing.get(name), "missing_in_training": in_training.get(name),
        }
        for name, loss, spread in importances(model.probabilities, rows.vectors, rows.is_fraud, columns, seed)
    ]  # fmt: skip


def _bounds_sha256(params: Params) -> str:
    return sha256(params.fingerprint("gates").encode()).hexdigest()


def report_folder(context: Context, run_id: str) -> str:
    """Folder of the report of a run's version. The run has a copy."""
    return f"{context.settings.reports_uri.rstrip('/')}/training/{run_id}"


def _result(
    record: Mapping[str, Any], training: Mapping[str, Any], context: Context, runs: TrainingRuns, *, reused: bool
) -> Result:
    levels = [
        {
            "level": level["level"], "name": level["name"], "selected": level["level"] == training["selected"],
            "average_precision": level["holdout"]["average_precision"][0],
            "average_precision_low": level["holdout"]["average_precision"][1],
            "average_precision_high": level["holdout"]["average_precision"][2],
            "auc": level["holdout"]["auc"][0], "auc_low": level["holdout"]["auc"][1],
            "auc_high": level["holdout"]["auc"][2], "recall_at_capacity": level["holdout"]["recall"][0],
            "saved_per_1000": level["holdout"]["saved_per_1000"][0],
            "validation_average_precision": level["validation"]["average_precision"][0],
        }
        for level in training["levels"]
    ]  # fmt: skip
    return Result(
        version=record["version"], run_id=record["run_id"], reused=reused, selected=record["selected_level"],
        gates_passed=record["gates_passed"], failed_gates=tuple(record["failed_gates"]), champion=record["champion"],
        levels=tuple(levels), gates=tuple(record["gates"]),
        report_uri=f"{report_folder(context, record['run_id'])}/gates.html", mlflow_run_url=runs.url(record["run_id"]),
    )  # fmt: skip
