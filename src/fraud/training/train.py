"""Train every level of the ladder on a snapshot, register the selected one, evaluate it against the gates.

Equal inputs (data, parameters, code, lock files, features) have one fingerprint. If a version with this fingerprint
exists, it is returned and nothing is trained. The level is selected on the validation part. Then every level is fitted
again on all rows before the holdout's gap. Only the gates use the holdout.
"""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field
from threadpoolctl import threadpool_limits

from fraud.core.vector import Input
from fraud.features.engines.arrow_vector import base_values, vectors
from fraud.job import Context, JobConfig
from fraud.lake import catalog, git, reports
from fraud.lake.records import Partition
from fraud.params import Params
from fraud.registry.mlflow_client import ModelVersion, registry_errors
from fraud.registry.model_folder import write_model_folder
from fraud.registry.training_runs import TrainingRuns, as_json
from fraud.scoring.onnx_session import OnnxModel
from fraud.settings import Settings
from fraud.stats.comparison import MEASURES, Compared, Rows, select_level
from fraud.stats.costs import best_threshold, costs_of
from fraud.training import evaluate, model_inputs, plots, training_data
from fraud.training.dvc import data_versions, outputs
from fraud.training.ladder import onnx_checks, search
from fraud.training.ladder.levels import LEVELS, Inputs, Level, Sample
from fraud.training.training_data import TrainingData
from fraud.training.wandb_mirror import Mirror, mirrored

GOLDEN_ROWS = 32

Result = evaluate.Result
"""`reused`: the version was found by its fingerprint."""


class Config(JobConfig):
    """Snapshot and options of a training."""

    snapshot: str | None = Field(default=None, description="training set; default the one with the latest cut-off")
    force: bool = Field(default=False, description="train even if a version with the same inputs exists")
    cause: str = Field(
        default="", max_length=200, description="reason for the training, stored as the run's tag `cause`"
    )
    out: Path | None = Field(default=None, description="folder for the version's files that dvc.yaml tracks")


class Trained(NamedTuple):
    """A level, its ONNX bytes and their probabilities."""

    level: Level
    model: bytes
    validation: NDArray[np.float32]
    """Probabilities of the first fit, which was not trained on the validation part: float32[n]."""
    holdout: NDArray[np.float32]
    onnx_difference: float
    facts: dict[str, float]
    found: dict[str, float]
    """Parameters that the search replaced; empty without one."""
    run_id: str


def run(config: Config, context: Context) -> Result:
    """Find or train the version and evaluate it. Raises BadInputError for data that cannot be trained on."""
    declaration = context.declaration
    partition = training_data.partition_of(context.settings.lake_uri, config.snapshot, declaration)
    made_from = model_inputs.inputs(partition, context.params, context.settings.project, declaration)
    fingerprint = model_inputs.fingerprint(made_from)
    with registry_errors(), threadpool_limits(limits=1):
        runs = TrainingRuns(context.settings)
        version = None if config.force else runs.version_made_from(fingerprint)
        verdict = None if version is None else evaluate.current_verdict(version, context, runs)
        if verdict is not None:
            context.log.info("version found by its fingerprint", version=verdict.version)
        else:
            data = training_data.load(context.settings.lake_uri, partition, context.params, declaration)
            if data.split.shrunk:
                context.log.warning(
                    "data shorter than the configured split, parts shortened in proportion",
                    **training_data.describe(data),
                )
            reused, staged = version is not None, runs.staged()
            with ExitStack() as failed:
                if version is None:
                    made_from = {**made_from, "fingerprint": fingerprint}
                    version = _train(data, partition, made_from, context, runs, config.cause)
                    failed.callback(_withdraw, version, staged, runs, context)
                verdict = evaluate.judge(version, data, context, runs).model_copy(update={"reused": reused})
                _write_out(config, verdict, runs)
                failed.pop_all()
            return verdict
        _write_out(config, verdict, runs)
        return verdict


