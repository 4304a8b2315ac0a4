"""Input of the batch benchmark: days of features, a model of 300 trees as ONNX and as an MLflow pyfunc."""

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import mlflow
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from mlflow.models import ModelSignature
from mlflow.types.schema import ColSpec, Schema

from fraud import declaration_file
from fraud.core.contract import US_PER_DAY
from fraud.core.declaration_types import CategoryColumn
from fraud.core.plan import Plan
from fraud.features.engines.arrow_vector import vectors
from fraud.lake import catalog
from fraud.lake.dataset import Dataset
from fraud.lake.objects import ROWS_PER_OBJECT
from fraud.lake.records import Partition
from fraud.params import Params
from fraud.registry.model_versions import ModelArtifact
from fraud.scoring.scorer import input_schema, nullable
from fraud.training.ladder import boosting
from fraud.training.ladder.levels import Fitted, Inputs, Sample

TREES, LEARNED_ROWS = 300, 60_000
ROOT = Path(__file__).parents[2]
THREE, SHIPPED = ROOT / "tests/declarations/three.yaml", ROOT / "feature_repo/features.yaml"


def plan_of(declared: Path) -> Plan:
    """The plan of a declaration; a learnt category column has as many values as it may."""
    found = declaration_file.load(declared)
    sizes = {name: column.learn or 0 for name, column in found.columns.items() if isinstance(column, CategoryColumn)}
    unknown = {name: column.unknown for name, column in found.columns.items() if isinstance(column, CategoryColumn)}
    lists = {name: (*(f"v{n:03}" for n in range(sizes[name] - 1)), unknown[name]) for name in found.to_learn}
    return Plan(found.resolved(lists))


def _values(name: str, kind: pa.DataType, plan: Plan, rng: np.random.Generator, n: int) -> pa.Array:
    """n values of a column of `features`; 2 to 15% null where a null is possible."""
    column = plan.declaration.columns.get(name)
    missing = rng.random(n) < (0.15 if column else 0.02) if name in nullable(plan) else None
    if pa.types.is_string(kind):
        values = (column.values if isinstance(column, CategoryColumn) else None) or ("other",)
        return pa.array(np.array(values)[rng.integers(0, len(values), n)], kind)
    if name == "amount":
        return pa.array(np.rint(rng.lognormal(3.5, 1, n) * 1e4 + 100) / 1e4)
    if pa.types.is_boolean(kind):
        return pa.array(rng.random(n) < 0.5, mask=missing)
    if pa.types.is_integer(kind):
        return pa.array(rng.integers(0, 40, n), kind, mask=missing)
    counted = missing is None
    return pa.array(rng.poisson(0.3, n).astype(np.float64) if counted else rng.lognormal(3.5, 0.4, n), mask=missing)


def write_features(features: Dataset, day: str, rows: int, plan: Plan) -> None:
    """Write a partition with the columns that scoring reads, one object at a time. Equal arguments give equal bytes."""
    schema = input_schema(plan)
    midnight_us = (date.fromisoformat(day) - date(1970, 1, 1)).days * US_PER_DAY

    def objects() -> Iterator[pa.Table]:
        for first in range(0, rows, ROWS_PER_OBJECT):
            n = min(ROWS_PER_OBJECT, rows - first)
            rng = np.random.default_rng([first, date.fromisoformat(day).toordinal()])
            at = midnight_us + np.sort(rng.integers(0, 86_400_000_000, n))
            fixed = {
                "transaction_id": [f"{day}-{first + i:021x}" for i in range(n)],
                "user_id": pa.array(np.char.add("user-", rng.integers(0, 100_000, n).astype(str))),
                "event_timestamp": pa.array(at, pa.timestamp("us", tz="UTC")),
            }
            others = {f.name: _values(f.name, f.type, plan, rng, n) for f in schema if f.name not in fixed}
            yield pa.table({name: (fixed | others)[name] for name in schema.names}, schema=schema)

    features.publish(day, objects())


def write_days(features: Dataset, sizes: list[int], plan: Plan) -> dict[int, str]:
    """A day of `features` for each size: the largest, and its first objects for the others. An existing day is kept."""
    days = {rows: f"2026-03-{number:02}" for number, rows in enumerate(sizes, 1)}
    largest = days[max(sizes)]
    made = features.partition(largest)
    if made is None or made.rows != max(sizes):
        write_features(features, largest, max(sizes), plan)
    for rows, day in days.items():
        whole = features.partition(largest)
        assert whole is not None
        chosen = whole.objects[: rows // ROWS_PER_OBJECT]
        assert sum(found.rows for found in chosen) == rows
        if day != largest:
            for found in chosen:
                there, here = (
                    Path(f"{features.uri.removeprefix('file://')}/dt={d}/{found.name}") for d in (largest, day)
                )
                here.parent.mkdir(parents=True, exist_ok=True)
                here.unlink(missing_ok=True)
                here.hardlink_to(there)
            features.commit([Partition(name=day, objects=chosen)])
    return days


def write_flat(lake_uri: str, day: str, path: Path, rows: int, plan: Plan) -> None:
    """Finished vectors, one column per value, for contenders that read vectors."""
    table = catalog.features(plan.stored_hash).at(lake_uri).read(day).slice(0, rows)
    columns = dict(zip(plan.vector.names, vectors(table, plan).T, strict=True))
    pq.write_table(pa.table({"transaction_id": table["transaction_id"], **columns}), path, row_group_size=100_000)


def write_model(folder: Path, plan: Plan) -> tuple[ModelArtifact, Path]:
    """The artifact of a model as training registers it, and the path of an MLflow model with equal predictions."""
    data = trees(plan).to_onnx()
    path = folder / "pyfunc"
    (folder / "model.onnx").write_bytes(data)
    inputs = Schema([ColSpec("float", name) for name in plan.vector.names])
    signature = ModelSignature(inputs, Schema([ColSpec("double")]))
    mlflow.pyfunc.save_model(
        path, python_model=str(Path(__file__).with_name("batch_pyfunc.py")), signature=signature,
        artifacts={"model": str(folder / "model.onnx")}, pip_requirements=["onnxruntime"],
    )  # fmt: skip
    return ModelArtifact("1", "bench", data, "bench", plan.hash, 0.5, plan, b"", ""), path


def trees(plan: Plan) -> Fitted:
    """TREES trees with the settings of params.yaml, without early stopping, of rows like those of `write_features`."""
    rng, schema = np.random.default_rng(0), input_schema(plan)
    at = pa.array(rng.integers(0, US_PER_DAY, LEARNED_ROWS), pa.timestamp("us", tz="UTC"))
    columns = [_values(f.name, f.type, plan, rng, LEARNED_ROWS) for f in list(schema)[3:]]
    ids = pa.nulls(LEARNED_ROWS, pa.string())
    found = vectors(pa.table([ids, ids, at, *columns], schema=schema), plan)
    weights = rng.normal(0, 1, found.shape[1]) / np.maximum(found.std(axis=0), 1e-3)
    logit = (found - found.mean(axis=0)) @ weights / np.sqrt(len(weights)) * 2 - 3
    fraud = rng.random(LEARNED_ROWS) < 1 / (1 + np.exp(-logit))
    sample = Sample(found, fraud, Inputs.of(plan.declaration, plan.vector.names))
    training = Params.load(ROOT / "params.yaml").training
    never = {"max_iter": TREES, "early_stopping_rounds": TREES + 1}
    params = training.model_copy(update={"boosting": training.boosting.model_copy(update=never)})
    return boosting.fit(sample, sample, params, lambda *_args, **_facts: None)
