"""The daily build of the shipped declaration: from nothing, on the next night, and relative to reading the columns.

    .venv/ml/bin/python tests/bench/daily.py [--rows 10000000] [--merchants 2000] [--home FOLDER]

180 days of transactions with labels, 2% of the rows late by up to three days, labels delayed by 7 days in the median.
`make bench-daily` writes build/bench/daily.json.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import structlog

from fraud import declaration_file
from fraud.core.contract import US_PER_DAY
from fraud.core.plan import tables
from fraud.features import build_daily
from fraud.features.engines.daily_parts import read_columns, transaction_columns
from fraud.job import Context
from fraud.lake import catalog
from fraud.params import Params
from fraud.settings import Settings

ROOT: Final = Path(__file__).resolve().parents[2]
DAYS: Final = 180
FIRST: Final = date(2025, 1, 1)
FIRST_DAY: Final = (FIRST - date(1970, 1, 1)).days
TIMESTAMP: Final = pa.timestamp("us", "UTC")


def write_lake(lake_uri: str, rows: int, merchants: int) -> None:
    rng = np.random.default_rng(1)
    weights = 1 / np.arange(1, merchants + 1) ** 0.7
    shares, names = np.cumsum(weights / weights.sum()), pa.array([f"merchant-{i:06d}" for i in range(merchants)])
    labels: dict[int, list[pa.Table]] = defaultdict(list)
    count = rows // DAYS
    for day in range(DAYS):
        at = (FIRST_DAY + day) * US_PER_DAY + np.sort(rng.integers(0, US_PER_DAY, count))
        created = at + np.where(rng.random(count) < 0.02, rng.integers(0, 3 * US_PER_DAY, count), 1_000_000)
        merchant = np.minimum(np.searchsorted(shares, rng.random(count)), merchants - 1)
        ids = pa.array([f"t{day:03d}-{i:08d}" for i in range(count)])
        table = pa.table(
            {
                "transaction_id": ids, "event_timestamp": pa.array(at, TIMESTAMP),
                "created_timestamp": pa.array(created, TIMESTAMP),
                "user_id": [f"u{i}" for i in rng.integers(0, 50_000, count)],
                "merchant_id": names.take(pa.array(merchant)),
                "amount": np.rint(rng.lognormal(3.5, 1, count) * 1e4 + 1) / 1e4,
            }
        )  # fmt: skip
        catalog.TRANSACTIONS.at(lake_uri).publish(
            str(FIRST + timedelta(day)), table.sort_by(catalog.TRANSACTIONS.order)
        )
        labelled = at + (rng.lognormal(1.9, 0.9, count) * US_PER_DAY).astype(np.int64)
        fraud, reported = rng.random(count) < 0.006, rng.random(count) < 0.95
        days = labelled // US_PER_DAY
        for label_day in np.unique(days[days < FIRST_DAY + DAYS]):
            chosen = np.flatnonzero((days == label_day) & reported)
            columns = [ids.take(pa.array(chosen)), fraud[chosen], pa.array(labelled[chosen], TIMESTAMP)]
            labels[int(label_day) - FIRST_DAY].append(pa.table(columns, schema=catalog.LABEL_SCHEMA))
    for day, parts in labels.items():
        whole = pa.concat_tables(parts).sort_by(catalog.LABELS.order)
        catalog.LABELS.at(lake_uri).publish(str(FIRST + timedelta(day)), whole)


def timed(work: Callable[[], object]) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return {"seconds": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--merchants", type=int, default=2_000)
    parser.add_argument("--home", type=Path, default=None, help="folder for the lake, kept for another run")
    requested = parser.parse_args()
    folder = requested.home or Path(tempfile.mkdtemp())
    settings = Settings.model_validate({"home": folder, "project": ROOT})
    declared = declaration_file.load_of(ROOT)
    context = Context(settings, Params.load(ROOT / "params.yaml"), declared, structlog.get_logger())
    transactions, labels = catalog.TRANSACTIONS.at(settings.lake_uri), catalog.LABELS.at(settings.lake_uri)
    if not transactions.partitions():
        write_lake(settings.lake_uri, requested.rows, requested.merchants)
    for definition in catalog.in_lake(settings.lake_uri):
        shutil.rmtree(definition.at(settings.lake_uri).uri.removeprefix("file://"))
    columns = transaction_columns(tables(declared))
    contenders = {
        "reading_the_columns": timed(lambda: [read_columns(version.object_uris(d), columns)
                                              for version in [transactions.open()] for d in version.partitions()]),
        "build": timed(lambda: build_daily.build(declared, context)),
        "build_without_changes": timed(lambda: build_daily.build(declared, context)),
    }  # fmt: skip
    # A night: labels of the newest day, and one late row of the day before.
    for dataset, day in ((labels, labels.partitions()[-1]), (transactions, transactions.partitions()[-1])):
        dataset.publish(day, dataset.read(day).slice(1))
    contenders["build_of_a_night"] = timed(lambda: build_daily.build(declared, context))
    ratios = {
        "wide_daily_build_s": contenders["build"]["seconds"], "wide_daily_build_cpu_s": contenders["build"]["cpu_s"],
        "wide_daily_night_s": contenders["build_of_a_night"]["seconds"],
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_000,
    }  # fmt: skip
    for name, figures in contenders.items():
        print(f"{name:<24}" + "  ".join(f"{key} {value:,.2f}" for key, value in figures.items()))
    print(f"peak {ratios['peak_mb']:,.0f} MB")
    out = ROOT / "build/bench/daily.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    machine = f"{platform.platform()}, {os.cpu_count()} cores"
    out.write_text(json.dumps({"machine": machine, "contenders": contenders, "ratios": ratios}, indent=1))
    if requested.home is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