def _withdraw(version: ModelVersion, staged_before: str | None, runs: TrainingRuns, context: Context) -> None:
    """Remove a version whose evaluation failed. If the registry does not answer, the next run continues with it."""
    context.log.warning("evaluation failed, version withdrawn", version=str(version.version))
    runs.withdraw(version, staged_before)
    reports.remove(evaluate.report_folder(context, version.run_id))


def _write_out(config: Config, verdict: Result, runs: TrainingRuns) -> None:
    if config.out is not None:
        outputs.write_model(config.out, verdict.version, verdict.run_id, runs)


def _train(
    data: TrainingData,
    partition: Partition,
    made_from: dict[str, str],
    context: Context,
    runs: TrainingRuns,
    cause: str,
) -> ModelVersion:
    settings, params = context.settings, context.params
    for run_id in runs.mark_killed(made_from["fingerprint"]):
        context.log.warning("killed training of the same inputs marked", run_id=run_id)
    snapshots = catalog.TRAINING_SETS.at(settings.lake_uri)
    stored = data_versions.push_partition(settings.dvc_remote, snapshots, partition)
    tags = {
        **made_from, **git.commit_of(settings.project), "stored_hash": data.plan.stored_hash,
        "snapshot": partition.name, "dvc_data_md5": stored.md5,
    }  # fmt: skip
    name = f"ladder on {partition.name[:8]}"
    cause_tag = {"cause": cause} if cause else {}
    with (
        runs.run(name, tags | cause_tag) as run_id,
        mirrored(settings, name, _flat(params) | tags, context.log) as mirror,
    ):
        runs.record(run_id, params=_flat(params))
        runs.record_snapshot(run_id, snapshots.name, partition, f"{snapshots.uri}/snapshot={partition.name}")

        def fitted(level: Level) -> Trained:
            return _fit(level, data, context, runs, mirror, run_id, tags["fingerprint"])

        # Each level runs on one thread, so its bytes do not depend on `threads`.
        with ThreadPoolExecutor(params.training.threads) as pool:
            ladder = list(pool.map(fitted, reversed(LEVELS)))[::-1]  # the longest first
        for trained in ladder:
            _draw(trained, data.holdout, runs)
        training = _compare(ladder, data, params)
        for trained, figures in zip(ladder, training["levels"], strict=True):
            runs.record(trained.run_id, metrics=_with_bounds(figures["holdout"]))
        chosen = ladder[training["selected"]]
        context.log.info("level selected", level=str(chosen.level), steps=training["steps"])
        costs = costs_of(params)
        gains = costs.gains(data.validation.amount, data.validation.is_fraud)
        threshold = best_threshold(chosen.validation, gains, costs.capacity)
        serving = serving_facts(chosen.model, str(chosen.level), chosen.holdout, data, threshold)
        tags |= {
            "model_sha256": sha256(chosen.model).hexdigest(), "serving_sha256": sha256(serving).hexdigest(),
            "threshold": repr(threshold), "level": str(chosen.level), "gates": evaluate.PENDING,
        }  # fmt: skip
        with TemporaryDirectory(prefix="fraud-train-") as made:
            folder = Path(made)
            write_model_folder(folder / "model", chosen.model, serving, data.plan)
            tags["dvc_model_md5"] = _push_model(settings, chosen.model, serving)
            (folder / "ladder").mkdir()
            for trained in ladder:
                (folder / "ladder" / f"{trained.level}.onnx").write_bytes(trained.model)
            (folder / "training.json").write_text(as_json(training))
            pq.write_table(_reference(data, chosen.model, params), folder / "reference.parquet")
            runs.put_folder(run_id, folder)
        figures = _with_bounds(training["levels"][training["selected"]]["holdout"])
        runs.record(run_id, metrics=figures, tags=tags)
        mirror.final({**figures, **tags, "mlflow_run": run_id})
    return runs.register(run_id, tags)


