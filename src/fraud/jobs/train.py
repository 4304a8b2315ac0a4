"""Train every level of the ladder on a snapshot, register the one that complexity pays for, hold it against the gates.

Equal inputs (data, parameters, code, locks, features) have one fingerprint, and a version that has it is found again
instead of being made. The level is chosen on the validation part; the holdout is for the gates alone.
"""

import json
import time
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from mlflow.entities.model_registry import ModelVersion
from numpy.typing import NDArray
from pydantic import Field
from threadpoolctl import threadpool_limits

from fraud.core.costs import best_threshold
from fraud.core.evaluation import MEASURES, Compared, Rows, climb
from fraud.core.features import definition_hash
from fraud.core.metrics import Ranked
from fraud.engines.arrow_vector import vectors
from fraud.engines.onnx_session import OnnxModel
from fraud.io import lineage, plots, training_data
from fraud.io.lake import Manifest
from fraud.io.training_data import TrainingData
from fraud.io.training_run import TrainingRuns, answering, as_json, write_model_folder
from fraud.jobs import Context, JobConfig, evaluate
from fraud.models import proof
from fraud.models.ladder import LEVELS, Level, Sample
from fraud.params import Params

GOLDEN_ROWS = 32

Result = evaluate.Result
"""`reused`: equal inputs had made this version before."""


class Config(JobConfig):
    """On what."""

    snapshot: str | None = Field(default=None, description="training set; default the one with the latest cut-off")
    force: bool = Field(default=False, description="train even where equal inputs made a version before")


class Trained(NamedTuple):
    """A level, its ONNX bytes and what they answer."""

    level: Level
    model: bytes
    validation: NDArray[np.float32]
    holdout: NDArray[np.float32]
    onnx_difference: float
    facts: dict[str, float]
    run_id: str


def run(config: Config, context: Context) -> Result:
    """Find or make the version, and its verdict. Raises BadInputError for data that cannot be trained on."""
    manifest = training_data.manifest_of(context.settings.lake_uri, config.snapshot)
    made_from = lineage.inputs(manifest, context.params, context.settings.project)
    fingerprint = lineage.fingerprint(made_from)
    with answering(), threadpool_limits(limits=1):
        runs = TrainingRuns(context.settings)
        version = None if config.force else runs.version_made_from(fingerprint)
        if version is not None and (verdict := evaluate.known(version, context, runs)) is not None:
            context.log.info("equal inputs made this version before", version=version.version)
            return verdict
        data = training_data.load(context.settings.lake_uri, manifest, context.params)
        parts = training_data.describe(data)
        if data.split.shrunk:
            context.log.warning("the data is shorter than the split asks for: its parts shrink in proportion", **parts)
        reused = version is not None
        if version is None:
            version = _train(data, manifest, {**made_from, "fingerprint": fingerprint}, context, runs)
        return evaluate.judge(version, data, context, runs).model_copy(update={"reused": reused})


def _train(
    data: TrainingData, manifest: Manifest, made_from: dict[str, str], context: Context, runs: TrainingRuns
) -> ModelVersion:
    for run_id in runs.bury_unfinished(made_from["fingerprint"]):
        context.log.warning("an earlier training of the same inputs was killed", run_id=run_id)
    tags = {**made_from, **lineage.git(context.settings.project), "snapshot": manifest.partition}
    with runs.run(f"ladder on {manifest.partition[:8]}", tags) as run_id:
        runs.record(run_id, params=_flat(context.params))
        runs.record_dataset(
            run_id, manifest, f"{context.settings.lake_uri}/training_sets/snapshot={manifest.partition}"
        )
        ladder = [_fit(level, data, context, runs, run_id, tags) for level in LEVELS]
        training = _compare(ladder, data, context.params)
        for trained, figures in zip(ladder, training["levels"], strict=True):
            runs.record(trained.run_id, metrics=_with_bounds(figures["holdout"]))
        chosen = ladder[training["selected"]]
        context.log.info("level chosen", level=str(chosen.level), steps=training["steps"])
        costs = evaluate.costs_of(context.params)
        gains = costs.gains(data.validation.amount, data.validation.is_fraud)
        threshold = best_threshold(chosen.validation, gains, costs.capacity)
        serving = _serving(chosen, data.holdout, threshold)
        tags |= {
            "model_sha256": sha256(chosen.model).hexdigest(), "serving_sha256": sha256(serving).hexdigest(),
            "threshold": repr(threshold), "level": str(chosen.level), "gates": evaluate.PENDING,
        }  # fmt: skip
        with TemporaryDirectory(prefix="fraud-train-") as name:
            folder = Path(name)
            write_model_folder(folder / "model", chosen.model, serving)
            (folder / "ladder").mkdir()
            for trained in ladder:
                (folder / "ladder" / f"{trained.level}.onnx").write_bytes(trained.model)
            (folder / "training.json").write_text(as_json(training))
            pq.write_table(_reference(data, chosen.model, context.params), folder / "reference.parquet")
            runs.put_folder(run_id, folder)
        runs.record(run_id, metrics=_with_bounds(training["levels"][training["selected"]]["holdout"]), tags=tags)
    return runs.register(run_id, tags)


