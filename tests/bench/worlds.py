"""Lakes with training sets for tests/bench/quality.py: compromised terminals, and the project's own simulator.

    .venv/ml/bin/python tests/bench/worlds.py terminals --home FOLDER --users 2500 --seed 1
    .venv/ml/bin/python tests/bench/worlds.py simulator --home FOLDER --users 3000 --seed 1

`terminals` is written after the description of the simulator in "Reproducible Machine Learning for Credit Card Fraud
Detection" (Le Borgne et al., ULB): customers pay at terminals near their home. Fraudulent are all payments above USD
220, all payments at a compromised terminal for 28 days, and a third of the payments of a compromised customer for 14
days, with amounts multiplied by 5. The original has 5,000 customers, 10,000 terminals, 183 days and 1.75M payments;
with fewer customers the numbers of terminals and of compromises are reduced in proportion. Labels arrive after seven
days. Columns that the world does not have are null.

Transactions and labels are written to the lake of FOLDER as they are after `fraud ingest`. Features and training sets
are built by the jobs of the platform.
"""

import argparse
import time
from datetime import date, timedelta
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import structlog
from numpy.typing import NDArray

from fraud import declaration_file
from fraud.core.contract import US_PER_DAY
from fraud.core.declaration import Declaration
from fraud.features import build_daily, build_features
from fraud.job import Context
from fraud.lake import catalog
from fraud.lake.dataset import Dataset, conformed
from fraud.params import Params
from fraud.settings import Settings
from fraud.simulator.deliveries import Plan, deliveries
from fraud.training import training_set

ROOT: Final = Path(__file__).resolve().parents[2]
FIRST: Final = date(2025, 1, 1)
FIRST_US: Final = (FIRST - date(1970, 1, 1)).days * US_PER_DAY
LABEL_DELAY_US: Final = 7 * US_PER_DAY
DAYS: Final = {"terminals": 183, "simulator": 150}
FRAUD_RATE: Final = 0.0075
"""Of the simulator, as in the demo."""