def _fit(
    level: Level, data: TrainingData, context: Context, runs: TrainingRuns, mirror: Mirror, parent: str, mark: str
) -> Trained:
    """Fit on the training part, with early stopping on the validation part; then fit again on both and their gap.

    The first fit's probabilities on the validation part decide the level and the threshold. The second is deployed.
    """
    settings = context.params.training
    searching = settings.search.trials > 0
    with runs.run(str(level), {"level": str(level), "fingerprint": mark}, parent) as run_id:

        def progress(event: str, **facts: float) -> None:
            context.log.info(event, level_of_ladder=str(level), **facts)
            if "step" in facts and not searching:
                step = int(facts["step"])
                runs.record(run_id, metrics={n: v for n, v in facts.items() if n != "step"}, step=step)
                mirror.progress(str(level), facts)

        inputs = Inputs.of(data.plan.declaration, data.plan.vector.names)
        rows, later, both = (
            Sample(p.vectors, p.is_fraud, inputs) for p in (data.train, data.validation, data.final)
        )  # fmt: skip
        progress("training started", rows=len(rows.is_fraud), frauds=int(rows.is_fraud.sum()))
        began = time.monotonic()
        best: search.Trial | None = None
        for trial in search.trials(level, rows, later, settings, progress):
            if searching:
                _record_trial(level, trial, runs, run_id, mark)
            if best is None or trial.average_precision > best.average_precision:
                best = trial
        if best is None:
            raise ValueError("a search without a trial")
        first = OnnxModel(best.fitted.to_onnx())
        final = level.refit(both, best.fitted, best.training, progress) if settings.refit else best.fitted
        seconds = time.monotonic() - began
        model_bytes = final.to_onnx()
        model = OnnxModel(model_bytes)
        difference = onnx_checks.onnx_difference(
            final, model, np.vstack([data.validation.vectors, data.holdout.vectors])
        )
        trained = Trained(
            level, model_bytes, first.probabilities(data.validation.vectors), model.probabilities(data.holdout.vectors),
            difference, final.facts(), dict(best.values), run_id,
        )  # fmt: skip
        context.log.info(
            "level trained", level_of_ladder=str(level), seconds=round(seconds, 1), onnx_difference=difference,
            validation_average_precision=round(best.average_precision, 4),
        )  # fmt: skip
        found = {"fit_seconds": seconds, "onnx_difference": difference, "model_bytes": len(model_bytes)}
        runs.record(
            run_id, metrics=found | {f"fit_{name}": value for name, value in trained.facts.items()},
            params=level.params(best.training).model_dump() | {"seed": settings.seed},
        )  # fmt: skip
    return trained


def _record_trial(level: Level, trial: search.Trial, runs: TrainingRuns, parent: str, mark: str) -> None:
    with runs.run(f"{level} trial {trial.number}", {"level": str(level), "fingerprint": mark}, parent) as run_id:
        facts = {f"fit_{name}": value for name, value in trial.fitted.facts().items()}
        runs.record(
            run_id, metrics=facts | {"validation_average_precision": trial.average_precision},
            params=level.params(trial.training).model_dump() | {"trial": trial.number},
        )  # fmt: skip


def _draw(trained: Trained, rows: Rows, runs: TrainingRuns) -> None:
    named = {str(trained.level): trained.holdout}
    runs.put_figure(trained.run_id, "precision_recall.png", plots.precision_recall(named, rows.is_fraud))
    runs.put_figure(trained.run_id, "roc.png", plots.roc(named, rows.is_fraud))
    runs.put_figure(trained.run_id, "calibration.png", plots.calibrated(named, rows.is_fraud))


def _push_model(settings: Settings, model: bytes, serving: bytes) -> str:
    """Store the folder that serving loads in the DVC remote; its md5."""
    with TemporaryDirectory(prefix="fraud-model-") as name:
        (Path(name) / "model.onnx").write_bytes(model)
        (Path(name) / "serving.json").write_bytes(serving)
        return data_versions.push(settings.dvc_remote, Path(name)).md5


