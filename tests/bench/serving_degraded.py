"""Frauds detected in each degraded mode of serving: with history, without it, and by the rule alone.

    .venv/ml/bin/python tests/bench/serving_degraded.py --home build/degraded [--seed 1] [--users 1500]

Simulates, ingests and builds features below --home, of the project's declaration. Boosted trees of the size that
training registers are fitted on the first 90 days. Their threshold is the score that 5 in 1,000 transactions of the
next days exceed. The last days are then decided as in serving: with stored history and daily values, without the store
(neither, same threshold), without a model (the rule).
"""

import argparse
import datetime as dt
import json
import os
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from simulator_fairness import LABELS_END, START, TEST_END, TEST_START, TRAIN_END, WARM_UP
from sklearn.ensemble import HistGradientBoostingClassifier

from fraud import declaration_file
from fraud.core.columns import learnt_values
from fraud.core.contract import US_PER_DAY, US_PER_HOUR
from fraud.core.declaration import Declaration
from fraud.core.plan import Plan
from fraud.core.rule import DEFAULT
from fraud.features.engines.arrow_vector import base_values
from fraud.lake import catalog
from fraud.lake.labels import labels_as_of

ROOT = Path(__file__).parents[2]
ALERTS_PER_1000 = 5


def world(home: Path, seed: int, users: int, declaration: Declaration) -> str:
    """Simulate, ingest and build features, unless the home has them. Returns the URI of its lake."""
    home = home / f"seed-{seed}"
    lake = f"file://{home.resolve()}/lake"
    if not catalog.features(declaration.stored_hash).at(lake).partitions():
        for job in (
            ["simulate", f"--days={LABELS_END}", f"--users={users}", f"--seed={seed}", f"--start={START}"],
            ["ingest"], ["ingest-labels"], ["build-features"],
        ):  # fmt: skip
            command = [str(Path(".venv/ml/bin/fraud").resolve()), *job]
            subprocess.run(command, env=os.environ | {"FRAUD_HOME": str(home)}, check=True, capture_output=True)
    return lake


def resolved(declaration: Declaration, table: pa.Table) -> Declaration:
    """The declaration with the categories of the rows."""
    lists = {}
    for name in declaration.to_learn:
        lists[name] = learnt_values(declaration.columns[name], Counter(table[name].drop_null().to_pylist()))
    return declaration.resolved(lists)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--users", type=int, default=1_500)
    given = parser.parse_args()
    declaration = declaration_file.load_of(ROOT)
    lake = world(given.home, given.seed, given.users, declaration)
    stored = catalog.features(declaration.stored_hash).at(lake)
    table = stored.read_range("", str(START + dt.timedelta(days=TEST_END - 1)))
    labels = labels_as_of(lake, dt.datetime.combine(START + dt.timedelta(days=LABELS_END), dt.time(), dt.UTC))
    frauds = labels["transaction_id"].filter(labels["is_fraud"])
    truth = pc.is_in(table["transaction_id"], value_set=frauds.combine_chunks()).to_numpy()
    us = table["event_timestamp"].cast("int64").to_numpy()
    day = us // US_PER_DAY - (START - dt.date(1970, 1, 1)).days
    train, test = (day >= WARM_UP) & (day < TRAIN_END), day >= TEST_START
    between = (day >= TRAIN_END) & (day < TEST_START)
    plan = Plan(resolved(declaration, table.filter(pa.array(train))))
    base = base_values(table, plan)
    empty = [
        np.full(len(day), np.nan if plan.empty[feature] is None else plan.empty[feature]) if column is None else values
        for (column, feature), values in zip(plan.sources, base[2:], strict=True)
    ]
    x = plan.vector.table(base)
    seen = {"stored history": x[test], "store away": plan.vector.table([*base[:2], *empty])[test]}
    model = HistGradientBoostingClassifier(
        max_iter=300, max_leaf_nodes=15, min_samples_leaf=40, l2_regularization=1.0, learning_rate=0.05,
        random_state=0,
    ).fit(x[train], truth[train])  # fmt: skip
    threshold = np.quantile(model.predict_proba(x[between])[:, 1], 1 - ALERTS_PER_1000 / 1_000)
    fraud, amount = truth[test], table["amount"].to_numpy()[test]
    scores = {name: model.predict_proba(x)[:, 1] for name, x in seen.items()}
    verdicts = {name: score >= threshold for name, score in scores.items()}
    verdicts["no model: rule"] = DEFAULT.holds_for(amount, us[test] // US_PER_HOUR % 24)
    found = {
        name: {
            "recall": float(flagged[fraud].mean()), "precision": float(fraud[flagged].mean()) if flagged.any() else 0.0,
            "alerts_per_1000": float(flagged.mean() * 1_000),
        }
        for name, flagged in verdicts.items()
    }  # fmt: skip
    for name, score in scores.items():  # with missing inputs, another number exceeds the threshold
        found[name]["recall_in_the_same_alerts"] = float(
            fraud[np.argsort(-score, kind="stable")[: len(fraud) * ALERTS_PER_1000 // 1_000]].sum() / fraud.sum()
        )
    print(f"{len(fraud):,} payments, {int(fraud.sum())} frauds, seed {given.seed}")
    for name, of in found.items():
        print(f"{name:<16}" + "  ".join(f"{what} {value:.3f}" for what, value in of.items()))
    path = Path("build/bench/serving_degraded.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
