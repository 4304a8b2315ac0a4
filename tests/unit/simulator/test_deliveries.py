"""The simulated world: reproducible, in the contract, and shaped as it says."""

import dataclasses
import datetime as dt
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import structlog

from fraud import declaration_file
from fraud.cli import run_job
from fraud.core.contract import LABEL_COLUMNS, TRANSACTION_COLUMNS, US_PER_DAY
from fraud.errors import BadConfigError
from fraud.job import Context
from fraud.params import Params
from fraud.settings import Settings
from fraud.simulator import simulate, world
from fraud.simulator.deliveries import Delivery, Plan, deliveries

ROOT = Path(__file__).parents[3]
START = dt.date(2025, 1, 1)
START_US = (START - dt.date(1970, 1, 1)).days * US_PER_DAY
DECLARATION = declaration_file.load_of(ROOT)
COLUMNS = DECLARATION.columns
SMALL = Plan(start=START, days=20, users=100, seed=3, fraud_rate=0.02, bad_rows_per_100k=2_000.0, columns=COLUMNS)


def everything(plan: Plan) -> tuple[pa.Table, pa.Table]:
    delivered = list(deliveries(plan))
    return pa.concat_tables([d.transactions for d in delivered]), pa.concat_tables([d.labels for d in delivered])


def changed(plan: Plan, **changes: object) -> list[Delivery]:
    return list(deliveries(dataclasses.replace(plan, **changes)))  # type: ignore[arg-type]


def context(home: Path) -> Context:
    settings = Settings(home=home, project=ROOT)
    return Context(settings, Params.load(ROOT / "params.yaml"), DECLARATION, structlog.get_logger())


def files(home: Path) -> dict[str, bytes]:
    return {str(p.relative_to(home)): p.read_bytes() for p in sorted(home.rglob("*.parquet"))}


def test_two_processes_with_other_hash_seeds_and_threads_write_the_same_bytes(tmp_path: Path) -> None:
    command = "import sys; sys.argv[0] = 'fraud'; from fraud.cli import main; main()"
    flags = ["simulate", "--days=12", "--users=80", "--seed=5", "--hold-back-days=2", "--bad-rows-per-100k=2000"]
    written = []
    for number, threads in (("1", "1"), ("2", "4")):
        home = tmp_path / number
        environment = {
            "PYTHONHASHSEED": number, "OMP_NUM_THREADS": threads, "FRAUD_HOME": str(home), "FRAUD_PROJECT": str(ROOT),
            "PYTHONPATH": str(ROOT / "src"),
        }  # fmt: skip
        subprocess.run([sys.executable, "-c", command, *flags], env=environment, check=True, capture_output=True)
        written.append(files(home))
    assert written[0] == written[1]
    assert len(written[0]) > 12


def test_a_longer_run_starts_with_a_shorter_one_and_another_seed_is_another_world() -> None:
    short, long, other = list(deliveries(SMALL)), changed(SMALL, days=25), changed(SMALL, seed=4)
    for a, b in zip(short, long[:20], strict=True):
        assert str(a.transactions.to_pylist()) == str(b.transactions.to_pylist())  # as text: some amounts are NaN
        assert a.labels.equals(b.labels)
    ids = pc.is_in(other[0].transactions["transaction_id"], value_set=short[0].transactions["transaction_id"])
    assert not pc.any(ids).as_py()


