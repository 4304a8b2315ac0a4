"""The as-of join of Feast's views against Feast's own join."""

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.data_format import ParquetFormat
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.types import Float64, Int64

from fraud.features import feast_store

UTC_US = pa.timestamp("us", "UTC")
DAY_US = 86_400_000_000
START = 1_767_225_600_000_000


def view(folder: Path, key: str, rows: dict[tuple[str, int], float]) -> FeatureView:
    """A view of rows (id, time) -> value."""
    table = pa.table(
        {
            key: pa.array([name for name, _ in rows], pa.string()),
            "event_timestamp": pa.array([START + at for _, at in rows], UTC_US),
            "created_timestamp": pa.array([START + at for _, at in rows], UTC_US),
            f"{key}_mean": pa.array([None if value < 0.1 else value for value in rows.values()], pa.float64()),
            f"{key}_distinct": pa.array([int(value * 100) for value in rows.values()], pa.int64()),
        }
    )
    pq.write_table(table, folder / f"{key}.parquet")
    entity = Entity(name=key, join_keys=[key], value_type=ValueType.STRING)
    source = FileSource(
        name=key, path=str(folder / f"{key}.parquet"), file_format=ParquetFormat(), timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    )  # fmt: skip
    return FeatureView(
        name=f"{key}_view", entities=[entity], source=source, ttl=timedelta(days=1, microseconds=-1),
        schema=[Field(name=f"{key}_mean", dtype=Float64), Field(name=f"{key}_distinct", dtype=Int64)],
    )  # fmt: skip


def store(folder: Path, kind: str, views: list[FeatureView]) -> FeatureStore:
    made = FeatureStore(
        config=RepoConfig(
            project="x", provider="local", entity_key_serialization_version=3,
            registry={"registry_type": "sql", "path": f"sqlite:///{folder}/{kind[-8:]}.db"},
            offline_store={"type": kind}, online_store={"type": "sqlite", "path": f"{folder}/online.db"},
        )
    )  # fmt: skip
    made.apply([item for v in views for item in (v, v.batch_source)] + [e for v in views for e in entities(v)])
    return made


def entities(of: FeatureView) -> list[Entity]:
    return [Entity(name=name, join_keys=[name], value_type=ValueType.STRING) for name in of.entities]


@pytest.mark.parametrize("seed", range(4))
def test_the_as_of_join_equals_feasts_own(tmp_path: Path, seed: int) -> None:
    """Events with null and unknown ids, at the exact times of rows, and a microsecond around the ends of the ttl."""
    rng = np.random.default_rng(seed)
    views = []
    times = rng.integers(0, 5 * DAY_US, 40)
    for key in ("user_id", "shop_id"):
        own = {(f"{key} {rng.integers(5)}", int(at)): float(rng.random()) for at in rng.choice(times, 40)}
        views.append(view(tmp_path, key, own))
    edges = np.array([0, DAY_US, DAY_US - 1, DAY_US + 1, -1, 1])
    at = rng.choice(times, 300) + rng.choice(edges, 300)
    events = pa.table(
        {
            "event_timestamp": pa.array(START + at, UTC_US),
            "user_id": [None if i == 6 else f"user_id {i}" for i in rng.integers(0, 7, 300)],
            "shop_id": [None if i == 6 else f"shop_id {i}" for i in rng.integers(0, 7, 300)],
            "row": range(300),
        }
    )
    found = []
    for kind in ("duckdb", "fraud.features.feast_offline.AsOfOfflineStore"):
        refs = [f"{v.name}:{field.name}" for v in views for field in v.schema if field.name not in v.join_keys]
        with feast_store._quietly():
            job = store(tmp_path, kind, views).get_historical_features(entity_df=events.to_pandas(), features=refs)
            found.append(job.to_arrow())
    own, ours = found[0].sort_by("row"), found[1]
    assert ours["row"].to_pylist() == list(range(events.num_rows))
    assert ours.select(own.column_names).to_pylist() == own.to_pylist()
    assert 0 < ours["user_id_mean"].null_count < events.num_rows


def test_a_view_without_rows_gives_nulls(tmp_path: Path) -> None:
    """A daily table of which no snapshot was built."""
    events = pd.DataFrame({"event_timestamp": [pd.Timestamp(START, unit="us", tz="UTC")], "user_id": ["a"]})
    feast = store(tmp_path, "fraud.features.feast_offline.AsOfOfflineStore", [view(tmp_path, "user_id", {})])
    with feast_store._quietly():
        job = feast.get_historical_features(entity_df=events, features=["user_id_view:user_id_distinct"])
        assert job.to_arrow()["user_id_distinct"].to_pylist() == [None]


def test_the_result_can_be_saved_as_a_data_set(tmp_path: Path) -> None:
    own = view(tmp_path, "user_id", {("a", 0): 0.5})
    events = pd.DataFrame(
        {"event_timestamp": [pd.Timestamp(START + 1, unit="us", tz="UTC")] * 2, "user_id": ["a", "b"]}
    )
    feast = store(tmp_path, "fraud.features.feast_offline.AsOfOfflineStore", [own])
    with feast_store._quietly():
        job = feast.get_historical_features(entity_df=events, features=["user_id_view:user_id_distinct"])
        job.persist(SavedDatasetFileStorage(str(tmp_path / "saved.parquet")))
    assert pq.read_table(tmp_path / "saved.parquet")["user_id_distinct"].to_pylist() == [50, None]


def test_the_import_of_feast_leaves_torch_and_typeguard_as_they_were() -> None:
    """In a process of its own, because the first import of Feast decides."""
    code = """
import sys, typeguard
before = typeguard.typechecked
from fraud.features import feast_store
assert "torch" not in sys.modules
assert typeguard.typechecked is before
import torch
print(torch.tensor([2]).item())
"""
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "2\n"
