"""Difficulty of the simulated transactions, and the contribution of each column.

Simulates in this process, computes the features of FEATURES here, without the platform's engines, trains a random
forest, and leaves out each group of features in turn. Run it in the ML environment:

    .venv/ml/bin/python tests/bench/simulator_fairness.py --seeds 1 2 3

The simulation is 40 days longer than the measured period, so that nearly every label has arrived. Prints tables per
seed and writes build/bench/simulator_fairness.json. Windows are [t - w, t) over event times; the 0.3% of late rows are
not treated separately. A merchant's fraud rate on day D is over the event days [D - 7 - w, D - 7), with the labels
known when D began, smoothed with 20 rows of the base rate, and applies from 03:00 of D.
"""

import argparse
import datetime as dt
import json
from collections import Counter, deque
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import average_precision_score, roc_auc_score

from fraud.core.contract import US_PER_DAY, US_PER_HOUR
from fraud.core.declaration_types import CategoryColumn, FlagColumn, IdColumn, NumberColumn
from fraud.simulator.countries import HOME
from fraud.simulator.deliveries import Plan, deliveries

START = dt.date(2025, 1, 1)
WARM_UP, TRAIN_END, TEST_START, TEST_END, LABELS_END = 30, 90, 97, 121, 161
COLUMNS = {
    "category": CategoryColumn(type="category", learn=20, simulate="category"),
    "distance": NumberColumn(type="number", unit="miles", min=0, max=12_500, simulate="distance"),
    "device": IdColumn(type="id", simulate="device"),
    "place": CategoryColumn(type="category", learn=50, simulate="place"),
    "in_person": FlagColumn(type="flag", simulate="in_person"),
}
"""One column for each role."""
LABEL_DELAY_DAYS, STRENGTH = 7, 20.0
LEGITIMATE_KEPT = 0.2
"""Share of the legitimate rows that the forest is trained on. All frauds are kept. The held-out rows are complete."""
BASE = {
    "distance": ["distance", "distance_missing"],
    "velocity": ["velocity_1h"],
    "amount": ["amount", "average_7d", "amount_to_average_7d", "no_history_7d"],
    "time": ["hour", "weekday"],
    "category": ["category"],
    "merchants": ["merchants_30d"],
}
"""The inputs of the three-feature set."""
ADDED = {
    "device": ["device_missing", "device_users_7d", "device_payments_30d", "device_first_30d"],
    "country": ["abroad", "country", "country_payments_30d", "country_first_30d"],
    "in_person": ["in_person", "in_person_missing"],
    "merchant_rate": ["merchant_rate_7d", "merchant_rate_30d"],
}


class Data(NamedTuple):
    """Transactions in order of event time, and labels as reported."""

    rows: dict[str, list[Any]]
    us: np.ndarray
    """Microseconds since the start."""
    fraud: np.ndarray
    """Whether a report of fraud arrived until LABELS_END."""
    known: np.ndarray
    """Day on which it arrived; far away without a report."""


class Window:
    """Earlier values of each key within the last `days`, and how often each occurs."""

    def __init__(self, days: float) -> None:
        self._us = int(days * US_PER_DAY)
        self._events: dict[Hashable, deque[tuple[int, Hashable]]] = {}
        self._counts: dict[Hashable, Counter[Hashable]] = {}

    def before(self, key: Hashable, us: int) -> Counter[Hashable]:
        events, counts = self._events.setdefault(key, deque()), self._counts.setdefault(key, Counter())
        while events and events[0][0] < us - self._us:
            _, value = events.popleft()
            counts[value] -= 1
            if not counts[value]:
                del counts[value]
        return counts

    def add(self, key: Hashable, us: int, value: Hashable) -> None:
        self._events[key].append((us, value))
        self._counts[key][value] += 1


def simulate(seed: int, users: int) -> Data:
    found = list(deliveries(Plan(START, LABELS_END, users, seed, 0.0075, 0.0, COLUMNS)))
    table = pa.concat_tables([each.transactions for each in found])
    table = table.sort_by([(name, "ascending") for name in ("event_timestamp", "created_timestamp", "transaction_id")])
    labels = pa.concat_tables([each.labels for each in found]).to_pydict()
    first = (START - dt.date(1970, 1, 1)).days * US_PER_DAY
    at = {
        name: (when - dt.datetime.combine(START, dt.time(), dt.UTC)).days
        for name, fraud, when in zip(*labels.values(), strict=True)
        if fraud
    }
    known = np.array([at.get(name, 10**6) for name in table["transaction_id"].to_pylist()])
    us = table["event_timestamp"].cast("int64").to_numpy() - first
    shown = us < TEST_END * US_PER_DAY
    rows = {
        name: table[name].filter(pa.array(shown)).to_pylist() for name in ("user_id", "merchant_id", "amount", *COLUMNS)
    }
    return Data(rows, us[shown], (known < 10**6)[shown], known[shown])


def window(data: Data, key: str, value: str, days: float, of: Callable[[Counter, Any], float]) -> np.ndarray:
    """A function of the counts of earlier values and the row's own one; 0 for a null key or value."""
    seen, result = Window(days), np.zeros(len(data.us))
    for i, (us, k, v) in enumerate(zip(data.us.tolist(), data.rows[key], data.rows[value], strict=True)):
        if k is not None and v is not None:
            result[i] = of(seen.before(k, us), v)
            seen.add(k, us, v)
    return result


