"""Window features, compared with other ways to compute them.

    .venv/ml/bin/python tests/bench/features.py [--parts kernel build ...] [--home FOLDER] [--polars PYTHON]

Prints a table and writes build/bench/features.json; a run of some parts keeps the figures of the other parts.

kernel    the compiled kernel over sorted arrays (three windows of a user, and sixteen: wide), in order and late, and
          the point function of a request
build     `fraud build-features` in its own process, from and to Delta tables with syncs, compared
          with one DuckDB statement that writes one file, and with polars reading, sorting and writing the rows
          (--polars names a Python with polars); wide: with `build-daily`, for the shipped declaration
spark     the Spark engine, Spark SQL with exact distinct counts, and the build on one machine, in one warm session;
          wide: the shipped declaration
store     CPU of a serving process per read and append, bytes per stored event
training  `fraud training-set`, and the retrieval by Feast alone
property  the property tests of the windows with 5,000 random logs each
replay    a simulated month through the store by sixteen clients, `materialize` killed at every command
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
from collections.abc import Callable
from contextlib import redirect_stdout
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final

import duckdb
import numpy as np
import pyarrow as pa
import redis

from fraud import declaration_file
from fraud.core.columns import NO_FLAG, NO_HASH, NO_NUMBER, to_stored
from fraud.core.contract import US_PER_DAY, US_PER_HOUR
from fraud.core.plan import window_sets
from fraud.core.windows import WindowSet
from fraud.embedded.servers import valkey
from fraud.features import feast_snapshot, feast_store
from fraud.features.engines import kernel
from fraud.features.online_store import Batch, OnlineHistory
from fraud.lake import catalog
from fraud.lake.dataset import Dataset

Figures = tuple[dict[str, dict[str, float]], dict[str, float]]
"""Contenders by name, and ratios."""
ROOT: Final = Path(__file__).parents[2]
FIRST: Final = date(2026, 1, 1)
FIRST_US: Final = (FIRST - date(1970, 1, 1)).days * US_PER_DAY
MERCHANTS: Final = 2_000
THREE_FILE: Final = ROOT / "tests/declarations/three.yaml"
"""The three windows of one entity that figures without a prefix are about; `wide_` ones are about features.yaml."""

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
    """Day by day, so that memory does not grow with the days. Ingestion time equals event time, a payment without a
    card has a device.
    """
    rng = np.random.default_rng(1)
    timestamp = pa.timestamp("us", "UTC")
    shops = pa.array([f"m{i:05}" for i in range(MERCHANTS)])
    people = pa.array([f"u{i:07}" for i in range(users)])
    devices = pa.array([f"device {i:07}" for i in range(users)])
    countries = pa.array([f"c{i}" for i in range(40)])
    categories = pa.array(["grocery", "travel", "electronics", "home", "other"])
    transactions = catalog.TRANSACTIONS.at(lake)
    per_day = rows // days
    for day in range(days):
        event_us = FIRST_US + day * US_PER_DAY + np.sort(rng.integers(0, US_PER_DAY, per_day))
        columns = {
            "transaction_id": pa.array([f"t{day * per_day + i:010}" for i in range(per_day)]),
            "event_timestamp": pa.array(event_us, timestamp),
            "created_timestamp": pa.array(event_us, timestamp),
            "user_id": people.take(pa.array(user := rng.integers(0, users, per_day))),
            "merchant_id": shops.take(pa.array(shop := rng.integers(0, MERCHANTS, per_day))),
            "amount": pa.array(np.rint(rng.lognormal(3, 1, per_day) * 100 + 1) / 100),
            "card_present": pa.array(present := rng.random(per_day) < 0.7),
            "country": countries.take(pa.array(shop % 40)),
            "device_id": devices.take(pa.array(user, mask=present)),
            "distance_from_home": pa.array(rng.random(per_day) * 50),
            "merchant_category": categories.take(pa.array(shop % len(categories))),
        }
        transactions.publish((FIRST + timedelta(day)).isoformat(), pa.table(columns))


WIDE: Final = (
    *(kernel.Window("count", -1, us) for us in (US_PER_HOUR, US_PER_DAY, 7 * US_PER_DAY, 30 * US_PER_DAY)),
    *(kernel.Window("mean", 0, us, 10_000) for us in (US_PER_DAY, 7 * US_PER_DAY, 30 * US_PER_DAY)),
    *(kernel.Window("max", 0, us, 10_000) for us in (7 * US_PER_DAY, 30 * US_PER_DAY)),
    *(kernel.Window("distinct", 1, us) for us in (US_PER_DAY, 30 * US_PER_DAY)),
    kernel.Window("seconds_since_last", -1, 30 * US_PER_DAY),
    *(kernel.Window("matches", column, 30 * US_PER_DAY) for column in (1, 2)),
    kernel.Window("share", 3, 7 * US_PER_DAY, value=1),
    kernel.Window("same_as_last", 4, 30 * US_PER_DAY),
)
"""Windows of a user: columns 0 amount, 1 merchant, 2 category, 3 flag, 4 an id."""
THREE: Final = (WIDE[0], WIDE[5], WIDE[10])


def seconds_of_kernel(rows: int, users: int, days: int) -> dict[str, float]:
    """Seconds of the compiled kernel over grouped and sorted arrays on one core, for THREE and WIDE.

    `late`: an eighth of the events is ingested up to six days late, so that every user has late events.
    """
    rng = np.random.default_rng(2)
    user = np.sort(rng.integers(0, users, rows))
    event_us = rng.integers(0, days * US_PER_DAY, rows)
    event_us = event_us[np.lexsort((event_us, user))]
    late_us = event_us + np.where(rng.random(rows) < 1 / 8, rng.integers(0, 6 * US_PER_DAY, rows), 0)
    starts, order = np.searchsorted(user, np.arange(users + 1)), np.arange(rows)
    hashes = [rng.integers(1, 2**63, different)[rng.integers(0, different, rows)] for different in (MERCHANTS, 17, 40)]
    flag = rng.integers(0, 3, rows)
    columns = np.stack([rng.integers(1, 10**7, rows), *hashes[:2], flag, hashes[2]])
    nulls = np.array([NO_NUMBER, NO_HASH, NO_HASH, NO_FLAG, NO_HASH])

    def run(windows: tuple[kernel.Window, ...], ingested: Any, n: int) -> None:  # noqa: ANN401 - int64[rows]
        kernel.compute(
            windows, np.minimum(starts, n), order, event_us, ingested, columns, nulls, 1_024, 37 * US_PER_DAY
        )

    run(WIDE, event_us, 2)
    return {
        name: min(_timed(lambda w=windows, i=ingested: run(w, i, rows)) for _ in range(3))  # type: ignore[misc]
        for name, windows, ingested in (
            ("kernel", THREE, event_us), ("wide_kernel", WIDE, event_us),
            ("kernel_late", THREE, late_us), ("wide_kernel_late", WIDE, late_us),
        )
    }  # fmt: skip


def us_of_request(windows: WindowSet, events: int) -> float:
    """Microseconds of one evaluation over a history of `events` events within 30 days, median of 5,000."""
    now = FIRST_US + 100 * US_PER_DAY
    gap = 29 * US_PER_DAY // events
    stored = np.zeros(events, dtype=windows.layout.record)
    stored["event_us"] = now - np.arange(events, 0, -1) * gap
    for column in windows.layout.columns:
        different = np.array([to_stored(column, f"{column.name} {i}") for i in range(40)], dtype=np.uint64)
        stored[column.name] = np.arange(events) % 2 if column.format != "Q" else different[np.arange(events) % 40]
    own = [stored[column.name][-1].item() for column in windows.layout.columns]
    return 1e6 * float(np.median([_timed(lambda: windows.evaluate(stored, now, now, own)) for _ in range(5_000)]))


def _timed(work: Any) -> float:  # noqa: ANN401 - any function without arguments
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def job(home: Path, *command: str, project: Path = ROOT) -> tuple[float, float, dict[str, Any]]:
    """(seconds, peak MB, result) of a `fraud` command, after compilation."""
    environment = {**os.environ, "FRAUD_HOME": str(home), "FRAUD_PROJECT": str(project)}
    fraud = [str(Path(sys.executable).with_name("fraud")), *command, "--json"]
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(fraud, env=environment, stdout=out, stderr=subprocess.DEVNULL)
        start = time.perf_counter()
        _, status, usage = os.wait4(process.pid, 0)
        took = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"fraud {command[0]} ended with {process.returncode}")
        out.seek(0)
        return took, usage.ru_maxrss / 1024, json.loads(out.read())


def lake(home: Path, rows: int, users: int, days: int) -> Path:
    """A home whose lake has the rows. An existing lake is used again."""
    if not catalog.TRANSACTIONS.at(f"file://{home}/lake").partitions():
        write_lake(f"file://{home}/lake", rows, users, days)
    return home


def project_of_three(folder: Path) -> Path:
    """A project whose declaration has the three window features."""
    project = folder / "three"
    (project / declaration_file.NAME).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "params.yaml", project)
    shutil.copy(THREE_FILE, project / declaration_file.NAME)
    return project


def kernel_part(size: argparse.Namespace, _home: Path) -> Figures:
    seconds = seconds_of_kernel(size.rows, size.users, size.days)
    contenders = {name: {"seconds": each, "rows_per_s": size.rows / each} for name, each in seconds.items()}
    ratios = {f"{name}_rows_per_s": size.rows / each for name, each in seconds.items()}
    for prefix, path in (("", THREE_FILE), ("wide_", ROOT / declaration_file.NAME)):
        windows = next(w for w in window_sets(declaration_file.load(path)) if w.layout.entity == "user")
        for events in (60, 1_000):
            ratios[f"{prefix}request_us_{events}"] = us_of_request(windows, events)
    return contenders, ratios


def build_part(size: argparse.Namespace, home: Path) -> Figures:
    """`job` is `build-features` of the three window features. `wide_job` is `build-daily` and then `build-features` of
    the shipped declaration. polars reads, sorts and writes the rows of transactions, and those of the wide features.
    """
    lake(home, size.rows, size.users, size.days)
    lake_uri = f"file://{home}/lake"
    has_polars = subprocess.run([size.polars, "-c", "import polars"], capture_output=True, check=False).returncode == 0
    inputs = _files(catalog.TRANSACTIONS.at(lake_uri))
    wide = declaration_file.load_of(ROOT)
    seconds: dict[str, list[float]] = {}
    peaks = {"job": 0.0, "wide_job": 0.0}

    def timed(name: str, took: float) -> None:
        seconds.setdefault(name, []).append(took)

    for _ in range(size.rounds):
        for folder in ("features", "daily", "daily_parts"):
            shutil.rmtree(home / "lake" / folder, ignore_errors=True)
        took, mb, _ = job(home, "build-features", "--full", project=project_of_three(home))
        timed("job", took)
        peaks["job"] = max(peaks["job"], mb)
        daily_s, daily_mb, _ = job(home, "build-daily")
        features_s, features_mb, _ = job(home, "build-features")
        timed("wide_daily", daily_s)
        timed("wide_job", daily_s + features_s)
        peaks["wide_job"] = max(peaks["wide_job"], daily_mb, features_mb)
        if has_polars:
            outputs = _files(catalog.features(wide.stored_hash).at(lake_uri))
            for name, paths in (("polars_sort_write", inputs), ("wide_polars_sort_write", outputs)):
                command = [size.polars, "-c", POLARS, *paths, str(home / "polars.parquet")]
                timed(name, float(subprocess.check_output(command, text=True)))
    if not size.only_ours:
        with duckdb.connect() as connection:
            statement = DUCKDB.format(out=home / "duckdb.parquet")
            timed("duckdb", _timed(lambda: connection.execute(statement, {"paths": inputs})))
    suffix = "" if size.rows == 10_000_000 else f"_{size.rows // 1_000_000}m"
    contenders = {
        f"{name}{suffix}": {"seconds": min(runs), "rows_per_s": size.rows / min(runs)} for name, runs in seconds.items()
    }
    for name, peak in peaks.items():
        contenders[f"{name}{suffix}"]["peak_mb"] = peak
    ratios = {}
    if "duckdb" in seconds:
        ratios[f"vs_duckdb_job{suffix}"] = min(seconds["duckdb"]) / min(seconds["job"])
    if has_polars:
        for prefix in ("", "wide_"):
            ratios[f"{prefix}job_s_vs_polars_sort_write{suffix}"] = min(seconds[f"{prefix}job"]) / min(
                seconds[f"{prefix}polars_sort_write"]
            )
    ratios[f"wide_job_peak_mb{suffix}"] = peaks["wide_job"]
    return contenders, ratios


def _files(dataset: Dataset) -> list[str]:
    version = dataset.open()
    return [uri.removeprefix("file://") for day in version.partitions() for uri in version.object_uris(day)]


def spark_part(size: argparse.Namespace, home: Path) -> Figures:
    small = lake(home / "small", size.small_rows, size.small_rows // 200, size.days)
    command = [sys.executable, str(ROOT / "tests/bench/features_spark.py"), str(small)]
    measured = json.loads(subprocess.check_output(command, text=True))
    seconds = measured["seconds"]
    rows = size.small_rows // size.days * size.days
    contenders = {name: {"seconds": each, "rows_per_s": rows / each} for name, each in seconds.items()}
    contenders["spark"]["mismatches"] = measured["mismatches"]
    ratios = {
        "spark_vs_spark_sql": seconds["spark_sql"] / seconds["spark"],
        "spark_vs_one_machine": seconds["one_machine"] / seconds["spark"],
        "wide_spark_vs_one_machine": seconds["wide_one_machine"] / seconds["wide_spark"],
    }
    return contenders, ratios


def store_part(_size: argparse.Namespace, home: Path) -> Figures:
    with valkey.running(home / "valkey") as server, redis.Redis.from_url(server.url) as client:
        serving = [str(ROOT / ".venv/serving/bin/python"), str(ROOT / "tests/bench/features_store.py"), server.url,
                   declaration_file.load(THREE_FILE).canonical()]  # fmt: skip
        cpu = json.loads(subprocess.check_output(serving, text=True))
        ratios = {"store_cpu_us_c16": cpu["cpu_us"]}
        store = OnlineHistory(client)
        for prefix, path in (("", THREE_FILE), ("wide_", ROOT / declaration_file.NAME)):
            layout = next(w for w in window_sets(declaration_file.load(path)) if w.layout.entity == "user").layout
            ratios[f"{prefix}bytes_per_record"] = float(layout.record.itemsize)
            for n in (60, 1_000):
                records = np.zeros(n, dtype=layout.record)
                records["event_us"] = FIRST_US + np.arange(n)
                store.load(layout, [Batch(f"at rest {n}", records, np.arange(n, dtype=np.uint64))])
                for what, key in (("history", layout.history_key), ("ids", layout.ids_key)):
                    of_key = client.memory_usage(key(f"at rest {n}"), samples=0)
                    ratios[f"{prefix}bytes_per_event_{what}_{n}"] = of_key / n
    return {"store": cpu}, ratios


def training_part(size: argparse.Namespace, home: Path) -> Figures:
    """The job, and Feast alone on the same rows and an existing snapshot file."""
    small = lake(home / "small", size.small_rows, size.small_rows // 200, size.days)
    job(small, "build-daily")
    job(small, "build-features")
    shutil.rmtree(small / "lake" / "training_sets", ignore_errors=True)
    took, mb, result = job(small, "training-set")
    declaration = declaration_file.load_of(ROOT)
    features = catalog.features(declaration.stored_hash).at(f"file://{small}/lake")
    rows = features.read_range(result["first_day"], result["last_day"])
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        feast_snapshot.publish_snapshots(f"file://{small}/lake", declaration, features.partitions())
        feast = feast_store.open_store(ROOT, f"sqlite:///{folder}/registry.db", "redis://127.0.0.1:1")
        feast_store.apply(feast, ROOT, declaration, feast_snapshot.snapshot_folder(f"file://{small}/lake"))
        ids = {view.id_column for view in feast_snapshot.views(declaration)}
        entities = rows.select(["event_timestamp", *sorted(ids)])
        feast_s = _timed(lambda: feast_store.point_in_time(feast, declaration, entities))
    contenders = {
        "training_set": {"seconds": took, "rows_per_s": result["rows"] / took, "peak_mb": mb, "rows": result["rows"]},
        "feast_retrieval_alone": {"seconds": feast_s, "rows_per_s": result["rows"] / feast_s},
    }
    return contenders, {"training_set_s": took, "training_set_vs_feast_alone": feast_s / took}


def property_part(_size: argparse.Namespace, _home: Path) -> Figures:
    tests = [f"tests/unit/features/test_{name}.py" for name in ("kernel", "arrow_windows")]
    command = [sys.executable, "-m", "pytest", "-q", *tests]
    environment = {**os.environ, "PROPERTY_EXAMPLES": "5000"}
    subprocess.run(command, env=environment, cwd=ROOT, check=True)  # prints its counts
    return {}, {}


def replay_part(size: argparse.Namespace, _home: Path) -> Figures:
    command = [sys.executable, str(ROOT / "tests/bench/features_replay.py"), "--users", str(size.replay_users)]
    done = json.loads(subprocess.check_output(command, text=True))
    ratios = {"replay_rows": done["answers"], "replay_mismatches": done["mismatches"]}
    return {"replay": done}, ratios


PARTS: Final[dict[str, Callable[[argparse.Namespace, Path], Figures]]] = {
    "kernel": kernel_part, "build": build_part, "spark": spark_part, "store": store_part, "training": training_part,
    "property": property_part, "replay": replay_part,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--users", type=int, default=50_000)
    parser.add_argument("--days", type=int, default=180)
    parser.add_argument("--small-rows", type=int, default=1_060_000, help="of spark and training")
    parser.add_argument("--replay-users", type=int, default=3_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only-ours", action="store_true", help="without DuckDB's windows")
    parser.add_argument("--home", type=Path, help="keeps the transactions that are made; default a temporary folder")
    parser.add_argument("--polars", default=sys.executable, help="a Python that has polars")
    size = parser.parse_args()
    out = ROOT / "build" / "bench" / "features.json"
    report: dict[str, Any] = {"contenders": {}, "ratios": {}}
    if set(size.parts) != set(PARTS) and out.is_file():
        report = json.loads(out.read_text())
    report["machine"] = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    with tempfile.TemporaryDirectory() as folder:
        for name in size.parts:
            contenders, ratios = PARTS[name](size, size.home or Path(folder))
            report["contenders"] |= contenders
            report["ratios"] |= ratios
            for contender, figures in contenders.items():
                print(f"{contender:<24}" + "  ".join(f"{key} {value:,.2f}" for key, value in figures.items()))
            for key, value in ratios.items():
                print(f"  {key:<40}{value:>14,.2f}", flush=True)
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
