"""The search of hyper-parameters: our random draws beside Optuna's samplers, as many trials of the same fits.

    .venv/ml/bin/python tests/bench/libraries_search.py FOLDER_WITH_OPTUNA [--seeds 3] [--trials 12]

Level 2 on 4,000 generated rows. For each seed: the best average precision on the validation part of each sampler, and
the average precision of that model on a later part. Also the CPU time in addition to the fits, and whether a second
run finds the same values. Writes build/bench/libraries-search.json.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, Final

import numpy as np

from fraud import declaration_file
from fraud.core.plan import Plan
from fraud.params import Params, Training
from fraud.stats.metrics import Ranked
from fraud.training.ladder import search
from fraud.training.ladder.levels import LEVELS, Inputs, Sample

ROOT: Final = Path(__file__).parents[2]
PLAN: Final = Plan(declaration_file.load(ROOT / "tests/declarations/three.yaml"))
NAMES: Final = PLAN.vector.names
CATEGORY_OFFSET: Final = NAMES.index("category_electronics")
BOOSTING: Final = LEVELS[2]
ROWS: Final = 4_000


def world(seed: int) -> list[Sample]:
    """Training, validation and later rows of one rule with noise; some 5% fraud."""
    rng = np.random.default_rng(seed)
    samples = []
    for _ in range(3):
        vectors = rng.gamma(2, 50, (ROWS, len(NAMES))).astype(np.float32)
        vectors[:, CATEGORY_OFFSET:] = 0
        vectors[np.arange(ROWS), CATEGORY_OFFSET + rng.integers(0, len(NAMES) - CATEGORY_OFFSET, ROWS)] = 1
        logit = vectors[:, 0] * vectors[:, 5] / 8e3 - vectors[:, 6] / 60 + vectors[:, 3] / 120 - 5
        samples.append(Sample(vectors, rng.random(ROWS) < 1 / (1 + np.exp(-logit)), Inputs.of(PLAN.declaration, NAMES)))
    return samples


def precision(fitted: Any, sample: Sample) -> float:  # noqa: ANN401 - a fitted level
    return Ranked(fitted.predict(sample.vectors), sample.is_fraud).average_precision()


def ours(samples: list[Sample], params: Training) -> tuple[float, float, list[Any]]:
    found = list(search.trials(BOOSTING, samples[0], samples[1], params, lambda *_a, **_k: None))
    best = max(found, key=lambda trial: trial.average_precision)
    return best.average_precision, precision(best.fitted, samples[2]), [dict(trial.values) for trial in found]


def optuna_search(name: str, samples: list[Sample], params: Training) -> tuple[float, float, list[Any]]:
    import optuna  # noqa: PLC0415

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    bounds, kept = params.search.boosting, {}

    def objective(trial: Any) -> float:  # noqa: ANN401 - optuna's own
        values = {}
        for key in sorted(bounds) if trial.number else ():
            low, high = bounds[key]
            whole = key in ("max_leaf_nodes", "min_samples_leaf")
            suggest = trial.suggest_int if whole else trial.suggest_float
            values[key] = suggest(key, int(low) if whole else low, int(high) if whole else high, log=high >= 10 * low)
        kept[trial.number] = BOOSTING.fit(samples[0], samples[1], search._with(params, BOOSTING, values), print_nothing)
        return precision(kept[trial.number], samples[1])

    sampler = getattr(optuna.samplers, name)(seed=params.seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(objective, n_trials=params.search.trials + 1)
    return study.best_value, precision(kept[study.best_trial.number], samples[2]), [t.params for t in study.trials]


def print_nothing(*_: object, **__: object) -> None:
    """Progress of a fit."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=12)
    given = parser.parse_args()
    began = time.process_time()
    sys.path.insert(0, given.folder)
    import optuna  # noqa: PLC0415, F401 - its import is part of its cost

    imported = time.process_time() - began
    base = Params.load(ROOT / "params.yaml").training
    contenders = {
        "ours": ours,
        "optuna TPESampler": lambda s, p: optuna_search("TPESampler", s, p),
        "optuna RandomSampler": lambda s, p: optuna_search("RandomSampler", s, p),
    }
    rows: dict[str, list[tuple[float, float, float]]] = {name: [] for name in contenders}
    same = dict.fromkeys(contenders, True)
    for seed in range(given.seeds):
        samples = world(seed)
        limits = base.search.model_copy(update={"trials": given.trials, "patience": given.trials + 1})
        boosting = base.boosting.model_copy(update={"max_iter": 40})
        params = base.model_copy(update={"search": limits, "seed": seed, "boosting": boosting})
        for name, run in contenders.items():
            cpu = time.process_time()
            best, later, values = run(samples, params)
            rows[name].append((best, later, time.process_time() - cpu))
            if seed == 0:
                same[name] = run(samples, params)[2] == values
    result = {}
    for name, found in rows.items():
        best, later, cpu_s = np.array(found).T
        gain = later - np.array(rows["ours"])[:, 1]
        by_seed = np.round(gain, 4).tolist()
        print(f"{name}: later part minus ours {gain.mean():+.4f} {by_seed}, same values again: {same[name]}")
        result[name] = {
            "validation_precision": best.mean(), "later_precision": later.mean(), "cpu_s": cpu_s.mean(),
            "import_cpu_s": 0.0 if name == "ours" else imported,
        }  # fmt: skip
    path = ROOT / "build/bench/libraries-search.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
