"""Batch scoring, Parquet to Parquet, side by side: same rows, same model, interleaved rounds, one Spark session.

    .venv/ml/bin/python tests/bench/batch.py [--rows 1000000] [--rounds 3] [--small-rounds 1]

Prints a table and writes build/bench/batch.json. `ours` is what the job does between "Spark is up" and "published";
`reference` is ONNX Runtime over pyarrow with both cores and no Spark. The pandas contenders read the finished
vectors, a favour to them.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import mlflow
import numpy as np
import onnxruntime
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import structlog
from pyspark.sql import SparkSession
from pyspark.sql.functions import col, pandas_udf, struct

sys.path.insert(0, str(Path(__file__).parent))

import batch_data

from fraud.core.features import VECTOR_NAMES
from fraud.engines.arrow_vector import vectors
from fraud.engines.scoring import INPUT, SCHEMA
from fraud.io.lake import Dataset
from fraud.io.model_artifact import ModelArtifact
from fraud.io.spark import run_tasks, spark_session
from fraud.jobs import score
from fraud.settings import Settings

ROOT: Final = Path(__file__).parents[2]
DAY: Final = "2026-03-09"
AT_ONCE: Final = 65_536


def ours(spark: SparkSession, lake: str, artifact: ModelArtifact) -> None:
    features, scores = Dataset(lake, "features"), Dataset(lake, "scores")
    source = features.manifest(DAY)
    assert source is not None
    slices = list(score._slices(features, DAY, source))
    task = score._task(scores, artifact, spark.sparkContext.broadcast(artifact.model))
    answers = run_tasks(spark, task, slices, structlog.get_logger())
    score._publish(scores, DAY, source, answers, artifact)


def reference(lake: str, model: bytes, out: Path) -> None:
    """One process, ONNX Runtime's own threads, pyarrow's own threads."""
    session = onnxruntime.InferenceSession(model)
    with pq.ParquetWriter(out / "reference.parquet", SCHEMA, compression="zstd") as writer:
        for uri in Dataset(lake, "features").object_uris(DAY):
            file = pq.ParquetFile(uri.removeprefix("file://"))
            for batch in file.iter_batches(AT_ONCE, columns=INPUT.names):
                rows = pa.Table.from_batches([batch])
                answers = session.run(["fraud_probability"], {"features": vectors(rows)})[0]
                writer.write_table(_scored(rows, answers))


def _scored(rows: pa.Table, answers: np.ndarray) -> pa.Table:
    n = rows.num_rows
    columns = [rows["transaction_id"], rows["user_id"], rows["event_timestamp"], pa.array(answers)]
    return pa.table([*columns, pa.array(answers >= 0.5), pa.repeat("1", n), pa.repeat("hash", n)], schema=SCHEMA)


def rows_through_spark(spark: SparkSession, lake: str, model: bytes, out: Path) -> None:
    """Spark reads, hands rows to Python as Arrow, takes them back and writes."""
    broadcast = spark.sparkContext.broadcast(model)

    def score_batches(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(broadcast.value, options)
        for batch in batches:
            rows = pa.Table.from_batches([batch])
            answers = session.run(["fraud_probability"], {"features": vectors(rows)})[0]
            yield from _scored(rows, answers).to_batches()

    kinds = "transaction_id string, user_id string, event_timestamp timestamp, fraud_probability float, "
    kinds += "is_fraud boolean, model_version string, feature_hash string"
    read = spark.read.parquet(*Dataset(lake, "features").object_uris(DAY)).select(*INPUT.names)
    read.mapInArrow(score_batches, kinds).write.mode("overwrite").parquet(str(out / "rows"))


def handbook(spark: SparkSession, flat: Path, model: Path, out: Path) -> None:
    """A pandas UDF around `mlflow.pyfunc.load_model`."""
    path = str(model)

    def predict(batches: Iterator[pd.DataFrame]) -> Iterator[pd.Series]:
        loaded = mlflow.pyfunc.load_model(path)
        for batch in batches:
            yield pd.Series(np.asarray(loaded.predict(batch), dtype=np.float64))

    predict.__annotations__ = {"batches": Iterator[pd.DataFrame], "return": Iterator[pd.Series]}
    udf = pandas_udf(predict, "double")
    read = spark.read.parquet(str(flat))
    scored = read.select("transaction_id", udf(struct(*[col(name) for name in VECTOR_NAMES])).alias("p"))
    scored.write.mode("overwrite").parquet(str(out / "handbook"))


def spark_udf(spark: SparkSession, flat: Path, model: Path, out: Path) -> None:
    udf = mlflow.pyfunc.spark_udf(spark, str(model), env_manager="local", result_type="double")
    read = spark.read.parquet(str(flat))
    scored = read.select("transaction_id", udf(struct(*[col(name) for name in VECTOR_NAMES])).alias("p"))
    scored.write.mode("overwrite").parquet(str(out / "spark_udf"))


def timed(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def resident_mb(root: int) -> float:
    """Highest resident memory of a process and all below it, added up."""
    children: dict[int, list[int]] = {}
    peak: dict[int, float] = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        except (FileNotFoundError, ProcessLookupError):
            continue
        pid = int(fields["Pid"])
        children.setdefault(int(fields["PPid"]), []).append(pid)
        peak[pid] = int(fields.get("VmHWM", "0 kB").split()[0]) / 1024
    total, waiting = 0.0, [root]
    while waiting:
        pid = waiting.pop()
        total += peak.get(pid, 0.0)
        waiting += children.get(pid, [])
    return total


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--small-rounds", type=int, default=1, help="of the pandas contenders, at 1M rows at most")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fraud-bench-batch-") as name:
        folder = Path(name)
        settings = Settings(home=folder, project=ROOT)
        artifact, pyfunc = batch_data.write_model(folder)
        batch_data.write_features(settings.lake_uri, DAY, arguments.rows)
        flat_rows = min(arguments.rows, 1_000_000)
        batch_data.write_flat(settings.lake_uri, DAY, folder / "flat.parquet", flat_rows)
        figures = measure(settings, artifact, pyfunc, folder, arguments, flat_rows)
    build = ROOT / "build/bench"
    build.mkdir(parents=True, exist_ok=True)
    (build / "batch.json").write_text(json.dumps(figures, indent=1))
    for contender, found in figures["contenders"].items():
        print(f"{contender:<22}" + "".join(f"{key} {value:>12,.1f}   " for key, value in found.items()))
    print("\n".join(f"{key:<30}{value:,.2f}" for key, value in figures["ratios"].items()))


def measure(
    settings: Settings, artifact: ModelArtifact, pyfunc: Path, folder: Path, arguments: argparse.Namespace, flat: int
) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {}
    began = time.perf_counter()
    with spark_session(settings, "bench") as spark:
        start = time.perf_counter() - began
        lake, table = settings.lake_uri, folder / "flat.parquet"
        ours(spark, lake, artifact)  # workers up, files in the cache
        shutil.rmtree(folder / "lake/scores")
        peak = resident_mb(os.getpid())
        for _ in range(arguments.rounds):
            shutil.rmtree(folder / "lake/scores", ignore_errors=True)
            seconds.setdefault("ours", []).append(timed(lambda: ours(spark, lake, artifact)))
            seconds.setdefault("reference", []).append(timed(lambda: reference(lake, artifact.model, folder)))
            through = timed(lambda: rows_through_spark(spark, lake, artifact.model, folder))
            seconds.setdefault("rows through Spark", []).append(through)
        for _ in range(arguments.small_rounds):
            seconds.setdefault("handbook", []).append(timed(lambda: handbook(spark, table, pyfunc, folder)))
            seconds.setdefault("spark_udf", []).append(timed(lambda: spark_udf(spark, table, pyfunc, folder)))
    median = {contender: statistics.median(found) for contender, found in seconds.items()}
    rows = {name: flat if name in ("handbook", "spark_udf") else arguments.rows for name in median}
    rate = {name: rows[name] / median[name] for name in median}
    contenders = {name: {"rows": rows[name], "s": median[name], "rows_per_s": rate[name]} for name in median}
    return {
        "machine": {"cpus": os.cpu_count(), "platform": platform.platform(), "rounds": arguments.rounds},
        "contenders": contenders,
        "ratios": {
            "vs_ort_reference_warm": rate["ours"] / rate["reference"],
            "vs_ort_reference_with_jvm": median["reference"] / (median["ours"] + start),
            "vs_rows_through_spark": rate["ours"] / rate["rows through Spark"],
            "vs_handbook": rate["ours"] / rate["handbook"],
            "vs_spark_udf": rate["ours"] / rate["spark_udf"],
            "rows_per_s": rate["ours"],
            "peak_rss_mb": peak,
            "jvm_start_s": start,
        },
    }


if __name__ == "__main__":
    main()
