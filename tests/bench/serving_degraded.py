"""Frauds detected in each degraded mode of serving: with history, without it, and by the rule alone.

    .venv/ml/bin/python tests/bench/serving_degraded.py --home build/fairness [--seed 1] [--users 1500]

The simulation is that of simulator_fairness.py. Boosted trees of the size that training registers are fitted on its
first 90 days. Their threshold is the score that 5 in 1,000 transactions of the next days exceed. The last days are
then decided as in serving: with stored history, without the store (no window feature, same threshold), without a
model (the rule).
"""

import argparse
import json
from pathlib import Path

import numpy as np
from simulator_fairness import TEST_START, TRAIN_END, WARM_UP, vectors, world
from sklearn.ensemble import HistGradientBoostingClassifier

from fraud.core.features import VECTOR_NAMES
from fraud.core.rule import DEFAULT

ALERTS_PER_1000 = 5


def without_history(x: np.ndarray) -> np.ndarray:
    """The vectors of serving when the store does not answer: the imputation of `fraud.core.vector`."""
    blank = x.copy()
    of = VECTOR_NAMES.index
    blank[:, [of("transaction_velocity_1h"), of("unique_merchants_30d")]] = 0
    blank[:, of("avg_amount_7d")] = blank[:, of("amount")]
    blank[:, [of("amount_to_avg_7d"), of("no_history_7d")]] = 1
    return blank


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--users", type=int, default=1_500)
    given = parser.parse_args()
    x, truth, day = vectors(world(given.home, given.seed, given.users, []))
    train, test = (day >= WARM_UP) & (day < TRAIN_END), day >= TEST_START
    between = (day >= TRAIN_END) & (day < TEST_START)
    model = HistGradientBoostingClassifier(
        max_iter=300, max_leaf_nodes=15, min_samples_leaf=40, l2_regularization=1.0, learning_rate=0.05,
        random_state=0,
    ).fit(x[train], truth[train])  # fmt: skip
    threshold = np.quantile(model.predict_proba(x[between])[:, 1], 1 - ALERTS_PER_1000 / 1_000)
    rows, fraud = x[test], truth[test]
    hour = rows[:, VECTOR_NAMES.index("hour_of_day")]
    seen = {"stored history": rows, "store away": without_history(rows)}
    scores = {name: model.predict_proba(x)[:, 1] for name, x in seen.items()}
    verdicts = {name: score >= threshold for name, score in scores.items()}
    verdicts["no model: rule"] = DEFAULT.holds_for(rows[:, VECTOR_NAMES.index("amount")], hour)
    found = {
        name: {
            "recall": float(flagged[fraud].mean()), "precision": float(fraud[flagged].mean()) if flagged.any() else 0.0,
            "alerts_per_1000": float(flagged.mean() * 1_000),
        }
        for name, flagged in verdicts.items()
    }  # fmt: skip
    for name, score in scores.items():  # with missing inputs, another number exceeds the threshold
        found[name]["recall_in_the_same_alerts"] = float(
            fraud[np.argsort(-score, kind="stable")[: len(rows) * ALERTS_PER_1000 // 1_000]].sum() / fraud.sum()
        )
    print(f"{len(rows):,} payments, {int(fraud.sum())} frauds, seed {given.seed}")
    for name, of in found.items():
        print(f"{name:<16}" + "  ".join(f"{what} {value:.3f}" for what, value in of.items()))
    path = Path("build/bench/serving_degraded.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
