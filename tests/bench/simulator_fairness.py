"""Difficulty of the simulated transactions, and the contribution of each kind of feature.

Simulates, ingests and builds features below --home, trains a random forest on the vectors of the platform, and
leaves out each group of features in turn. Run it in the ML environment:

    .venv/ml/bin/python tests/bench/simulator_fairness.py --home build/fairness --seeds 1 2 3

The simulation is 40 days longer than the measured period, so that nearly every label has arrived. Prints a table per
seed and writes build/bench/simulator_fairness.json.
"""

import argparse
import datetime as dt
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import average_precision_score, roc_auc_score

from fraud.core.contract import CATEGORY_INDEX, US_PER_DAY, US_PER_HOUR
from fraud.core.features import CATEGORY_OFFSET, VECTOR_NAMES
from fraud.core.vector import fill_table
from fraud.lake import catalog
from fraud.lake.labels import labels_as_of

START = dt.date(2025, 1, 1)
WARM_UP, TRAIN_END, TEST_START, TEST_END, LABELS_END = 30, 90, 97, 121, 161
GROUPS = {
    "distance": ["distance_from_home", "distance_missing"],
    "velocity": ["transaction_velocity_1h"],
    "amount": ["amount", "avg_amount_7d", "amount_to_avg_7d", "no_history_7d"],
    "time": ["hour_of_day", "day_of_week"],
    "category": list(VECTOR_NAMES[CATEGORY_OFFSET:]),
    "merchants": ["unique_merchants_30d"],
}


def world(home: Path, seed: int, users: int, extra: list[str]) -> str:
    """Simulate, ingest and build features, unless the home has them. Returns the URI of its lake."""
    home = home / f"seed-{seed}"
    lake = f"file://{home.resolve()}/lake"
    if not catalog.FEATURES.at(lake).partitions():
        for job in (
            ["simulate", f"--days={LABELS_END}", f"--users={users}", f"--seed={seed}", f"--start={START}", *extra],
            ["ingest"], ["ingest-labels"], ["build-features"],
        ):  # fmt: skip
            command = [str(Path(".venv/ml/bin/fraud").resolve()), *job]
            subprocess.run(command, env=os.environ | {"FRAUD_HOME": str(home)}, check=True, capture_output=True)
    return lake


def vectors(lake: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors float32[n, 27], labels bool[n], and the number of the day int[n]."""
    table = catalog.FEATURES.at(lake).read_range("", str(START + dt.timedelta(days=TEST_END - 1)))
    end = dt.datetime.combine(START + dt.timedelta(days=LABELS_END), dt.time(), dt.UTC)
    labels = labels_as_of(lake, end)
    frauds = labels["transaction_id"].filter(labels["is_fraud"])
    truth = pc.is_in(table["transaction_id"], value_set=frauds.combine_chunks()).to_numpy()
    us = table["event_timestamp"].cast("int64").to_numpy()
    first = (START - dt.date(1970, 1, 1)).days
    x = fill_table(
        table["amount"].to_numpy(), us // US_PER_HOUR % 24, (us // US_PER_DAY + 3) % 7,
        table["distance_from_home"].to_numpy(),
        np.array([CATEGORY_INDEX[c] for c in table["merchant_category"].to_pylist()]),
        table["transaction_velocity_1h"].to_numpy(), table["avg_amount_7d"].to_numpy(),
        table["unique_merchants_30d"].to_numpy(),
    )  # fmt: skip
    return x, truth, us // US_PER_DAY - first


def measure(x: np.ndarray, truth: np.ndarray, day: np.ndarray, trees: int) -> dict[str, object]:
    """AUC and average precision of a forest, of each feature alone (better direction), and without each group."""
    train, test = (day >= WARM_UP) & (day < TRAIN_END), (day >= TEST_START)

    def forest(columns: list[int]) -> tuple[float, float]:
        model = RandomForestClassifier(trees, min_samples_leaf=5, max_features=0.4, random_state=0)
        scores = model.fit(x[train][:, columns], truth[train]).predict_proba(x[test][:, columns])[:, 1]
        return roc_auc_score(truth[test], scores), average_precision_score(truth[test], scores)

    everything = list(range(len(VECTOR_NAMES)))
    auc, ap = forest(everything)
    alone = {n: roc_auc_score(truth[test], x[test, i]) for i, n in enumerate(VECTOR_NAMES[:CATEGORY_OFFSET])}
    without = {
        name: forest([i for i in everything if VECTOR_NAMES[i] not in members]) for name, members in GROUPS.items()
    }
    return {
        "rows": len(day), "fraud_rate": truth.mean(), "holdout_frauds": int(truth[test].sum()), "auc": auc, "ap": ap,
        "alone": {name: max(value, 1 - value) for name, value in alone.items()},
        "ap_lost_without": {name: ap - value for name, (_, value) in without.items()},
    }  # fmt: skip


def main() -> None:
    """Measure and print each seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--users", type=int, default=1_500)
    parser.add_argument("--trees", type=int, default=60)
    parser.add_argument("--simulate", nargs="*", default=[], help="further flags of fraud simulate, without --")
    given = parser.parse_args()
    results = {}
    for seed in given.seeds:
        lake = world(given.home, seed, given.users, [f"--{flag}" for flag in given.simulate])
        results[seed] = measured = measure(*vectors(lake), given.trees)
        print(
            f"seed {seed}: {measured['rows']:,} rows, {measured['fraud_rate']:.2%} fraud, "
            f"{measured['holdout_frauds']} frauds held out, AUC {measured['auc']:.3f}, AP {measured['ap']:.3f}"
        )
        for title in ("alone", "ap_lost_without"):
            print(f"  {title:<16}" + "  ".join(f"{n} {v:.3f}" for n, v in measured[title].items()))
    target = Path("build/bench/simulator_fairness.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
