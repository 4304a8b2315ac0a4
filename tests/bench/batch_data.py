"""Input of the batch benchmark: a day of features, and a model of 300 trees as ONNX and as an MLflow pyfunc."""

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import mlflow
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from mlflow.models import ModelSignature
from mlflow.types.schema import ColSpec, Schema

from fraud.core.contract import CATEGORIES, US_PER_DAY
from fraud.core.features import CATEGORY_OFFSET, VECTOR_NAMES, definition_hash
from fraud.features.engines.arrow_vector import vectors
from fraud.lake import catalog
from fraud.lake.dataset import ROWS_PER_OBJECT, Dataset
from fraud.params import Params
from fraud.registry.model_versions import ModelArtifact
from fraud.scoring.scorer import INPUT
from fraud.training.ladder import boosting
from fraud.training.ladder.levels import Fitted, Sample

TREES, LEARNED_ROWS = 300, 60_000


def write_features(lake_uri: str, day: str, rows: int, dataset: str = "features") -> None:
    """Write a partition with the schema of `features`, one object at a time. Equal arguments give equal bytes."""

    midnight_us = (date.fromisoformat(day) - date(1970, 1, 1)).days * US_PER_DAY

    def objects() -> Iterator[pa.Table]:
        for first in range(0, rows, ROWS_PER_OBJECT):
            n = min(ROWS_PER_OBJECT, rows - first)
            rng = np.random.default_rng([first, date.fromisoformat(day).toordinal()])
            at = midnight_us + np.sort(rng.integers(0, 86_400_000_000, n))
            yield pa.table(
                {
                    "transaction_id": [f"{day}-{first + i:021x}" for i in range(n)],
                    "user_id": pa.array(np.char.add("user-", rng.integers(0, 100_000, n).astype(str))),
                    "event_timestamp": pa.array(at, pa.timestamp("us", tz="UTC")),
                    "merchant_category": np.array(CATEGORIES)[rng.integers(0, len(CATEGORIES), n)],
                    "amount": np.rint(rng.lognormal(3.5, 1, n) * 1e4 + 100) / 1e4,
                    "distance_from_home": np.where(rng.random(n) < 0.15, None, rng.exponential(10, n)),
                    "transaction_velocity_1h": rng.poisson(0.3, n).astype(np.float64),
                    "avg_amount_7d": np.where(rng.random(n) < 0.02, None, rng.lognormal(3.5, 0.4, n)),
                    "unique_merchants_30d": rng.integers(0, 40, n),
                },
                schema=INPUT,
            )

    Dataset(lake_uri, dataset).publish(day, objects())


def write_days(lake_uri: str, sizes: list[int]) -> dict[int, str]:
    """A day of `features` for each size: the largest, and its first objects for the others. An existing day is kept."""
    features = catalog.FEATURES.at(lake_uri)
    days = {rows: f"2026-03-{number:02}" for number, rows in enumerate(sizes, 1)}
    largest = days[max(sizes)]
    made = features.manifest(largest)
    if made is None or made.rows != max(sizes):
        write_features(lake_uri, largest, max(sizes))
    for rows, day in days.items():
        whole = features.manifest(largest)
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
            features.commit(day, chosen)
    return days


def write_flat(lake_uri: str, day: str, path: Path, rows: int) -> None:
    """Finished vectors, one column per value, for contenders that read vectors."""
    table = catalog.FEATURES.at(lake_uri).read(day).slice(0, rows)
    columns = dict(zip(VECTOR_NAMES, vectors(table).T, strict=True))
    pq.write_table(pa.table({"transaction_id": table["transaction_id"], **columns}), path, row_group_size=100_000)


def write_model(folder: Path) -> tuple[ModelArtifact, Path]:
    """The artifact of a model as training registers it, and the path of an MLflow model with equal predictions."""
    data = _trees().to_onnx()
    path = folder / "pyfunc"
    (folder / "model.onnx").write_bytes(data)
    signature = ModelSignature(Schema([ColSpec("float", name) for name in VECTOR_NAMES]), Schema([ColSpec("double")]))
    mlflow.pyfunc.save_model(
        path, python_model=str(Path(__file__).with_name("batch_pyfunc.py")), signature=signature,
        artifacts={"model": str(folder / "model.onnx")}, pip_requirements=["onnxruntime"],
    )  # fmt: skip
    return ModelArtifact("1", "bench", data, "bench", definition_hash(), 0.5), path


def _trees() -> Fitted:
    """TREES trees with the settings of params.yaml, without early stopping."""
    rng = np.random.default_rng(0)
    wide = len(VECTOR_NAMES)
    vectors = rng.gamma(2, 50, (LEARNED_ROWS, wide)).astype(np.float32)
    vectors[:, CATEGORY_OFFSET:] = 0
    vectors[np.arange(LEARNED_ROWS), CATEGORY_OFFSET + rng.integers(0, wide - CATEGORY_OFFSET, LEARNED_ROWS)] = 1
    logit = vectors[:, 0] / 50 - vectors[:, 6] / 40 + vectors[:, 5] / 60 - 4
    sample = Sample(vectors, rng.random(LEARNED_ROWS) < 1 / (1 + np.exp(-logit)))
    training = Params.load(Path(__file__).parents[2] / "params.yaml").training
    never = {"max_iter": TREES, "early_stopping_rounds": TREES + 1}
    params = training.model_copy(update={"boosting": training.boosting.model_copy(update=never)})
    return boosting.fit(sample, sample, params, lambda *_args, **_facts: None)
