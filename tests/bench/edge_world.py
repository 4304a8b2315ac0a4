"""Simulated payments with their histories and daily values, and the four levels of the ladder trained on them.

    .venv/ml/bin/python tests/bench/edge_world.py --out FOLDER [--users 400] [--days 60]

Writes FOLDER/level{0..3}/model.onnx and serving.json, as a registered version has them. The vectors are computed from
the payments in memory, without a lake; the daily values of a merchant are drawn at random.
"""

import argparse
import json
from collections.abc import Collection
from dataclasses import dataclass
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from rest_replay_world import resolved
from threadpoolctl import threadpool_limits

from fraud import declaration_file
from fraud.core.contract import US_PER_DAY, US_PER_HOUR
from fraud.core.daily import Snapshot, Table
from fraud.core.plan import Plan
from fraud.features.engines.arrow_windows import microseconds, window_values
from fraud.params import Params
from fraud.scoring.onnx_session import OnnxModel
from fraud.simulator import deliveries
from fraud.training.ladder.levels import LEVELS, Inputs, Sample

ROOT: Final = Path(__file__).resolve().parents[2]
START: Final = date(2025, 1, 1)
SEED: Final = 7
FRAUD_RATE: Final = 0.0075
WARM_UP_DAYS: Final = 20
"""Days whose payments are only history."""
GOLDEN: Final = 32