def _fit(
    level: Level, data: TrainingData, context: Context, runs: TrainingRuns, parent: str, tags: dict[str, str]
) -> Trained:
    with runs.run(str(level), {"level": str(level), "fingerprint": tags["fingerprint"]}, parent) as run_id:
        rows = data.train
        context.log.info("training", level=str(level), rows=len(rows.is_fraud), frauds=int(rows.is_fraud.sum()))
        began = time.monotonic()
        later = Sample(data.validation.vectors, data.validation.is_fraud)
        fitted = level.fit(Sample(rows.vectors, rows.is_fraud), later, context.params.training, context.log.info)
        seconds = time.monotonic() - began
        model_bytes = fitted.to_onnx()
        model = OnnxModel(model_bytes)
        both = np.vstack([data.validation.vectors, data.holdout.vectors])
        difference = proof.onnx_difference(fitted, model, both)
        trained = Trained(
            level, model_bytes, model.probabilities(data.validation.vectors),
            model.probabilities(data.holdout.vectors), difference, fitted.facts(), run_id,
        )  # fmt: skip
        precision = Ranked(trained.validation, data.validation.is_fraud).average_precision()
        context.log.info(
            "trained", level=str(level), seconds=round(seconds, 1), onnx_difference=difference,
            validation_average_precision=round(precision, 4),
        )  # fmt: skip
        found = {"fit_seconds": seconds, "onnx_difference": difference, "model_bytes": len(model_bytes)}
        runs.record(
            run_id, metrics=found | {f"fit_{name}": value for name, value in trained.facts.items()},
            params=level.params(context.params.training).model_dump() | {"seed": context.params.training.seed},
        )  # fmt: skip
        named = {str(level): trained.holdout}
        runs.put_figure(run_id, "precision_recall.png", plots.precision_recall(named, data.holdout.is_fraud))
        runs.put_figure(run_id, "roc.png", plots.roc(named, data.holdout.is_fraud))
        runs.put_figure(run_id, "calibration.png", plots.calibrated(named, data.holdout.is_fraud))
    return trained


def _compare(ladder: list[Trained], data: TrainingData, params: Params) -> dict[str, Any]:
    """training.json: every level's figures on both parts, and the climb. No clock in it."""

    def compared(rows: Rows, answers: list[NDArray[np.float32]]) -> Compared:
        wanted = params.training
        return Compared(rows, answers, evaluate.costs_of(params), resamplings=wanted.bootstrap, seed=wanted.seed)

    on_validation = compared(data.validation, [trained.validation for trained in ladder])
    on_holdout = compared(data.holdout, [trained.holdout for trained in ladder])
    chosen, steps = climb(on_validation, len(ladder), params.training.margin)
    return {
        "snapshot": data.manifest.partition,
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
                "validation": {m: list(on_validation.interval(i, m)) for m in MEASURES},
                "holdout": {m: list(on_holdout.interval(i, m)) for m in MEASURES},
            }
            for i, trained in enumerate(ladder)
        ],
    }


def _serving(chosen: Trained, rows: Rows, threshold: float) -> bytes:
    """serving.json. The golden rows are spread evenly over the holdout's probabilities, the surest frauds included."""
    order = np.argsort(chosen.holdout, kind="stable")
    golden = rows.vectors[order[np.linspace(0, len(order) - 1, min(GOLDEN_ROWS, len(order))).astype(np.int64)]]
    facts = {
        "model_sha256": sha256(chosen.model).hexdigest(),
        "model_bytes": len(chosen.model),
        "feature_hash": definition_hash(),
        "threshold": threshold,
        "level": str(chosen.level),
        "golden": {
            "vectors": golden.astype(np.float64).tolist(),
            "probabilities": OnnxModel(chosen.model).probabilities(golden).astype(np.float64).tolist(),
        },
    }
    return json.dumps(facts, sort_keys=True).encode()


def _reference(data: TrainingData, model: bytes, params: Params) -> pa.Table:
    """An even choice of the training part's rows with all columns, and what the model says about them."""
    rows = data.table[data.rows_of(data.split.train)]
    chosen = np.linspace(0, rows.num_rows - 1, min(params.drift.reference_rows, rows.num_rows)).astype(np.int64)
    reference = rows.take(chosen).combine_chunks()
    return reference.append_column("fraud_probability", pa.array(OnnxModel(model).probabilities(vectors(reference))))


def _with_bounds(figures: dict[str, list[float]]) -> dict[str, float]:
    """Figures and their intervals as metrics."""
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