def test_every_row_is_in_the_contract_and_delivered_on_the_day_of_its_ingestion() -> None:
    clean = changed(SMALL, bad_rows_per_100k=0.0)
    ids: set[str] = set()
    for index, delivery in enumerate(clean):
        table = delivery.transactions
        assert table.column_names == [*TRANSACTION_COLUMNS, *sorted(COLUMNS)]
        assert tuple(delivery.labels.column_names) == LABEL_COLUMNS
        created = table["created_timestamp"].cast(pa.int64()).to_numpy()
        event = table["event_timestamp"].cast(pa.int64()).to_numpy()
        assert ((created - START_US) // US_PER_DAY == index).all()
        assert (created > event).all()
        assert (np.diff(created) >= 0).all()
        reported = delivery.labels["label_timestamp"].cast(pa.int64()).to_numpy()
        assert ((reported - START_US) // US_PER_DAY == index).all()
        assert set(table["merchant_category"].to_pylist()) <= set(COLUMNS["merchant_category"].values) - {"other"}
        assert pc.min(table["amount"]).as_py() > 0
        assert pc.min(table["distance_from_home"]).as_py() >= 0
        new = set(table["transaction_id"].to_pylist())
        assert len(new) == table.num_rows
        assert not new & ids
        ids |= new


def test_labels_come_late_some_never_and_few_are_wrong() -> None:
    plan = Plan(START, 150, 300, 9, fraud_rate=0.05, bad_rows_per_100k=0.0, columns=COLUMNS)
    delivered = list(deliveries(plan))
    labels = pa.concat_tables([d.labels for d in delivered])
    transactions = pa.concat_tables([d.transactions for d in delivered])
    joined = labels.join(transactions.select(["transaction_id", "created_timestamp"]), "transaction_id")
    delay = np.array(pc.subtract(joined["label_timestamp"], joined["created_timestamp"]).cast(pa.int64())) / US_PER_DAY
    created = joined["created_timestamp"].cast(pa.int64()).to_numpy()
    mature = delay[(created - START_US) // US_PER_DAY < 60]  # those had 90 days: all but the longest tail
    assert np.median(mature) == pytest.approx(7, rel=0.15)
    assert np.quantile(mature, 0.95) == pytest.approx(30, rel=0.25)
    frauds = sum(d.frauds for d in delivered[:60])
    assert len(mature) / frauds == pytest.approx(0.95, abs=0.05)


def test_rates_are_as_asked_for() -> None:
    plan = Plan(START, 60, 400, 2, fraud_rate=0.02, bad_rows_per_100k=500.0, columns=COLUMNS)
    delivered = list(deliveries(plan))
    rows = sum(d.transactions.num_rows for d in delivered)
    assert rows == pytest.approx(60 * 400, rel=0.06)
    assert sum(d.frauds for d in delivered) / rows == pytest.approx(0.02, rel=0.2)
    assert sum(d.bad_rows for d in delivered) / rows == pytest.approx(0.005, rel=0.3)
    table = pa.concat_tables([d.transactions for d in delivered])
    distance = table["distance_from_home"]
    assert distance.null_count / rows == pytest.approx(0.15, abs=0.03)
    assert (distance.drop_null().to_numpy() < 19).mean() > 0.8  # 30 km
    late = pc.subtract(table["created_timestamp"], table["event_timestamp"]).cast(pa.int64()).drop_null()
    assert (np.array(late) > 600 * 1_000_000).mean() == pytest.approx(0.003, abs=0.002)


@pytest.mark.parametrize(
    ("switch", "differs"),
    [
        ({"data_drift_from": 10}, lambda a, b: pc.mean(b["amount"]).as_py() > 1.1 * pc.mean(a["amount"]).as_py()),
        ({"concept_drift_from": 10}, lambda a, b: pc.mean(b["amount"]).as_py() == pytest.approx(
            pc.mean(a["amount"]).as_py(), rel=0.15)),
    ],
)  # fmt: skip
def test_drift_starts_on_its_day_and_not_before(
    switch: dict[str, int], differs: Callable[[pa.Table, pa.Table], bool]
) -> None:
    plain, drifted = (
        changed(SMALL, users=400, bad_rows_per_100k=0.0),
        changed(SMALL, users=400, bad_rows_per_100k=0.0, **switch),
    )
    for a, b in zip(plain[:10], drifted[:10], strict=True):
        assert a.transactions.equals(b.transactions)
    after = [pa.concat_tables([d.transactions for d in world[10:]]) for world in (plain, drifted)]
    assert not after[0].equals(after[1])
    assert differs(*after)


def test_a_category_does_not_decide_the_hour() -> None:
    table, _ = everything(Plan(START, 60, 400, 2, fraud_rate=0.0, bad_rows_per_100k=0.0, columns=COLUMNS))
    hour = pc.hour(table["event_timestamp"]).to_numpy()
    names = table["merchant_category"].to_numpy(zero_copy_only=False)
    means = [hour[names == c.name].mean() for c in world.CATEGORIES]
    assert max(means) - min(means) < 1.2  # the rarest has some 480 rows, a standard error of a quarter of an hour


def test_held_back_days_and_the_others_are_together_what_would_have_landed(tmp_path: Path) -> None:
    flags = {"days": 12, "users": 80, "seed": 5}
    simulate.run(simulate.Config(**flags), context(tmp_path / "all"))
    result = simulate.run(simulate.Config(**flags, hold_back_days=3), context(tmp_path / "held"))
    whole = files(tmp_path / "all" / "landing")
    kept = files(tmp_path / "held" / "landing")
    assert {name.removeprefix("held_back/"): data for name, data in kept.items()} == whole
    held = sorted(name.rpartition("-")[0] for name in kept if name.startswith("held_back/transactions"))
    assert held == [f"held_back/transactions/dt=2025-01-{d}/simulated" for d in (10, 11, 12)]
    assert (result.first_day, result.last_day) == ("2025-01-01", "2025-01-09")


def test_holding_back_everything_is_refused() -> None:
    with pytest.raises(ValueError, match="hold-back-days must be below days"):
        simulate.Config(days=3, users=1, seed=1, hold_back_days=3)


def test_a_world_of_one_user_and_one_day_is_possible(tmp_path: Path) -> None:
    result = simulate.run(simulate.Config(days=1, users=1, seed=1), context(tmp_path))
    assert result.transactions < 20


@pytest.mark.parametrize("flag", ["--days=0", "--users=-1", "--fraud-rate=2", "--start=yesterday"])
def test_a_flag_out_of_its_bounds_is_named(flag: str) -> None:
    name = flag.partition("=")[0]
    flags = {"--days": "--days=1", "--users": "--users=1", "--seed": "--seed=1"} | {name: flag}
    with pytest.raises(BadConfigError, match=name):
        run_job("simulate", list(flags.values()))
