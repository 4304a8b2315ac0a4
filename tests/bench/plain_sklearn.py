"""Plain scikit-learn models on a raw export, for comparison with the ladder of the platform on the same split.

It shares no code with the platform: pandas, a loop for the windows, library defaults for the models. Use the split that
the training run of the platform reports:

    .venv/ml/bin/python tests/bench/plain_sklearn.py --source transactions_2019.parquet --train 2019-07-01 2019-11-01 \
        --holdout 2019-12-10 2019-12-24

Days are [first, last), in the time of the export. Prints a table and writes build/bench/plain_sklearn.json; with
`--predictions` also the probabilities of every model for each held-out row, for tests/bench/external.py.
"""

import argparse
import json
import platform
import time
from collections import Counter, deque
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

NUMBERS = ["amt", "hour", "weekday", "distance", "velocity_1h", "mean_7d", "ratio", "merchants_30d"]
HOUR, DAY = 3_600_000_000, 86_400_000_000


def windows(user: pd.Series, time_us: np.ndarray, amount: np.ndarray, merchant: np.ndarray) -> np.ndarray:
    """Count over 1 h, mean amount over 7 d, distinct merchants over 30 d, each before the row: float64[n, 3]."""
    out = np.zeros((len(user), 3))
    for rows in user.groupby(user, observed=True).indices.values():
        ordered = rows[np.argsort(time_us[rows], kind="stable")]
        hour, week, month = deque(), deque(), deque()
        week_sum, seen = 0.0, Counter()
        for i in ordered:
            now = time_us[i]
            while hour and time_us[hour[0]] < now - HOUR:
                hour.popleft()
            while week and time_us[week[0]] < now - 7 * DAY:
                week_sum -= amount[week.popleft()]
            while month and time_us[month[0]] < now - 30 * DAY:
                gone = merchant[month.popleft()]
                seen[gone] -= 1
                if not seen[gone]:
                    del seen[gone]
            out[i] = len(hour), week_sum / len(week) if week else np.nan, len(seen)
            for window in (hour, week, month):
                window.append(i)
            week_sum += amount[i]
            seen[merchant[i]] += 1
    return out


def great_circle_miles(frame: pd.DataFrame) -> np.ndarray:
    """Haversine distance between home and merchant, Earth radius 3,958.8 miles."""
    lat1, lon1, lat2, lon2 = (np.radians(frame[c].to_numpy()) for c in ("lat", "long", "merch_lat", "merch_long"))
    half = np.sin((lat2 - lat1) / 2) ** 2 + np.cos(lat1) * np.cos(lat2) * np.sin((lon2 - lon1) / 2) ** 2
    return 2 * 3958.8 * np.arcsin(np.sqrt(half))


def prepare(source: Path) -> pd.DataFrame:
    frame = pd.read_parquet(source) if source.suffix == ".parquet" else pd.read_csv(source)
    frame["when"] = pd.to_datetime(frame["trans_date_trans_time"])
    time_us = frame["when"].to_numpy().astype("datetime64[us]").astype(np.int64)
    values = windows(frame["cc_num"], time_us, frame["amt"].to_numpy(float), frame["merchant"].to_numpy(object))
    frame["hour"], frame["weekday"] = frame["when"].dt.hour, frame["when"].dt.weekday
    frame["distance"] = great_circle_miles(frame)
    frame["velocity_1h"] = values[:, 0]
    frame["mean_7d"] = np.where(np.isnan(values[:, 1]), frame["amt"], values[:, 1])
    frame["merchants_30d"] = values[:, 2]
    frame["ratio"] = frame["amt"] / frame["mean_7d"]
    return frame


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--train", nargs=2, required=True, metavar="DAY")
    parser.add_argument("--holdout", nargs=2, required=True, metavar="DAY")
    parser.add_argument("--predictions", type=Path)
    arguments = parser.parse_args()
    frame = prepare(arguments.source)
    train = frame[(frame["when"] >= arguments.train[0]) & (frame["when"] < arguments.train[1])]
    holdout = frame[(frame["when"] >= arguments.holdout[0]) & (frame["when"] < arguments.holdout[1])]
    columns = make_column_transformer(
        (StandardScaler(), NUMBERS), (OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["category"])
    )
    models = {
        "LogisticRegression": LogisticRegression(max_iter=1000),
        "HistGradientBoosting, defaults": HistGradientBoostingClassifier(random_state=0),
        "RandomForest, 5 per leaf": RandomForestClassifier(min_samples_leaf=5, n_jobs=2, random_state=0),
        "MLPClassifier, defaults": MLPClassifier(random_state=0, early_stopping=True),
    }
    contenders, predictions = {}, holdout[["trans_num"]].rename(columns={"trans_num": "transaction_id"})
    print(f"{len(train):,} rows to train on, {len(holdout):,} held out with {int(holdout['is_fraud'].sum()):,} frauds")
    print(f"{'model':<34}{'AUC':>8}{'AP':>8}{'s':>8}")
    for name, model in models.items():
        start = time.perf_counter()
        fitted = make_pipeline(columns, model).fit(train, train["is_fraud"])
        probability = fitted.predict_proba(holdout)[:, 1]
        predictions = predictions.assign(**{name: probability})
        figures = {
            "auc": roc_auc_score(holdout["is_fraud"], probability),
            "average_precision": average_precision_score(holdout["is_fraud"], probability),
            "seconds": time.perf_counter() - start,
        }
        contenders[name] = figures
        print(f"{name:<34}{figures['auc']:>8.4f}{figures['average_precision']:>8.4f}{figures['seconds']:>8.1f}")
    if arguments.predictions:
        predictions.to_parquet(arguments.predictions, index=False)
    target = Path("build/bench/plain_sklearn.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    split = {"train": arguments.train, "holdout": arguments.holdout}
    report = {"machine": platform.processor() or platform.machine(), "split": split, "contenders": contenders}
    target.write_text(json.dumps(report | {"ratios": {}}, indent=1))


if __name__ == "__main__":
    main()