def terminals(customers: int, days: int, seed: int) -> tuple[pa.Table, pa.Table]:
    """Transactions and reports of fraud of a world with compromised terminals and customers."""
    rng = np.random.default_rng(seed)
    count = 2 * customers
    home, place = rng.random((customers, 2)) * 100, rng.random((count, 2)) * 100
    mean, per_day = rng.uniform(5, 100, customers), rng.uniform(0, 4, customers)
    parts = []
    for customer in range(customers):
        near = np.flatnonzero(np.sum((place - home[customer]) ** 2, axis=1) < 25)
        if not len(near):
            continue
        n = rng.poisson(per_day[customer], days)
        second = rng.normal(43_200, 20_000, n.sum())
        amount = rng.normal(mean[customer], mean[customer] / 2, n.sum())
        amount = np.where(amount < 0, rng.uniform(0, 2 * mean[customer], n.sum()), amount)
        day, terminal = np.repeat(np.arange(days), n), rng.choice(near, n.sum())
        rows = np.column_stack([np.full(n.sum(), customer), terminal, day, second, amount])
        parts.append(rows[(second > 0) & (second < 86_400)])
    rows = np.vstack(parts)
    rows = rows[np.argsort(rows[:, 2] * 86_400 + rows[:, 3], kind="stable")]
    customer, terminal, day = rows[:, 0].astype(int), rows[:, 1].astype(int), rows[:, 2].astype(int)
    amount = np.maximum(rows[:, 4].round(2), 0.01)
    is_fraud = amount > 220
    for first in range(days):
        for broken in rng.choice(count, _of_day(first, 2 * count / 10_000), replace=False):
            is_fraud |= (terminal == broken) & (day >= first) & (day < first + 28)
        for victim in rng.choice(customers, _of_day(first, 3 * customers / 5_000), replace=False):
            own = np.flatnonzero((customer == victim) & (day >= first) & (day < first + 14))
            chosen = rng.choice(own, len(own) // 3, replace=False)
            amount[chosen] = (amount[chosen] * 5).round(2)
            is_fraud[chosen] = True
    us = FIRST_US + ((day * 86_400 + rows[:, 3]) * 1e6).astype(np.int64)
    at = pa.array(us, catalog.TIMESTAMP)
    transactions = pa.table(
        {
            "transaction_id": [f"t{i:08d}" for i in range(len(us))], "event_timestamp": at, "created_timestamp": at,
            "user_id": [f"c{i:06d}" for i in customer], "merchant_id": [f"m{i:06d}" for i in terminal],
            "amount": amount,
        }
    )  # fmt: skip
    return transactions, _reports(transactions["transaction_id"], is_fraud, us)


def _of_day(day: int, rate: float) -> int:
    """Whole events on a day, so that there are `rate` per day on average."""
    return int((day + 1) * rate) - int(day * rate)


def _reports(ids: pa.ChunkedArray, is_fraud: NDArray[np.bool_], event_us: NDArray[np.int64]) -> pa.Table:
    reported = np.flatnonzero(is_fraud)
    at = pa.array(event_us[reported] + LABEL_DELAY_US, catalog.TIMESTAMP)
    return pa.table([ids.take(pa.array(reported)), is_fraud[reported], at], schema=catalog.LABEL_SCHEMA)


def simulated(users: int, days: int, seed: int, declared: Declaration) -> tuple[pa.Table, pa.Table]:
    """Transactions and labels of the project's simulator, without bad rows."""
    found = list(deliveries(Plan(FIRST, days, users, seed, FRAUD_RATE, 0.0, declared.columns)))
    return pa.concat_tables([d.transactions for d in found]), pa.concat_tables([d.labels for d in found])


def write(dataset: Dataset, table: pa.Table, timestamp: str, order: list[tuple[str, str]]) -> None:
    """Publish a table in one partition per day of `timestamp`."""
    table = table.sort_by(order)
    day = table[timestamp].cast(pa.int64()).to_numpy() // US_PER_DAY
    for value, first, n in zip(*np.unique(day, return_index=True, return_counts=True), strict=True):
        name = date(1970, 1, 1) + timedelta(int(value))
        dataset.publish(name.isoformat(), table.slice(int(first), int(n)))


def build(world: str, home: Path, users: int, seed: int, declarations: list[Path]) -> str:
    """Write a world and build a training set of each declaration. Returns the URI of the lake."""
    settings = Settings.model_validate({"home": home, "project": ROOT, "feature_engine": "one-machine"})
    lake = settings.lake_uri
    params = Params.load(ROOT / "params.yaml")
    shipped = declaration_file.load_of(ROOT)
    if world == "terminals":
        transactions, labels = terminals(users, DAYS[world], seed)
    else:
        transactions, labels = simulated(users, DAYS[world], seed, shipped)
    rate = len(pc.unique(labels["transaction_id"])) / transactions.num_rows
    print(f"{world}: {transactions.num_rows:,} transactions, {rate:.2%} with a report", flush=True)
    whole = conformed(transactions, catalog.TRANSACTIONS.schema(shipped))
    write(catalog.TRANSACTIONS.at(lake), whole, "event_timestamp", catalog.TRANSACTIONS.order)
    write(catalog.LABELS.at(lake), conformed(labels, catalog.LABEL_SCHEMA), "label_timestamp", catalog.LABELS.order)
    for path in declarations:
        declared = declaration_file.load(path)
        context = Context(settings, params, declared, structlog.get_logger())
        build_daily.build(declared, context)
        build_features.build(declared, build_features.Config(), context)
        made = training_set.run(training_set.Config(), context)
        print(f"{path.name}: training set of {made.rows:,} rows, {made.frauds:,} frauds", flush=True)
    return lake


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", choices=list(DAYS))
    parser.add_argument("--home", type=Path, required=True, help="folder of the lake; must be empty or missing")
    parser.add_argument("--users", type=int, default=2_500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--declarations", type=Path, nargs="+", default=[ROOT / "feature_repo/features.yaml"])
    arguments = parser.parse_args()
    began = time.perf_counter()
    lake = build(arguments.world, arguments.home, arguments.users, arguments.seed, arguments.declarations)
    print(f"{lake}: {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
