"""Window features, side by side: the kernel, the whole job, DuckDB's windows, and the request's point function.

    .venv/ml/bin/python tests/bench/features.py [--rows 10000000] [--users 50000] [--days 180] [--polars PYTHON]

Prints a table and writes build/bench/features.json. `job` is `fraud build-features` in a process of its own, Parquet
partitions in, Parquet partitions out, manifests and syncs included. `duckdb` is one SQL statement over the same files
into one file. `polars` only reads, sorts by user and time, and writes; it needs a Python that has polars.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final

import duckdb
import numpy as np
import pyarrow as pa

from fraud.core import history, windows
from fraud.core.contract import US_PER_DAY, id_hash
from fraud.engines import kernel
from fraud.io.lake import Dataset

ROOT: Final = Path(__file__).parents[2]
FIRST: Final = date(2026, 1, 1)
FIRST_US: Final = (FIRST - date(1970, 1, 1)).days * US_PER_DAY
MERCHANTS: Final = 2_000

DUCKDB: Final = """
COPY (
  SELECT *,
    count(*) OVER hour - count(*) OVER same AS transaction_velocity_1h,
    (sum(amount) OVER week - sum(amount) OVER same) / nullif(count(*) OVER week - count(*) OVER same, 0)
      AS avg_amount_7d,
    len(list_distinct(list(merchant_id) OVER month)) AS unique_merchants_30d
  FROM read_parquet($paths)
  WINDOW
    same AS (PARTITION BY user_id ORDER BY event_timestamp RANGE BETWEEN CURRENT ROW AND CURRENT ROW),
    hour AS (PARTITION BY user_id ORDER BY event_timestamp
             RANGE BETWEEN INTERVAL 1 HOUR PRECEDING AND CURRENT ROW),
    week AS (PARTITION BY user_id ORDER BY event_timestamp
             RANGE BETWEEN INTERVAL 7 DAY PRECEDING AND CURRENT ROW),
    month AS (PARTITION BY user_id ORDER BY event_timestamp
              RANGE BETWEEN INTERVAL 30 DAY PRECEDING AND INTERVAL 1 MICROSECOND PRECEDING)
) TO '{out}' (FORMAT parquet, COMPRESSION zstd)
"""
POLARS: Final = """
import sys, time, polars
start = time.perf_counter()
frame = polars.read_parquet(sys.argv[1:-1]).sort("user_id", "event_timestamp")
frame.write_parquet(sys.argv[-1], compression="zstd")
print(time.perf_counter() - start)
"""


def write_lake(lake: str, rows: int, users: int, days: int) -> None:
    """Day by day, so that memory does not grow with the days. Every event is learned of within a minute."""
    rng = np.random.default_rng(1)
    timestamp = pa.timestamp("us", "UTC")
    shops = pa.array([f"m{i:05}" for i in range(MERCHANTS)])
    people = pa.array([f"u{i:07}" for i in range(users)])
    transactions = Dataset(lake, "transactions")
    per_day = rows // days
    for day in range(days):
        event_us = FIRST_US + day * US_PER_DAY + np.sort(rng.integers(0, US_PER_DAY, per_day))
        columns = {
            "transaction_id": pa.array([f"t{day * per_day + i:010}" for i in range(per_day)]),
            "event_timestamp": pa.array(event_us, timestamp),
            "created_timestamp": pa.array(event_us, timestamp),
            "user_id": people.take(pa.array(rng.integers(0, users, per_day))),
            "merchant_id": shops.take(pa.array(rng.integers(0, MERCHANTS, per_day))),
            "merchant_category": pa.array(["grocery"] * per_day),
            "amount": pa.array(np.rint(rng.lognormal(3, 1, per_day) * 100 + 1) / 100),
            "distance_from_home": pa.array(rng.random(per_day) * 50),
        }
        transactions.publish((FIRST + timedelta(day)).isoformat(), pa.table(columns))


def seconds_of_kernel(rows: int, users: int, days: int) -> float:
    """Over arrays that are grouped and sorted already, compiled already."""
    rng = np.random.default_rng(2)
    user = np.sort(rng.integers(0, users, rows))
    event_us = rng.integers(0, days * US_PER_DAY, rows)
    event_us = event_us[np.lexsort((event_us, user))]
    starts = np.searchsorted(user, np.arange(users + 1))
    units, shop = rng.integers(1, 10**7, rows), rng.integers(0, MERCHANTS, rows).astype(np.int32)
    kernel.compute(np.array([0, 1]), event_us[:1], event_us[:1], units[:1], shop[:1], MERCHANTS)
    return min(_timed(lambda: kernel.compute(starts, event_us, event_us, units, shop, MERCHANTS)) for _ in range(3))


def us_of_request(events: int) -> float:
    """One evaluation over a history of so many events within 30 days, median of 5,000."""
    now = FIRST_US + 100 * US_PER_DAY
    gap = 29 * US_PER_DAY // events
    known = np.array(
        [(now - i * gap, 1_000 + i, id_hash(f"m{i % 40}")) for i in range(events, 0, -1)], dtype=history.RECORD
    )
    return 1e6 * float(np.median([_timed(lambda: windows.evaluate(known, now, now)) for _ in range(5_000)]))


def _timed(work: Any) -> float:  # noqa: ANN401 - any function without arguments
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def job(home: Path) -> tuple[float, float]:
    """(seconds, peak MB) of `fraud build-features --full` with everything compiled."""
    environment = {**os.environ, "FRAUD_HOME": str(home), "FRAUD_PROJECT": str(ROOT)}
    fraud = [str(Path(sys.executable).with_name("fraud")), "build-features", "--full", "--json"]
    process = subprocess.Popen(fraud, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    start = time.perf_counter()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"build-features ended with {process.returncode}")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--users", type=int, default=50_000)
    parser.add_argument("--days", type=int, default=180)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--polars", default=sys.executable, help="a Python that has polars")
    size = parser.parse_args()
    contenders: dict[str, dict[str, float]] = {}
    kernel_s = seconds_of_kernel(size.rows, size.users, size.days)
    contenders["kernel"] = {"seconds": kernel_s, "rows_per_s": size.rows / kernel_s}
    has_polars = subprocess.run([size.polars, "-c", "import polars"], capture_output=True, check=False).returncode == 0
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        lake = f"file://{home}/lake"
        write_lake(lake, size.rows, size.users, size.days)
        transactions = Dataset(lake, "transactions")
        paths = [
            uri.removeprefix("file://") for day in transactions.partitions() for uri in transactions.object_uris(day)
        ]
        seconds: dict[str, list[float]] = {"job": [], "duckdb": [], "polars_sort_write": []}
        peak = 0.0
        for _ in range(size.rounds):
            shutil.rmtree(home / "lake" / "features", ignore_errors=True)
            took, mb = job(home)
            seconds["job"].append(took)
            peak = max(peak, mb)
            if has_polars:
                command = [size.polars, "-c", POLARS, *paths, str(home / "polars.parquet")]
                seconds["polars_sort_write"].append(float(subprocess.check_output(command, text=True)))
        with duckdb.connect() as connection:
            statement = DUCKDB.format(out=home / "duckdb.parquet")
            seconds["duckdb"].append(_timed(lambda: connection.execute(statement, {"paths": paths})))
    for name, measured in seconds.items():
        if measured:
            contenders[name] = {"seconds": min(measured), "rows_per_s": size.rows / min(measured)}
    contenders["job"]["peak_mb"] = peak
    ratios = {
        "kernel_rows_per_s": size.rows / kernel_s,
        "vs_duckdb_job": contenders["duckdb"]["seconds"] / contenders["job"]["seconds"],
        "request_us_60": us_of_request(60),
        "request_us_1000": us_of_request(1_000),
    }
    if has_polars:
        ratios["job_s_vs_polars_sort_write"] = contenders["job"]["seconds"] / contenders["polars_sort_write"]["seconds"]
    report = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores", "rows": size.rows,
        "users": size.users, "days": size.days, "contenders": contenders, "ratios": ratios,
    }  # fmt: skip
    out = ROOT / "build" / "bench" / "features.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n")
    for name, values in contenders.items():
        print(f"{name:<20}{values['seconds']:>10.2f} s {values['rows_per_s']:>14,.0f} rows/s")
    print(f"{'job peak':<20}{peak:>10.0f} MB")
    for name, value in ratios.items():
        print(f"{name:<30}{value:>14,.2f}")


if __name__ == "__main__":
    main()
