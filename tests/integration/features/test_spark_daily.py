"""`build-daily` on Spark: the partitions, and so the bytes, of the one-machine build."""

from pathlib import Path

import numpy as np
import pytest
import structlog
from tests.unit.features import daily_oracle as oracle
from tests.unit.features.daily_oracle import Report, Row

from fraud.core.contract import US_PER_DAY
from fraud.core.declaration import Declaration
from fraud.core.plan import tables
from fraud.features import build_daily
from fraud.job import Context
from fraud.lake import catalog
from fraud.lake.records import Contents
from fraud.params import Params
from fraud.settings import Settings

ROOT = Path(__file__).parents[3]
DECLARED = oracle.declaration(
    [
        {"name": "rows_{days}", "aggregate": "count", "days": [1, 5]},
        {"name": "mean_fee", "aggregate": "mean", "column": "fee", "days": 4},
        {"name": "users_{days}", "aggregate": "distinct", "column": "user_id", "days": [2, 6]},
        {"name": "rate_{days}", "aggregate": "fraud_rate", "days": [1, 3], "label_delay_days": 2},
    ]
)
pytestmark = pytest.mark.usefixtures("spark")


def log(days: int, seed: int) -> tuple[list[Row], list[Report]]:
    rng = np.random.default_rng(seed)
    rows, reports = [], []
    for i in range(40 * days):
        at = int(rng.integers(0, days * US_PER_DAY))
        late = int(rng.integers(0, 4 * US_PER_DAY)) if i % 8 == 0 else 0
        fee = None if i % 5 == 0 else float(rng.integers(-500, 500)) / 100
        merchant = None if i % 11 == 0 else f"m{rng.integers(0, 9)}"
        rows.append(Row(f"t{i}", at, at + late, merchant, f"u{rng.integers(0, 15)}", 1.5, fee, "web"))
        times = at + rng.integers(0, 5 * US_PER_DAY, rng.integers(0, 3))
        reports += [Report(f"t{i}", int(time), bool(rng.random() < 0.5)) for time in times]
    return rows, reports


def build(home: Path, declared: Declaration, engine: str) -> tuple[build_daily.Result, list[Contents]]:
    settings = Settings.model_validate(
        {"home": home, "project": ROOT, "spark_master": "local[2]", "feature_engine": engine}
    )
    params = Params.load(ROOT / "params.yaml")
    result = build_daily.build(declared, Context(settings, params, declared, structlog.get_logger()))
    datasets = [make(tables(declared)[0]).at(settings.lake_uri) for make in (catalog.daily_parts, catalog.daily)]
    return result, [dataset.open().contents for dataset in datasets]


def test_both_engines_publish_the_same_bytes_also_after_late_rows_and_labels(tmp_path: Path) -> None:
    rows, reports = log(9, seed=4)
    for delivered in (-30, None):  # all but the last thirty rows and reports, then all
        made = []
        for engine in ("one-machine", "spark"):
            oracle.publish(oracle.lake_of(tmp_path / engine), rows[:delivered], reports[:delivered])
            made.append(build(tmp_path / engine, DECLARED, engine))
        assert made[0] == made[1]
        assert made[0][0].days_built > 0
    table, lake = tables(DECLARED)[0], oracle.lake_of(tmp_path / "spark")
    for day in (3, 6, 9):
        assert oracle.snapshot(lake, table, day) == oracle.expected(DECLARED, rows, reports, day)
