"""Every level on one million rows, compared with the plain library call with the same settings on the same arrays.

Each fit runs in its own process, which creates the arrays, fits once and reports seconds and peak resident memory
(`arrays MB` is the peak before the fit). Contenders alternate, and figures are medians. `ours` is the platform on one
thread, `theirs` the plain library call on one thread, `theirs_2` the same on two threads. The platform does not use
two threads, because the bytes of its models would depend on their number.

    .venv/ml/bin/python tests/bench/training.py --rows 1000000 --repeats 1
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fraud import declaration_file
from fraud.core.plan import Plan
from fraud.params import Params
from fraud.training.ladder.levels import LEVELS as LADDER
from fraud.training.ladder.levels import Inputs, Sample

ROOT = Path(__file__).resolve().parents[2]
PLAN = Plan(declaration_file.load(ROOT / "tests/declarations/three.yaml"))
VECTOR_NAMES = PLAN.vector.names
CATEGORY_OFFSET = VECTOR_NAMES.index("category_electronics")
LEVELS = ("rule", "logistic", "boosting", "mlp")


def arrays(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Long-tailed vectors float32[n, 27] and labels bool[n] with half a percent of fraud."""
    random = np.random.default_rng(seed)
    vectors = np.zeros((rows, len(VECTOR_NAMES)), dtype=np.float32)
    amount, average = np.exp(random.normal(3.5, 1.1, rows)), np.exp(random.normal(3.5, 0.6, rows))
    distance, hour = random.exponential(25, rows), random.integers(0, 24, rows)
    columns = {
        "amount": amount, "hour_of_day": hour, "day_of_week": random.integers(0, 7, rows),
        "distance_from_home": distance, "transaction_velocity_1h": random.poisson(0.3, rows),
        "avg_amount_7d": average, "unique_merchants_30d": random.poisson(12, rows),
        "amount_to_avg_7d": amount / average,
    }  # fmt: skip
    for name, values in columns.items():
        vectors[:, VECTOR_NAMES.index(name)] = values
    vectors[np.arange(rows), CATEGORY_OFFSET + random.integers(0, 17, rows)] = 1.0
    logit = -8.2 + 1.4 * np.log(amount / average) + 1.2 * (hour < 5) + 0.02 * distance
    return vectors, random.random(rows) < 1 / (1 + np.exp(-logit))


def ours(level: str, train: tuple[np.ndarray, np.ndarray], later: tuple[np.ndarray, np.ndarray]) -> None:
    [chosen] = [each for each in LADDER if each.name == level]
    settings = Params.load(ROOT / "params.yaml").training
    epochs = settings.mlp.model_copy(update={"max_epochs": int(os.environ["BENCH_EPOCHS"])})
    inputs = Inputs.of(PLAN.declaration, VECTOR_NAMES)
    chosen.fit(
        Sample(*train, inputs),
        Sample(*later, inputs),
        settings.model_copy(update={"mlp": epochs}),
        lambda *_a, **_f: None,
    )


def theirs(level: str, train: tuple[np.ndarray, np.ndarray], later: tuple[np.ndarray, np.ndarray]) -> None:
    """The plain library call for the level, with the settings of params.yaml."""
    settings = Params.load(ROOT / "params.yaml").training
    (x, y), (later_x, later_y) = train, later
    if level == "rule":
        plain_rule(x, y, settings.rule.amounts, settings.rule.hours)
    elif level == "logistic":
        make_pipeline(
            StandardScaler(), LogisticRegression(C=settings.logistic.c, max_iter=settings.logistic.max_iter)
        ).fit(x, y)
    elif level == "boosting":
        b = settings.boosting
        HistGradientBoostingClassifier(
            learning_rate=b.learning_rate, max_iter=b.max_iter, max_leaf_nodes=b.max_leaf_nodes,
            min_samples_leaf=b.min_samples_leaf, l2_regularization=b.l2_regularization, max_features=b.max_features,
            early_stopping=True, n_iter_no_change=b.early_stopping_rounds, random_state=settings.seed,
        ).fit(x, y, X_val=later_x, y_val=later_y)  # fmt: skip
    else:
        plain_network(x, y, later_x, later_y)


def plain_rule(x: np.ndarray, y: np.ndarray, amounts: tuple[float, ...], hours: tuple[tuple[int, int], ...]) -> None:
    """The average precision of every pair of bounds, by scikit-learn."""
    amount, hour = x[:, VECTOR_NAMES.index("amount")], x[:, VECTOR_NAMES.index("hour_of_day")]
    for above in amounts:
        for first, until in hours:
            during = (hour >= first) | (hour < until) if first > until else (hour >= first) & (hour < until)
            average_precision_score(y, (during & (amount > above)).astype(float))