def _compare(ladder: list[Trained], data: TrainingData, params: Params) -> dict[str, Any]:
    """training.json: the figures of every level on both parts, and the selection. It contains no time."""

    def compared(rows: Rows, answers: list[NDArray[np.float32]]) -> Compared:
        settings = params.training
        return Compared(rows, answers, costs_of(params), resamplings=settings.bootstrap, seed=settings.seed)

    on_validation = compared(data.validation, [trained.validation for trained in ladder])
    on_holdout = compared(data.holdout, [trained.holdout for trained in ladder])
    chosen, steps = select_level(on_validation, len(ladder), params.training.margin)
    return {
        "snapshot": data.snapshot.name,
        "parts": training_data.describe(data),
        "selected": chosen,
        "steps": [{**step._asdict(), "gain": list(step.gain)} for step in steps],
        "levels": [
            {
                "level": trained.level.number,
                "name": trained.level.name,
                "onnx_difference": trained.onnx_difference,
                "model_sha256": sha256(trained.model).hexdigest(),
                "facts": trained.facts,
                "found_by_search": trained.found,
                "validation": {m: list(on_validation.interval(i, m)) for m in MEASURES},
                "holdout": {m: list(on_holdout.interval(i, m)) for m in MEASURES},
            }
            for i, trained in enumerate(ladder)
        ],
    }


def serving_facts(
    model: bytes, level: str, probability: NDArray[np.float32], data: TrainingData, threshold: float
) -> bytes:
    """serving.json. Golden rows are evenly spaced in the order of the holdout's probabilities, the highest included.

    `reference`: one base value per input of the plan, with which the reasons of a decision are compared: over the
    golden rows the lower median of a number and the most frequent category or flag; null where most are missing.
    """
    order = np.argsort(probability, kind="stable")
    golden = order[np.linspace(0, len(order) - 1, min(GOLDEN_ROWS, len(order))).astype(np.int64)]
    vectors = data.holdout.vectors[golden]
    base = base_values(data.table[data.rows_of(data.split.holdout)].take(golden), data.plan)
    facts = {
        "model_sha256": sha256(model).hexdigest(),
        "model_bytes": len(model),
        "feature_hash": data.plan.hash,
        "declaration": json.loads(data.plan.declaration.canonical()),
        "reference": [_typical(given, values) for given, values in zip(data.plan.vector.inputs, base, strict=True)],
        "threshold": threshold,
        "level": level,
        "golden": {
            "vectors": vectors.astype(np.float64).tolist(),
            "probabilities": OnnxModel(model).probabilities(vectors).astype(np.float64).tolist(),
        },
    }
    return json.dumps(facts, sort_keys=True).encode()


def _typical(given: Input, values: NDArray[np.float64]) -> float | int | None:
    """The base value of one input that stands for the rows; None if most are missing."""
    present = np.sort(values[~np.isnan(values)])
    if 2 * len(present) < len(values) or not len(present):
        return None
    if given.categories or set(present.tolist()) <= {0.0, 1.0}:
        found, times = np.unique(present, return_counts=True)
        most = float(found[np.argmax(times)])
        return int(most) if given.categories else most
    return float(present[(len(present) - 1) // 2])


def _reference(data: TrainingData, model: bytes, params: Params) -> pa.Table:
    """Evenly spaced rows of the final part, with all columns and the model's probability."""
    rows = data.table[data.rows_of(data.final_part)]
    chosen = np.linspace(0, rows.num_rows - 1, min(params.drift.reference_rows, rows.num_rows)).astype(np.int64)
    reference = rows.take(chosen).combine_chunks()
    return reference.append_column(
        "fraud_probability", pa.array(OnnxModel(model).probabilities(vectors(reference, data.plan)))
    )


def _with_bounds(figures: dict[str, list[float]]) -> dict[str, float]:
    """Figures and their intervals as metrics: `name`, `name_low`, `name_high`."""
    return {
        f"{name}{ending}": value
        for name, interval in figures.items()
        for ending, value in zip(("", "_low", "_high"), interval, strict=True)
    }


def _flat(params: Params) -> dict[str, object]:
    """params.yaml as MLflow parameters: `training.boosting.max_iter`."""

    def walk(value: object, name: str) -> dict[str, object]:
        if not isinstance(value, dict):
            return {name: value}
        return {k: v for key, inner in value.items() for k, v in walk(inner, f"{name}.{key}" if name else key).items()}

    return walk(params.model_dump(mode="json"), "")
