"""Outputs that `dvc.yaml` tracks: a version's files, and its figures and curves for `dvc metrics` and `dvc plots`."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fraud.registry.training_runs import TrainingRuns, as_json
from fraud.stats.metrics import Ranked

_POINTS: Final = 200
"""Points per curve."""
_CLOCKED: Final = frozenset({"latency"})
"""Gates with a measured time, which differs between runs."""


def write_model(folder: Path, version: str, run_id: str, runs: TrainingRuns) -> None:
    """Write `model.onnx`, `serving.json`, `training.json` and `version` of a registered version."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in runs.artifacts(run_id, "model").items():
        if name in ("model.onnx", "serving.json"):
            (folder / name).write_bytes(data)
    (folder / "training.json").write_bytes(runs.artifacts(run_id, "training.json")["training.json"])
    (folder / "version").write_text(version + "\n")


def write_evaluation(
    folder: Path, verdict: Mapping[str, Any], probability: NDArray[np.floating], is_fraud: NDArray[np.bool_]
) -> None:
    """Write `metrics.json`, and the curves on the holdout as `precision_recall.csv` and `roc.csv`.

    `verdict` is the result of `fraud evaluate`, `probability` float[n] the version's probabilities.
    """
    folder.mkdir(parents=True, exist_ok=True)
    gates = [gate for gate in verdict["gates"] if gate["name"] not in _CLOCKED]
    metrics = {
        "selected": verdict["selected"],
        "gates_passed": verdict["gates_passed"],
        "failed_gates": ", ".join(verdict["failed_gates"]),
        "levels": {
            f"{level['level']}-{level['name']}": {
                name: level[name] for name in ("average_precision", "auc", "recall_at_capacity", "saved_per_1000")
            }
            for level in verdict["levels"]
        },
        "gates": {gate["name"]: gate["value"] for gate in gates},
    }
    (folder / "metrics.json").write_text(as_json(metrics))
    recall, precision, false = Ranked(probability, is_fraud).tally().curve()
    chosen = np.unique(np.linspace(0, len(recall) - 1, _POINTS).astype(np.int64))
    _write_csv(
        folder / "precision_recall.csv", ("recall", "precision"), zip(recall[chosen], precision[chosen], strict=True)
    )
    _write_csv(folder / "roc.csv", ("false_positive_rate", "recall"), zip(false[chosen], recall[chosen], strict=True))


def _write_csv(path: Path, names: tuple[str, ...], rows: Iterable[tuple[float, ...]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([float(value) for value in row] for row in rows)
