"""Quality of the ladder on rolling windows, compared with plain scikit-learn models on the same split and inputs.

For each window the ladder is trained as `fraud train` does: fitted on the training part, selected on the validation
part, fitted again on all rows before the gap. The plain models (a random forest with leaves of at least 5 rows, and
default gradient boosting) are fitted on the same rows as that second fit. All are compared on the
holdout, with 95% intervals: paired percentile bootstrap over users.

    .venv/ml/bin/python tests/bench/quality.py --lake file:///path/to/lake --declaration feature_repo/features.yaml \
        --against tests/declarations/three.yaml --windows 4

`--lake` contains a training set of each declaration (`fraud training-set`). Instead of a lake, `--world terminals` or
`--world simulator` makes one in a temporary folder (tests/bench/worlds.py). With `--against`, the selected level of the
other declaration is compared on the same holdouts as well. Prints a table and writes build/bench/quality.json.

    .venv/ml/bin/python tests/bench/quality.py --world terminals --users 2500 --seed 1 --key quality_terminals
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import worlds
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from threadpoolctl import threadpool_limits

from fraud import declaration_file
from fraud.core.declaration import Declaration
from fraud.params import Params
from fraud.stats.comparison import Compared, select_level
from fraud.stats.costs import costs_of
from fraud.training import training_data
from fraud.training.ladder.levels import LEVELS, Inputs, Sample
from fraud.training.training_data import TrainingData

ROOT = Path(__file__).resolve().parents[2]
Floats = NDArray[np.float64]
PLAIN: dict[str, Callable[[int], RandomForestClassifier | HistGradientBoostingClassifier]] = {
    "plain forest": lambda seed: RandomForestClassifier(100, min_samples_leaf=5, random_state=seed, n_jobs=2),
    "plain boosting": lambda seed: HistGradientBoostingClassifier(random_state=seed),
}


class Ladder(NamedTuple):
    """The levels of one window: holdout probabilities by name, and the selected name."""

    holdout: dict[str, Floats]
    selected: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--lake", help="URI of a lake with training sets")
    source.add_argument("--world", choices=list(worlds.DAYS), help="make this world instead")
    parser.add_argument("--users", type=int, default=2_500, help="of the world")
    parser.add_argument("--seed", type=int, default=1, help="of the world")
    parser.add_argument("--declaration", type=Path, default=ROOT / "feature_repo/features.yaml")
    parser.add_argument("--against", type=Path, help="another declaration with a training set in the lake")
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--step-days", type=int, help="days between the holdouts; default their length")
    parser.add_argument("--levels", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--plain", nargs="*", default=list(PLAIN), choices=list(PLAIN), help="plain models to compare")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--params", type=Path, default=ROOT / "params.yaml")
    parser.add_argument("--key", default="quality", help="name of the file in build/bench")
    arguments = parser.parse_args()
    params = Params.load(arguments.params)
    declared = declaration_file.load(arguments.declaration)
    other = declaration_file.load(arguments.against) if arguments.against else None
    if arguments.world:
        paths = [path for path in (arguments.declaration, arguments.against) if path]
        home = Path(tempfile.mkdtemp(prefix="fraud-bench-"))
        arguments.lake = worlds.build(arguments.world, home, arguments.users, arguments.seed, paths)
    contenders = {}
    for first in _holdouts(arguments.lake, declared, params, arguments.windows, arguments.step_days):
        of_window = params.model_copy(update={"split": params.split.model_copy(update={"holdout_from": first.date()})})
        contenders[str(first.date())] = window(arguments, of_window, declared, other)
    names = list(next(iter(contenders.values()))["models"])
    ratios = {}
    for name in names:
        gains = [found["gains"][name]["average_precision"] for found in contenders.values() if name in found["gains"]]
        if gains:
            ratios[f"windows_not_behind_{name.replace(' ', '_')}"] = sum(gain[2] >= 0 for gain in gains) / len(gains)
            ratios[f"mean_gain_over_{name.replace(' ', '_')}"] = float(np.mean([gain[0] for gain in gains]))
    target = ROOT / f"build/bench/{arguments.key}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    machine = platform.processor() or platform.machine()
    target.write_text(json.dumps({"machine": machine, "contenders": contenders, "ratios": ratios}, indent=1))
    print(json.dumps(ratios, indent=1))


def _holdouts(lake: str, declared: Declaration, params: Params, windows: int, step: int | None) -> list[datetime]:
    """First days of the holdouts, the earliest first; the last one ends with the data."""
    data = training_data.load(lake, training_data.partition_of(lake, None, declared), params, declared)
    last = datetime.fromtimestamp(data.split.holdout.first_us / 1e6, UTC)
    days = timedelta(days=step or params.split.holdout_days)
    return [last - days * back for back in reversed(range(windows))]


def window(
    arguments: argparse.Namespace, params: Params, declared: Declaration, other: Declaration | None
) -> dict[str, object]:
    """Train and compare on one holdout; prints its rows of the table."""
    data = loaded(arguments.lake, params, declared)
    ladder = trained(data, params, arguments.levels)
    answers = {f"selected: {ladder.selected}": ladder.holdout[ladder.selected], **ladder.holdout}
    for name in arguments.plain:
        began = time.perf_counter()
        model = PLAIN[name](params.training.seed).fit(data.final.vectors, data.final.is_fraud)
        answers[name] = model.predict_proba(data.holdout.vectors)[:, 1]
        print(f"  {name}: {time.perf_counter() - began:.0f} s", flush=True)
    if other is not None:
        theirs = loaded(arguments.lake, params, other)
        if theirs.table["transaction_id"].equals(data.table["transaction_id"]) is False:
            raise SystemExit("the training sets of both declarations have other rows")
        of_other = trained(theirs, params, arguments.levels)
        answers["other declaration"] = of_other.holdout[of_other.selected]
    compared = Compared(
        data.holdout, list(answers.values()), costs_of(params), resamplings=arguments.resamples,
        seed=params.training.seed,
    )  # fmt: skip
    split = data.split.holdout
    first, end = (datetime.fromtimestamp(at / 1e6, UTC).date() for at in split)
    print(f"holdout {first} to {end}: {len(data.holdout.is_fraud):,} rows, {int(data.holdout.is_fraud.sum())} frauds")
    print(f"{'model':<24}{'AUC':>7}{'AP':>7}{'95%':>16}{'selected minus it, AP':>28}{'USD per 1,000':>26}")
    gains = {}
    for number, name in enumerate(answers):
        auc, precision = compared.interval(number, "auc"), compared.interval(number, "average_precision")
        gain, money = (compared.gain(0, number, m) for m in ("average_precision", "saved_per_1000"))
        if number:
            gains[name] = {"average_precision": list(gain), "saved_per_1000": list(money)}
        print(
            f"{name:<24}{auc.value:>7.3f}{precision.value:>7.3f}  [{precision.low:.3f}, {precision.high:.3f}]"
            f"   {gain.value:>+7.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
            f"  {money.value:>+6.0f} [{money.low:+.0f}, {money.high:+.0f}]",
            flush=True,
        )
    return {
        "rows": len(data.holdout.is_fraud), "frauds": int(data.holdout.is_fraud.sum()), "selected": ladder.selected,
        "models": {
            name: {m: list(compared.interval(i, m)) for m in ("auc", "average_precision", "saved_per_1000")}
            for i, name in enumerate(answers)
        },
        "gains": gains,
    }  # fmt: skip


def loaded(lake: str, params: Params, declared: Declaration) -> TrainingData:
    return training_data.load(lake, training_data.partition_of(lake, None, declared), params, declared)


def trained(data: TrainingData, params: Params, numbers: list[int]) -> Ladder:
    """The levels as `fraud train` fits, selects and fits them again."""
    settings = params.training
    inputs = Inputs.of(data.plan.declaration, data.plan.vector.names)
    rows, later, both = (Sample(p.vectors, p.is_fraud, inputs) for p in (data.train, data.validation, data.final))
    levels, validation, holdout = [level for level in LEVELS if level.number in numbers], [], {}
    with threadpool_limits(limits=1):
        for level in levels:
            began = time.perf_counter()
            first = level.fit(rows, later, settings, lambda *_args, **_facts: None)
            validation.append(first.predict(later.vectors))
            final = level.refit(both, first, settings, lambda *_args, **_facts: None) if settings.refit else first
            holdout[str(level)] = final.predict(data.holdout.vectors)
            facts = {name: round(value, 4) for name, value in final.facts().items() if not name.startswith("log_")}
            print(f"  {level}: {time.perf_counter() - began:.0f} s {facts}", flush=True)
        compared = Compared(
            data.validation, validation, costs_of(params), resamplings=settings.bootstrap, seed=settings.seed
        )
    chosen, _ = select_level(compared, len(levels), settings.margin)
    return Ladder(holdout, str(levels[chosen]))


if __name__ == "__main__":
    main()