def plain_network(x: np.ndarray, y: np.ndarray, later_x: np.ndarray, later_y: np.ndarray) -> None:
    """The usual training loop: a DataLoader over tensors, AdamW, log loss, keeping the best epoch."""
    settings = Params.load(ROOT / "params.yaml").training.mlp
    scaler = StandardScaler().fit(x)
    tensors = [torch.from_numpy(scaler.transform(v).astype(np.float32)) for v in (x, later_x)]
    truth = [torch.from_numpy(v.astype(np.float32)) for v in (y, later_y)]
    loader = DataLoader(TensorDataset(tensors[0], truth[0]), batch_size=settings.batch_size, shuffle=True)
    layers: list[nn.Module] = []
    width = x.shape[1]
    for hidden in settings.hidden:
        layers += [nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(settings.dropout)]
        width = hidden
    network = nn.Sequential(*layers, nn.Linear(width, 1))
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    for _ in range(int(os.environ["BENCH_EPOCHS"])):
        network.train()
        for batch, target in loader:
            optimiser.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(network(batch).squeeze(1), target).backward()
            optimiser.step()
        network.eval()
        with torch.no_grad():
            nn.functional.binary_cross_entropy_with_logits(network(tensors[1]).squeeze(1), truth[1])


def measure(level: str, who: str, rows: int) -> None:
    """Child process: fit once, print seconds and peak resident memory in MB."""
    threads = 2 if who == "theirs_2" else 1
    if level == "mlp":
        torch.set_num_threads(threads)
    train, later = arrays(rows, 1), arrays(rows // 5, 2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with threadpool_limits(limits=threads):
        began = time.perf_counter()
        cpu = time.process_time()
        (ours if who == "ours" else theirs)(level, train, later)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "peak_mb": peak, "arrays_mb": before}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--levels", nargs="+", default=list(LEVELS), choices=LEVELS)
    parser.add_argument("--epochs", type=int, default=3, help="of level 3, on both sides")
    parser.add_argument("--child", nargs=2, metavar=("LEVEL", "WHO"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        measure(*arguments.child, arguments.rows)
        return
    contenders: dict[str, dict[str, float]] = {}
    ratios: dict[str, float] = {}
    print(f"{arguments.rows:,} rows to train on, {arguments.rows // 5:,} to stop on")
    print(f"{'level':<12}{'who':<10}{'s':>8}{'cpu s':>8}{'rows/s':>12}{'peak MB':>9}{'arrays MB':>11}")
    for level in arguments.levels:
        whos = ("ours", "theirs", "theirs_2") if level == "boosting" else ("ours", "theirs")
        seen: dict[str, list[dict[str, float]]] = {who: [] for who in whos}
        for _ in range(arguments.repeats):
            for who in whos:
                seen[who].append(child(level, who, arguments))
        for who, found in seen.items():
            row = {name: statistics.median(one[name] for one in found) for name in found[0]}
            row["rows_per_s"] = arguments.rows / row["seconds"]
            contenders[f"{level} {who}"] = row
            print(
                f"{level:<12}{who:<10}{row['seconds']:>8.1f}{row['cpu_seconds']:>8.1f}{row['rows_per_s']:>12,.0f}"
                f"{row['peak_mb']:>9,.0f}{row['arrays_mb']:>11,.0f}",
                flush=True,
            )
        best = min(contenders[f"{level} {who}"]["seconds"] for who in whos if who != "ours")
        ratios[f"{level}_vs_plain"] = best / contenders[f"{level} ours"]["seconds"]
        ratios[f"{level}_vs_plain_one_thread"] = (
            contenders[f"{level} theirs"]["seconds"] / contenders[f"{level} ours"]["seconds"]
        )
        ratios[f"{level}_memory_vs_plain"] = (
            contenders[f"{level} theirs"]["peak_mb"] / contenders[f"{level} ours"]["peak_mb"]
        )
    print("\nratios, theirs over ours (above 1: ours is better)")
    for name, value in ratios.items():
        print(f"{name:<34}{value:>8.2f}")
    target = ROOT / "build/bench/training.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": platform.processor() or platform.machine(), "contenders": contenders, "ratios": ratios}
    target.write_text(json.dumps(report, indent=1))


def child(level: str, who: str, arguments: argparse.Namespace) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, "--rows", str(arguments.rows), "--child", level, who],
        env=os.environ | {"BENCH_EPOCHS": str(arguments.epochs)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
