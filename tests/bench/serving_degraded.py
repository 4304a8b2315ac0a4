"""Frauds detected in each degraded mode of serving: with history, without it, and by the rule alone.

    .venv/ml/bin/python tests/bench/serving_degraded.py [--seed 1] [--users 1500]

The simulation and its features are those of simulator_fairness.py. Boosted trees of the size that training registers
are fitted on its first 90 days. Their threshold is the score that 5 in 1,000 transactions of the next days exceed. The
last days are then decided as in serving: with stored histories and daily tables, without the store (no window or daily
feature, same threshold), without a model (the rule).
"""

import argparse
import json
from pathlib import Path

import numpy as np
from simulator_fairness import ADDED, BASE, TEST_START, TRAIN_END, WARM_UP, features, simulate
from sklearn.ensemble import HistGradientBoostingClassifier

from fraud.core.contract import US_PER_DAY
from fraud.core.rule import DEFAULT

ALERTS_PER_1000 = 5
EMPTY = (
    "velocity_1h", "merchants_30d", "device_users_7d", "device_payments_30d", "country_payments_30d",
    "merchant_rate_7d", "merchant_rate_30d",
)  # fmt: skip
"""Features from the store that are 0 when it does not answer."""


def without_history(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The features when the store does not answer: each has its declared default."""
    amount = values["amount"]
    return values | {name: np.zeros(len(amount)) for name in EMPTY} | {
        "average_7d": amount, "amount_to_average_7d": np.ones(len(amount)), "no_history_7d": np.ones(len(amount)),
        "device_first_30d": ~values["device_missing"], "country_first_30d": np.ones(len(amount)),
    }  # fmt: skip


def matrix(values: dict[str, np.ndarray]) -> np.ndarray:
    """float32[rows, inputs]."""
    return np.column_stack([values[name] for names in (BASE | ADDED).values() for name in names]).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--users", type=int, default=1_500)
    given = parser.parse_args()
    data = simulate(given.seed, given.users)
    values, truth, day = features(data), data.fraud, data.us // US_PER_DAY
    x = matrix(values)
    train, test = (day >= WARM_UP) & (day < TRAIN_END), day >= TEST_START
    between = (day >= TRAIN_END) & (day < TEST_START)
    model = HistGradientBoostingClassifier(
        max_iter=300, max_leaf_nodes=15, min_samples_leaf=40, l2_regularization=1.0, learning_rate=0.05,
        random_state=0,
    ).fit(x[train], truth[train])  # fmt: skip
    threshold = np.quantile(model.predict_proba(x[between])[:, 1], 1 - ALERTS_PER_1000 / 1_000)
    rows, fraud = x[test], truth[test]
    seen = {"stored history": rows, "store away": matrix(without_history(values))[test]}
    scores = {name: model.predict_proba(x)[:, 1] for name, x in seen.items()}
    verdicts = {name: score >= threshold for name, score in scores.items()}
    verdicts["no model: rule"] = DEFAULT.holds_for(values["amount"][test], values["hour"][test])
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
