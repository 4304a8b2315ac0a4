"""Batch scoring from Parquet to Parquet: same rows and model, interleaved rounds, one Spark session.

    .venv/ml/bin/python tests/bench/batch.py [--rows 1000000 10000000] [--rounds 2] [--spark-rounds 1] [--only-ours]
                                             [--wide]

Prints a table and writes build/bench/batch.json, of the declaration with three window features; with --wide, of the
shipped one, into build/bench/batch-wide.json. `ours` is the job from the started Spark session to the published
partition. `reference` is ONNX Runtime and pyarrow on both cores, without Spark. Contenders that pass rows through Spark
run in the smallest size; those over pandas read finished vectors, which favours them. Ratios are of the largest size,
except those to contenders that did not run there. `--home` keeps the rows for the next run.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import mlflow
import numpy as np
import onnxruntime
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import structlog
from pandas.util import hash_array
from pyspark.sql import SparkSession
from pyspark.sql.functions import col, pandas_udf, struct

sys.path.insert(0, str(Path(__file__).parent))

import batch_data

from fraud.core.plan import Plan
from fraud.features.engines.arrow_vector import vectors
from fraud.lake import catalog
from fraud.lake.spark import run_tasks, spark_session
from fraud.registry.model_versions import ModelArtifact
from fraud.scoring import score
from fraud.scoring.scorer import SCHEMA, Scorer, input_schema
from fraud.scoring.slices import read_slice, scoring_task, slices_of
from fraud.scoring.trees import batch_model
from fraud.settings import Settings

ROOT: Final = Path(__file__).parents[2]
AT_ONCE: Final = 65_536


def ours(spark: SparkSession, lake: str, day: str, artifact: ModelArtifact) -> None:
    features, scores = catalog.features(artifact.plan.stored_hash).at(lake).open(), catalog.SCORES.at(lake)
    source = features.partition(day)
    assert source is not None
    slices = list(slices_of(features, day, source))
    task = scoring_task(scores, artifact, spark.sparkContext.broadcast(artifact.model))
    answers = run_tasks(spark, task, slices, lambda piece: piece.end - piece.first, structlog.get_logger())
    scores.commit(score._checked_days(list(zip(slices, answers, strict=True)), {day: source}, artifact))


def reference(lake: str, day: str, artifact: ModelArtifact, out: Path) -> None:
    """One process, with the threads of ONNX Runtime and pyarrow."""
    session, plan = onnxruntime.InferenceSession(artifact.model), artifact.plan
    with pq.ParquetWriter(out / "reference.parquet", SCHEMA, compression="zstd") as writer:
        for uri in catalog.features(plan.stored_hash).at(lake).object_uris(day):
            file = pq.ParquetFile(uri.removeprefix("file://"))
            for batch in file.iter_batches(AT_ONCE, columns=input_schema(plan).names):
                rows = pa.Table.from_batches([batch])
                answers = session.run(["fraud_probability"], {"features": vectors(rows, plan)})[0]
                writer.write_table(_scored(rows, answers))


def _scored(rows: pa.Table, answers: np.ndarray) -> pa.Table:
    n = rows.num_rows
    columns = [rows["transaction_id"], rows["user_id"], rows["event_timestamp"], pa.array(answers)]
    return pa.table([*columns, pa.array(answers >= 0.5), pa.repeat("1", n), pa.repeat("hash", n)], schema=SCHEMA)


def rows_through_spark(spark: SparkSession, lake: str, day: str, artifact: ModelArtifact, out: Path) -> None:
    """Spark reads, passes rows to Python as Arrow batches, receives the scores and writes them."""
    broadcast = spark.sparkContext.broadcast(artifact.model)
    declaration, stored_hash = artifact.plan.declaration, artifact.plan.stored_hash

    def score_batches(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session, plan = onnxruntime.InferenceSession(broadcast.value, options), Plan(declaration)
        for batch in batches:
            rows = pa.Table.from_batches([batch])
            answers = session.run(["fraud_probability"], {"features": vectors(rows, plan)})[0]
            yield from _scored(rows, answers).to_batches()

    kinds = "transaction_id string, user_id string, event_timestamp timestamp, fraud_probability float, "
    kinds += "is_fraud boolean, model_version string, feature_hash string"
    objects = catalog.features(stored_hash).at(lake).object_uris(day)
    read = spark.read.parquet(*objects).select(*input_schema(artifact.plan).names)
    read.mapInArrow(score_batches, kinds).write.mode("overwrite").parquet(str(out / "rows"))


def handbook(spark: SparkSession, flat: Path, names: tuple[str, ...], model: Path, out: Path) -> None:
    """A pandas UDF around `mlflow.pyfunc.load_model`."""
    path = str(model)

    def predict(batches: Iterator[pd.DataFrame]) -> Iterator[pd.Series]:
        loaded = mlflow.pyfunc.load_model(path)
        for batch in batches:
            yield pd.Series(np.asarray(loaded.predict(batch), dtype=np.float64))

    predict.__annotations__ = {"batches": Iterator[pd.DataFrame], "return": Iterator[pd.Series]}
    udf = pandas_udf(predict, "double")
    read = spark.read.parquet(str(flat))
    scored = read.select("transaction_id", udf(struct(*[col(name) for name in names])).alias("p"))
    scored.write.mode("overwrite").parquet(str(out / "handbook"))


def spark_udf(spark: SparkSession, flat: Path, names: tuple[str, ...], model: Path, out: Path) -> None:
    udf = mlflow.pyfunc.spark_udf(spark, str(model), env_manager="local", result_type="double")
    read = spark.read.parquet(str(flat))
    scored = read.select("transaction_id", udf(struct(*[col(name) for name in names])).alias("p"))
    scored.write.mode("overwrite").parquet(str(out / "spark_udf"))


def timed(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


@contextmanager
def peak_mb(peaks: dict[int, float], rows: int) -> Iterator[None]:
    """Peak memory of this process and its descendants. A page that several processes share counts once."""
    ended, seen = threading.Event(), [0.0]

    def watch() -> None:
        while not ended.wait(0.25):
            seen.append(sum(_shares_mb(os.getpid())))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
    peaks[rows] = max(*seen, peaks.get(rows, 0.0))


def _shares_mb(root: int) -> Iterator[float]:
    children: dict[int, list[int]] = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            children[int(stat.read_text().rpartition(")")[2].split()[1])].append(int(stat.parent.name))
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        waiting += children[pid]
        with suppress(FileNotFoundError, ProcessLookupError):
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            yield int(text.partition("\nPss:")[2].split()[0]) / 1024


def profile(lake: str, day: str, artifact: ModelArtifact) -> dict[str, float]:
    """Seconds per million rows on one core, for each step of a task over the first object of the day."""
    features, scores = catalog.features(artifact.plan.stored_hash).at(lake).open(), catalog.SCORES.at(lake)
    source, model = features.partition(day), batch_model(artifact.model)
    assert source is not None
    scorer = Scorer(model, artifact.version, artifact.plan, artifact.threshold)
    seconds, rows = Counter[str](), source.objects[0].rows
    for piece in (s for s in slices_of(features, day, source) if s.object == source.objects[0]):
        marks = [time.perf_counter()]
        table = read_slice(piece, scorer.input)
        marks.append(time.perf_counter())
        matrix = vectors(table, artifact.plan)
        marks.append(time.perf_counter())
        model.probabilities(matrix)
        marks.append(time.perf_counter())
        scored, _ = scorer.score(table)
        marks.append(time.perf_counter())
        hash_array(scored["transaction_id"].to_numpy(), categorize=False)
        marks.append(time.perf_counter())
        scores.put("profile", scored)
        marks.append(time.perf_counter())
        read, matrices, trees, whole, hashes, write = np.diff(np.array(marks)).tolist()
        seconds.update({"read and verify": read, "vectors": matrices, "trees": trees})
        seconds.update({"checks and columns": whole - matrices - trees, "hash ids": hashes, "write": write})
    return {name: value * 1e6 / rows for name, value in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000], help="sizes, each a multiple of a million")
    parser.add_argument("--rounds", type=int, default=3, help="of ours and the reference, at each size")
    parser.add_argument("--spark-rounds", type=int, default=1, help="of the contenders that hand rows to Spark")
    parser.add_argument("--only-ours", action="store_true", help="is time linear in rows, and memory bounded?")
    parser.add_argument("--home", type=Path, help="a folder to keep the rows in; default a temporary one")
    parser.add_argument("--only-data", action="store_true", help="write the rows into --home, and no more")
    parser.add_argument("--wide", action="store_true", help="the shipped declaration instead of three window features")
    arguments = parser.parse_args()
    plan = batch_data.plan_of(batch_data.SHIPPED if arguments.wide else batch_data.THREE)
    with tempfile.TemporaryDirectory(prefix="fraud-bench-batch-") as name:
        settings = Settings(home=arguments.home or Path(name), project=ROOT)
        features = catalog.features(plan.stored_hash).at(settings.lake_uri)
        days = batch_data.write_days(features, sorted(arguments.rows), plan)
        if arguments.only_data:
            return
        figures = measure(settings, days, Path(name), plan, arguments)
    build = ROOT / "build/bench"
    build.mkdir(parents=True, exist_ok=True)
    kind = ("-wide" if arguments.wide else "") + ("-linear" if arguments.only_ours else "")
    (build / f"batch{kind}.json").write_text(json.dumps(figures, indent=1))
    for contender, found in figures["contenders"].items():
        print(f"{contender:<32}" + "".join(f"{key} {value:>12,.1f}   " for key, value in found.items()))
    for part in ("ratios", "profile_s_per_million_rows"):
        print("\n".join(f"{key:<32}{value:,.2f}" for key, value in figures[part].items()))


def measure(
    settings: Settings, days: dict[int, str], folder: Path, plan: Plan, arguments: argparse.Namespace
) -> dict[str, Any]:
    """`days` are the sizes, ascending, with the day of each."""
    lake, table, scores = settings.lake_uri, folder / "flat.parquet", settings.home / "lake/scores"
    artifact, pyfunc = batch_data.write_model(folder, plan)
    names = plan.vector.names
    small, large = min(days), max(days)
    seconds: dict[tuple[str, int], list[float]] = defaultdict(list)
    began = time.perf_counter()
    with spark_session(settings, "bench") as spark:
        start = time.perf_counter() - began
        ours(spark, lake, days[small], artifact)  # workers up, kernel compiled
        peaks: dict[int, float] = {}
        for _ in range(arguments.rounds):
            for rows, day in days.items():
                shutil.rmtree(scores, ignore_errors=True)
                with peak_mb(peaks, rows):
                    seconds["ours", rows].append(timed(lambda day=day: ours(spark, lake, day, artifact)))
                if not arguments.only_ours:
                    taken = timed(lambda day=day: reference(lake, day, artifact, folder))
                    seconds["reference", rows].append(taken)
        if not arguments.only_ours:
            batch_data.write_flat(lake, days[small], table, small, plan)
        for _ in range(0 if arguments.only_ours else arguments.spark_rounds):
            through = timed(lambda: rows_through_spark(spark, lake, days[small], artifact, folder))
            seconds["rows through Spark", small].append(through)
            seconds["handbook", small].append(timed(lambda: handbook(spark, table, names, pyfunc, folder)))
            seconds["spark_udf", small].append(timed(lambda: spark_udf(spark, table, names, pyfunc, folder)))
    steps = profile(lake, days[large], artifact)
    shutil.rmtree(scores, ignore_errors=True)
    rate = {key: key[1] / statistics.median(found) for key, found in seconds.items()}
    ratios = {"rows_per_s": rate["ours", large], "peak_rss_mb": peaks[large], "jvm_start_s": start}
    for rows in days:
        ratios[f"s_per_row_{rows}_over_{small}"] = rate["ours", small] / rate["ours", rows]
        ratios[f"peak_rss_mb_{rows}"] = peaks[rows]
    if not arguments.only_ours:
        with_jvm = large / (large / rate["ours", large] + start)
        ratios["vs_ort_reference_warm"] = rate["ours", large] / rate["reference", large]
        ratios["vs_ort_reference_with_jvm"] = with_jvm / rate["reference", large]
        for key, name in (("rows_through_spark", "rows through Spark"), ("handbook",) * 2, ("spark_udf",) * 2):
            ratios[f"vs_{key}"] = rate["ours", small] / rate[name, small]
    return {
        "machine": {"cpus": os.cpu_count(), "platform": platform.platform(), "rounds": arguments.rounds},
        "contenders": {
            f"{name}, {rows:,} rows": {"s": rows / rate[name, rows], "rows_per_s": rate[name, rows]}
            for name, rows in rate
        },
        "ratios": ratios,
        "profile_s_per_million_rows": steps,
    }


if __name__ == "__main__":
    main()