def merchant_rate(data: Data, days: int) -> np.ndarray:
    _, merchant = np.unique(np.array(data.rows["merchant_id"]), return_inverse=True)
    day, n = data.us // US_PER_DAY, merchant.max() + 1
    applies = (data.us - 3 * US_PER_HOUR) // US_PER_DAY
    result = np.zeros(len(day))
    for d in range(TEST_END):
        inside = (day >= d - LABEL_DELAY_DAYS - days) & (day < d - LABEL_DELAY_DAYS)
        rows = np.bincount(merchant[inside], minlength=n)
        frauds = np.bincount(merchant[inside & (data.known < d)], minlength=n)
        base = frauds.sum() / max(rows.sum(), 1)
        holds = applies == d
        result[holds] = ((frauds + STRENGTH * base) / (rows + STRENGTH))[merchant[holds]]
    return result


def features(data: Data) -> dict[str, np.ndarray]:
    """Arrays of one row per transaction; one-hot columns are two-dimensional."""
    rows, us = data.rows, data.us
    amount = np.array(rows["amount"])
    cents = data._replace(rows=rows | {"cents": [round(a * 100) for a in rows["amount"]]})
    paid = window(
        cents, "user_id", "cents", 7, lambda seen, _: sum(v * k for v, k in seen.items()) / max(1, seen.total())
    )
    average = np.where(paid == 0, amount, paid / 100)
    distance = np.array(rows["distance"], dtype=float)
    present = np.array(rows["in_person"], dtype=float)
    device_payments = window(data, "user_id", "device", 30, lambda seen, own: seen[own])
    country_payments = window(data, "user_id", "place", 30, lambda seen, own: seen[own])
    has_device = np.array([device is not None for device in rows["device"]])
    return {
        "distance": np.nan_to_num(distance), "distance_missing": np.isnan(distance),
        "velocity_1h": window(data, "user_id", "amount", 1 / 24, lambda seen, _: seen.total()),
        "amount": amount, "average_7d": average, "amount_to_average_7d": amount / average, "no_history_7d": paid == 0,
        "hour": us // US_PER_HOUR % 24, "weekday": us // US_PER_DAY % 7, "category": one_hot(rows["category"]),
        "merchants_30d": window(data, "user_id", "merchant_id", 30, lambda seen, _: len(seen)),
        "device_missing": ~has_device,
        "device_users_7d": window(data, "device", "user_id", 7, lambda seen, own: len(seen.keys() - {own})),
        "device_payments_30d": device_payments, "device_first_30d": has_device & (device_payments == 0),
        "abroad": np.array([country != HOME for country in rows["place"]]), "country": one_hot(rows["place"]),
        "country_payments_30d": country_payments, "country_first_30d": country_payments == 0,
        "in_person": np.nan_to_num(present), "in_person_missing": np.isnan(present),
        "merchant_rate_7d": merchant_rate(data, 7), "merchant_rate_30d": merchant_rate(data, 30),
    }  # fmt: skip


def one_hot(values: list[str]) -> np.ndarray:
    names, index = np.unique(np.array(values), return_inverse=True)
    return index[:, None] == np.arange(len(names))


def measure(data: Data, trees: int) -> dict[str, Any]:
    """AUC and average precision of a forest, of each feature alone (better direction), and without each group."""
    values, day, truth = features(data), data.us // US_PER_DAY, data.fraud
    kept = truth | (np.random.default_rng(0).random(len(day)) < LEGITIMATE_KEPT)
    train, test = (day >= WARM_UP) & (day < TRAIN_END) & kept, day >= TEST_START

    def forest(groups: dict[str, list[str]]) -> tuple[float, float]:
        x = np.column_stack([values[name] for names in groups.values() for name in names]).astype(np.float32)
        model = RandomForestClassifier(trees, min_samples_leaf=3, max_features=0.3, random_state=0)
        scores = model.fit(x[train], truth[train]).predict_proba(x[test])[:, 1]
        return roc_auc_score(truth[test], scores), average_precision_score(truth[test], scores)

    every = BASE | ADDED
    alone = {name: roc_auc_score(truth[test], v[test]) for name, v in values.items() if v.ndim == 1}
    base, full = forest(BASE), forest(every)
    return {
        "rows": len(day), "fraud_rate": truth.mean(), "holdout_frauds": int(truth[test].sum()),
        "base": dict(zip(("auc", "ap"), base, strict=True)), "all": dict(zip(("auc", "ap"), full, strict=True)),
        "alone": {name: max(value, 1 - value) for name, value in alone.items()},
        "ap_gained_with": {name: forest(BASE | {name: of})[1] - base[1] for name, of in ADDED.items()},
        "ap_lost_without": {
            name: full[1] - forest({other: of for other, of in every.items() if other != name})[1] for name in every
        },
    }  # fmt: skip


def main() -> None:
    """Measure and print each seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--users", type=int, default=1_500)
    parser.add_argument("--trees", type=int, default=60)
    given = parser.parse_args()
    results = {}
    for seed in given.seeds:
        results[seed] = measured = measure(simulate(seed, given.users), given.trees)
        print(
            f"seed {seed}: {measured['rows']:,} rows, {measured['fraud_rate']:.2%} fraud, "
            f"{measured['holdout_frauds']} frauds held out"
        )
        for title in ("base", "all", "alone", "ap_gained_with", "ap_lost_without"):
            print(f"  {title:<16}" + "  ".join(f"{n} {v:.3f}" for n, v in measured[title].items()), flush=True)
    target = Path("build/bench/simulator_fairness.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
