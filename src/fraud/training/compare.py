"""Compare two versions on the holdout of one training set, and write an HTML report.

The training set has the features of the first version. Features of the second that differ are read from the lake.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from pydantic import Field
from pydantic_settings import CliPositionalArg

from fraud.job import Context, JobConfig, JobResult
from fraud.lake import reports
from fraud.printing import figure
from fraud.registry import model_versions
from fraud.registry.mlflow_client import ModelVersion
from fraud.scoring.onnx_session import OnnxModel
from fraud.stats.comparison import MEASURES, Compared, slice_losses
from fraud.stats.costs import costs_of
from fraud.stats.metrics import calibration
from fraud.training import gate_report, plots, training_data
from fraud.training.training_data import TrainingData

INPUTS: Final = ("level", "threshold", "git_commit", "git_dirty", "snapshot", "data_sha256", "params_sha256",
                 "code_sha256", "lock_sha256", "feature_hash", "stored_hash", "seed", "model_sha256", "gates",
                 "failed_gates", "approved_by", "approval_reason")  # fmt: skip


class Config(JobConfig):
    """Two versions and a training set."""

    first: CliPositionalArg[str] = Field(description="number or alias")
    second: CliPositionalArg[str] = Field(description="number or alias")
    snapshot: str | None = Field(
        default=None,
        description="training set whose holdout is used; default the latest with the first version's features",
    )


class Result(JobResult):
    """Measures as [value, low, high]; `difference` is first minus second, paired."""

    first: str
    second: str
    snapshot: str
    holdout: dict[str, Any]
    measures: dict[str, dict[str, list[float]]]
    """Measure -> first, second, difference."""
    calibration_error: dict[str, float]
    inputs: dict[str, dict[str, str]]
    """Inputs of training that differ: name -> first, second."""
    notes: tuple[str, ...]
    report_uri: str

    def as_text(self) -> str:
        lines = [f"{'':<20}{'version ' + self.first:>28}{'version ' + self.second:>28}{'difference':>28}"]
        for name, row in self.measures.items():
            cells = [_interval(row[side]) for side in ("first", "second", "difference")]
            lines.append(f"{name:<20}{cells[0]:>28}{cells[1]:>28}{cells[2]:>28}")
        lines += [f"differs: {name}" for name in self.inputs]
        return "\n".join([*lines, *self.notes, self.report_uri])


def run(config: Config, context: Context) -> Result:
    """Measure both and write the report. Raises RefusedError for a version with other bytes.

    Raises BadInputError when the lake does not have the features of a version.
    """
    settings, params = context.settings, context.params
    versions = [model_versions.named(settings, name) for name in (config.first, config.second)]
    numbers = [str(version.version) for version in versions]
    artifacts = [model_versions.fetch(settings, int(number)) for number in numbers]
    declaration = artifacts[0].plan.declaration
    partition = training_data.partition_of(settings.lake_uri, config.snapshot, declaration)
    data = training_data.load(settings.lake_uri, partition, params, declaration)
    rows = data.holdout
    answers = [
        OnnxModel(a.model).probabilities(training_data.holdout_vectors(data, a.plan, settings.lake_uri))
        for a in artifacts
    ]
    draws, seed = params.training.bootstrap, params.training.seed
    costs = costs_of(params)
    compared = Compared(rows, answers, costs, resamplings=draws, seed=seed)
    measures = {
        name: {
            "first": list(compared.interval(0, name)), "second": list(compared.interval(1, name)),
            "difference": list(compared.gain(0, 1, name)),
        }
        for name in MEASURES
    }  # fmt: skip
    losses = slice_losses(rows, answers[1], answers[0], costs.capacity, resamplings=draws, seed=seed)
    record: dict[str, Any] = {
        "first": numbers[0], "second": numbers[1], "snapshot": partition.name,
        "holdout": dict(training_data.describe(data))["holdout"], "measures": measures,
        "calibration_error": {
            number: calibration(answer, rows.is_fraud)[0] for number, answer in zip(numbers, answers, strict=True)
        },
        "inputs": _inputs(versions), "notes": tuple(_notes(versions, data, context)),
    }  # fmt: skip
    slices = [{"name": s.name, "frauds": s.frauds, "first": s.opponent, "second": s.candidate, "gain": list(s.loss)}
              for s in losses]  # fmt: skip
    named = {f"version {number}": answer for number, answer in zip(numbers, answers, strict=True)}
    page = _page(
        {**record, "slices": slices},
        plots.of_models(named, rows.amount, rows.is_fraud, costs),
        params.gates.min_slice_frauds,
    )
    folder = f"{settings.reports_uri.rstrip('/')}/compare/{numbers[0]}-{numbers[1]}-{partition.name}"
    reports.write(folder, "compare", page, {**record, "slices": slices})
    context.log.info("versions compared", first=numbers[0], second=numbers[1], rows=len(rows.is_fraud))
    return Result(**record, report_uri=f"{folder}/compare.html")


def _inputs(versions: Sequence[ModelVersion]) -> dict[str, dict[str, str]]:
    found = {}
    for name in INPUTS:
        first, second = (version.tags.get(name, "") for version in versions)
        if first != second:
            found[name] = {"first": first, "second": second}
    return found


def _notes(versions: Sequence[ModelVersion], data: TrainingData, context: Context) -> list[str]:
    """Reasons that make the comparison unfair."""
    notes = []
    immature = data.immature_rows()
    if immature is None or immature:
        notes.append(f"{immature or 'An unknown number of'} holdout rows are younger than the label maturity.")
    notes += [
        f"Version {version.version} was trained on part of this holdout, so its figures are too high."
        for version in versions
        if _trained_until_us(version, context) > data.split.holdout.first_us
    ]
    return notes


def _trained_until_us(version: ModelVersion, context: Context) -> int:
    """End of the days that a version was trained on, us since 1970."""
    training = json.loads(model_versions.artifact(context.settings, version.run_id, "training.json"))
    day = training["parts"]["final"]["end_day"]
    return round(datetime.fromisoformat(f"{day}T00:00:00+00:00").timestamp()) * 1_000_000


def _page(record: Mapping[str, Any], drawn: Sequence[str], min_frauds: int) -> str:
    slices = sorted(record["slices"], key=lambda s: (-s["frauds"], s["name"]))
    return gate_report.template("compare.html.j2").render(
        {**record, "slices": slices, "plots": drawn, "min_frauds": min_frauds}
    )


def _interval(values: Sequence[float]) -> str:
    value, low, high = (figure(number) for number in values)
    return f"{value} ({low} to {high})"