@dataclass(frozen=True)
class World:
    """Payments in order of their time, and what is computed for each."""

    plan: Plan
    rows: pa.Table
    event_us: NDArray[np.int64]
    is_fraud: NDArray[np.bool_]
    daily: dict[str, dict[str, list[float | None]]]
    """Entity -> id -> values of its daily table. The same on every day."""
    default: dict[str, list[float | None]]
    """Entity -> the values of an id without a row."""
    base: list[NDArray[np.float64]]
    vectors: NDArray[np.float32]

    @property
    def scored(self) -> NDArray[np.int64]:
        """Positions of the payments after the warm-up."""
        return np.flatnonzero(self.event_us >= self.event_us[0] + WARM_UP_DAYS * US_PER_DAY)

    def snapshots(self, table: Table) -> list[Snapshot]:
        """A snapshot of each day, with the same values."""
        days = range(int(self.event_us[0] // US_PER_DAY) - 1, int(self.event_us[-1] // US_PER_DAY) + 1)
        return [Snapshot(day, "bench-000000000000", self.default[table.entity]) for day in days]


def world(users: int, days: int, path: Path = ROOT / declaration_file.NAME) -> World:
    """Simulate payments with distinct times, and compute their vectors. Equal at every call."""
    declared = declaration_file.load(path)
    plan = deliveries.Plan(START, days, users, SEED, FRAUD_RATE, 0.0, declared.columns)
    found = list(deliveries.deliveries(plan))
    rows = pa.concat_tables([delivery.transactions for delivery in found]).combine_chunks()
    rows = rows.sort_by([("event_timestamp", "ascending"), ("transaction_id", "ascending")]).combine_chunks()
    times = rows["event_timestamp"]
    rows = rows.set_column(rows.column_names.index("created_timestamp"), "created_timestamp", times)
    frauds = pa.concat_tables([delivery.labels for delivery in found])["transaction_id"]
    is_fraud = pc.is_in(rows["transaction_id"], value_set=frauds.combine_chunks()).to_numpy()
    compiled = Plan(resolved(declared, rows))
    event_us = microseconds(rows["event_timestamp"])
    daily, default = _daily(compiled, rows)
    base = _base(compiled, rows, event_us, daily, default)
    return World(compiled, rows, event_us, is_fraud, daily, default, base, compiled.vector.table(base))


def _daily(
    plan: Plan, rows: pa.Table
) -> tuple[dict[str, dict[str, list[float | None]]], dict[str, list[float | None]]]:
    rng = np.random.default_rng(SEED)
    daily, default = {}, {}
    for table in plan.tables:
        ids = pc.unique(rows[table.id_column].drop_null()).to_pylist()
        drawn = np.column_stack(
            [rng.gamma(1.0, 0.02 if f.aggregate == "fraud_rate" else 60.0, len(ids)) for f in table.features]
        )
        may_miss = np.array([value is None for value in table.empty])
        missing = (rng.random(drawn.shape) < 1 / 20) & may_miss
        values = [
            [None if absent else value for value, absent in zip(row, gone, strict=True)]
            for row, gone in zip(drawn.tolist(), missing.tolist(), strict=True)
        ]
        known = rng.random(len(ids)) < 19 / 20  # the others have the default row
        daily[table.entity] = {i: v for i, v, k in zip(ids, values, known.tolist(), strict=True) if k}
        default[table.entity] = [0.0 if value is None else value for value in table.empty]
    return daily, default


def _base(
    plan: Plan, rows: pa.Table, event_us: NDArray[np.int64], daily: dict[str, dict[str, list[float | None]]],
    default: dict[str, list[float | None]],
) -> list[NDArray[np.float64]]:  # fmt: skip
    windows = window_values(rows, plan.declaration)
    base = [(event_us // US_PER_HOUR % 24).astype(float), ((event_us // US_PER_DAY + 3) % 7).astype(float)]
    of_table = {}
    for table in plan.tables:
        ids = rows[table.id_column].to_pylist()
        values = [table.empty if i is None else daily[table.entity].get(i, default[table.entity]) for i in ids]
        columns = np.array([[np.nan if v is None else v for v in row] for row in values])
        of_table |= dict(zip(table.names, columns.T, strict=True))
    for of, source in zip(plan.vector.inputs[2:], plan.sources, strict=True):
        if of.categories:
            indices = {value: i for i, value in enumerate(of.categories)}
            unknown = plan.unknown_code(source.column or "")
            base.append(np.array([float(indices.get(v, unknown)) for v in rows[source.column].to_pylist()]))
        elif source.column is not None:
            base.append(pc.fill_null(pc.cast(rows[source.column], pa.float64()), float("nan")).to_numpy())
        else:
            base.append(windows[of.name] if of.name in windows else of_table[of.name])
    return base


def versions(
    made: World, levels: Collection[int] = (0, 1, 2, 3), *, quick: bool = False
) -> dict[str, tuple[bytes, bytes]]:
    """Level -> model.onnx and serving.json. `quick` trains fewer rounds."""
    params = Params.load(ROOT / "params.yaml").training
    if quick:
        params = params.model_copy(
            update={
                "boosting": params.boosting.model_copy(update={"max_iter": 80}),
                "mlp": params.mlp.model_copy(update={"max_epochs": 3}),
            }
        )
    rows, end = made.scored, int(0.8 * len(made.scored))
    inputs = Inputs.of(made.plan.declaration, made.plan.vector.names)
    train, later = (Sample(made.vectors[part], made.is_fraud[part], inputs) for part in (rows[:end], rows[end:]))
    found = {}
    with threadpool_limits(limits=1):
        for level in (level for level in LEVELS if level.number in levels):
            fitted = level.fit(train, later, params, lambda *_event, **_facts: None)
            found[str(level)] = _files(fitted.to_onnx(), str(level), made, later)
    return found


def _files(model: bytes, level: str, made: World, later: Sample) -> tuple[bytes, bytes]:
    answers = OnnxModel(model).probabilities(later.vectors)
    order = np.argsort(answers, kind="stable")
    golden = order[np.linspace(0, len(order) - 1, GOLDEN).astype(np.int64)]
    reference = [
        0 if of.categories else None if np.isnan(v).mean() > 1 / 2 else float(np.nanmedian(v))
        for of, v in zip(made.plan.vector.inputs, made.base, strict=True)
    ]
    facts = {
        "model_sha256": sha256(model).hexdigest(), "model_bytes": len(model), "feature_hash": made.plan.hash,
        "declaration": json.loads(made.plan.declaration.canonical()), "reference": reference,
        "threshold": float(answers[order[-len(order) // 100]]), "level": level,
        "golden": {
            "vectors": later.vectors[golden].astype(float).tolist(),
            "probabilities": answers[golden].astype(float).tolist(),
        },
    }  # fmt: skip
    return model, json.dumps(facts, sort_keys=True).encode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--users", type=int, default=400)
    parser.add_argument("--days", type=int, default=60)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    made = world(given.users, given.days)
    for level, (model, serving) in versions(made, quick=given.quick).items():
        folder = given.out / f"level{level[0]}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.onnx").write_bytes(model)
        (folder / "serving.json").write_bytes(serving)
        print(f"{folder}: {level}, {len(model):,} bytes")


if __name__ == "__main__":
    main()
