"""The Spark engine compared with exact windows in Spark SQL and with the build on one machine, in one warm session.

    .venv/ml/bin/python tests/bench/features_spark.py HOME

HOME has `lake/transactions`. Each contender runs twice, and the second run counts. The three values of every row
are compared. `wide` is the shipped declaration, whose daily tables are built before. Prints one line of JSON.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Final

import numpy as np
import structlog
from pyspark.sql import SparkSession

from fraud import declaration_file
from fraud.core.declaration import Declaration
from fraud.features import build_daily, build_features
from fraud.job import Context
from fraud.lake import catalog
from fraud.lake.spark import spark_session
from fraud.params import Params
from fraud.settings import Settings

ROOT: Final = Path(__file__).resolve().parents[2]
SQL: Final = """
SELECT *,
  CAST(count(*) OVER hour AS double) AS transaction_velocity_1h,
  CAST(sum(units) OVER week AS double) / CAST(count(*) OVER week * 10000 AS double) AS avg_amount_7d,
  CAST(size(collect_set(merchant_id) OVER month) AS bigint) AS unique_merchants_30d
FROM (SELECT *, CAST(round(amount * 10000) AS bigint) AS units, unix_micros(event_timestamp) AS us FROM transactions)
WINDOW
  hour AS (PARTITION BY user_id ORDER BY us RANGE BETWEEN 3600000000 PRECEDING AND 1 PRECEDING),
  week AS (PARTITION BY user_id ORDER BY us RANGE BETWEEN 604800000000 PRECEDING AND 1 PRECEDING),
  month AS (PARTITION BY user_id ORDER BY us RANGE BETWEEN 2592000000000 PRECEDING AND 1 PRECEDING)
"""


THREE: Final = declaration_file.load(ROOT / "tests/declarations/three.yaml")
WIDE: Final = declaration_file.load_of(ROOT)
NAMES: Final = [feature.name for feature in THREE.windows()]


def context(home: Path, engine: str, declaration: Declaration) -> Context:
    values = {"home": home, "project": ROOT, "feature_engine": engine, "spark_master": "local[2]"}
    settings = Settings.model_validate(values)
    return Context(settings, Params.load(ROOT / "params.yaml"), declaration, structlog.get_logger())


def build(home: Path, engine: str, declaration: Declaration) -> None:
    shutil.rmtree(home / "lake" / "features", ignore_errors=True)
    build_features.run(build_features.Config(full=True), context(home, engine, declaration))


def spark_sql(session: SparkSession, home: Path, out: Path) -> None:
    transactions = catalog.TRANSACTIONS.at(f"file://{home}/lake").open()
    paths = [uri for day in transactions.partitions() for uri in transactions.object_uris(day)]
    session.read.parquet(*paths).createOrReplaceTempView("transactions")
    session.sql(SQL).write.mode("overwrite").parquet(f"file://{out}")


def second(work: Callable[[], None]) -> float:
    work()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def mismatches(session: SparkSession, home: Path, out: Path) -> int:
    """Number of rows on which Spark SQL and the lake differ in any bit."""
    columns = ["transaction_id", *NAMES]
    theirs = session.read.parquet(f"file://{out}").select(columns).toArrow().sort_by("transaction_id")
    ours = catalog.features(THREE.stored_hash).at(f"file://{home}/lake").read_range("2000", "2100", columns)
    assert ours is not None
    ours = ours.sort_by("transaction_id")
    assert ours["transaction_id"].equals(theirs["transaction_id"])
    differ = np.zeros(ours.num_rows, dtype=bool)
    for name in NAMES:
        pair = [table[name].to_pandas().to_numpy(dtype=np.float64) for table in (ours, theirs)]
        differ |= ~((pair[0] == pair[1]) | (np.isnan(pair[0]) & np.isnan(pair[1])))
    return int(differ.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path, help="whose lake has the transactions")
    home = parser.parse_args().home
    out = home / "spark_sql"
    settings = context(home, "spark", WIDE).settings
    with redirect_stdout(sys.stderr), spark_session(settings, "bench") as session:
        session.conf.set("spark.sql.shuffle.partitions", "8")
        build_daily.build(WIDE, context(home, "one-machine", WIDE))
        seconds = {
            "spark_sql": second(lambda: spark_sql(session, home, out)),
            "wide_one_machine": second(lambda: build(home, "one-machine", WIDE)),
            "wide_spark": second(lambda: build(home, "spark", WIDE)),
            "one_machine": second(lambda: build(home, "one-machine", THREE)),
            "spark": second(lambda: build(home, "spark", THREE)),
        }
        wrong = mismatches(session, home, out)
    shutil.rmtree(out)
    print(json.dumps({"seconds": seconds, "mismatches": wrong}))


if __name__ == "__main__":
    main()
