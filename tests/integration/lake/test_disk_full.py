"""A full disk under import, ingest, build-features, train and score: exit 75, nothing half visible, a rerun completes.

Each job is the real command; the disk is a file system of its own with room for less than the job writes.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import mlflow
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from fraud.declaration_file import NAME, load
from fraud.ingest.delivery import delivering
from fraud.ingest.landing import landed_files, schema
from fraud.lake import catalog
from fraud.registry.model_versions import MODEL_NAME

ROOT: Final = Path(__file__).parents[3]
DECLARATION_FILE: Final = ROOT / "tests/declarations/three.yaml"
THREE: Final = load(DECLARATION_FILE)
ROWS: Final = 4_000
FIRST: Final = datetime(2026, 1, 1, tzinfo=UTC)
STAMP: Final = pa.timestamp("us", "UTC")
MAPPING: Final = {
    "name": "shop", "source": {"format": "csv"}, "event_timestamp": {"column": "event_timestamp", "format": "ISO8601"},
    **{n: {"column": n} for n in ("transaction_id", "user_id", "merchant_id", "merchant_category", "amount")},
    "label": {"column": "fraud", "delay_days": 0},
}  # fmt: skip
QUICK: Final = {
    "split": {"train_days": 24, "gap_days": 2, "validation_days": 8, "holdout_days": 8},
    "training": {"bootstrap": 20, "boosting": {"max_iter": 5}, "mlp": {"max_epochs": 1}},
}


class Disk:
    """A small file system at `at`."""

    def __init__(self, at: Path) -> None:
        self.at = at

    def grow(self) -> None:
        subprocess.run(["mount", "-o", "remount,size=256m", self.at], check=True)


@contextmanager
def small_disk(at: Path, size: str) -> Iterator[Disk]:
    at.mkdir(parents=True, exist_ok=True)
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", at], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("NOT TESTED: jobs on a full disk. Mounting a small file system needs root on Linux")
    try:
        yield Disk(at)
    finally:
        subprocess.run(["umount", "-l", at], check=True)


class Home:
    """A FRAUD_HOME, a project with three window features, and the command run in them."""

    def __init__(self, home: Path, project: Path) -> None:
        self.home, self.project = home, project
        self.landing, self.lake = f"file://{home}/landing", f"file://{home}/lake"

    def fraud(self, *arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
        command = [str(Path(sys.executable).with_name("fraud")), *arguments]
        env = os.environ | {"FRAUD_HOME": str(self.home), "FRAUD_PROJECT": str(self.project)} | env
        return subprocess.run(command, env=env, cwd=self.home, capture_output=True, text=True, check=False)

    def full(self, *arguments: str, **env: str) -> None:
        done = self.fraud(*arguments, **env)
        assert done.returncode == 75, done.stderr[-3000:]
        assert "Traceback" not in done.stderr
        assert "full" in done.stderr or "cannot be written" in done.stderr

    def completes(self, *arguments: str, **env: str) -> None:
        done = self.fraud(*arguments, **env)
        assert done.returncode == 0, done.stderr[-3000:]

    def landed(self) -> tuple[int, int]:
        """Rows of transactions and labels that ingest would find."""
        counts = [sum(f.rows for f in landed_files(self.landing, feed)) for feed in ("transactions", "labels")]
        return counts[0], counts[1]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    found = Home(tmp_path / "home", project_in(tmp_path / "plain"))
    found.home.mkdir()
    return found


def project_in(folder: Path) -> Path:
    """A project of params.yaml and a declaration."""
    (folder / NAME).parent.mkdir(parents=True)
    shutil.copy(DECLARATION_FILE, folder / NAME)
    shutil.copy(ROOT / "params.yaml", folder)
    return folder


def transactions() -> pa.Table:
    """ROWS of one user and one merchant each, ten seconds apart; ids that hardly compress."""
    at = [FIRST + timedelta(seconds=10 * n) for n in range(ROWS)]
    random = np.random.default_rng(1)
    return pa.table(
        {
            "transaction_id": [random.bytes(16).hex() for _ in range(ROWS)],
            "event_timestamp": pa.array(at, STAMP), "created_timestamp": pa.array(at, STAMP),
            "user_id": [random.bytes(8).hex() for _ in range(ROWS)],
            "merchant_id": [random.bytes(8).hex() for _ in range(ROWS)],
            "amount": random.uniform(1, 100, ROWS).round(2), "distance_from_home": pa.nulls(ROWS, pa.float64()),
            "merchant_category": ["travel"] * ROWS, "parse_error": pa.nulls(ROWS, pa.string()),
        },
        schema("transactions", THREE),
    )  # fmt: skip


def source(folder: Path) -> list[str]:
    """The arguments of an import of the rows as CSV."""
    rows = transactions().to_pylist()
    names = [*(name for name in rows[0] if name in MAPPING), "fraud"]
    lines = [",".join(str(({**row, "fraud": 0})[name]) for name in names) for row in rows]
    (folder / "source.csv").write_text("\n".join([",".join(names), *lines]) + "\n")
    (folder / "mapping.yaml").write_text(yaml.safe_dump(MAPPING))
    return ["import", f"--source={folder}/source.csv", f"--mapping={folder}/mapping.yaml"]


# 320 kB: the transactions have room, the labels of the same delivery have not.
@pytest.mark.parametrize("size", ["64k", "320k"])
def test_import_into_a_full_landing_zone(home: Home, tmp_path: Path, size: str) -> None:
    arguments = source(tmp_path)
    with small_disk(home.home / "landing", size) as disk:
        home.full(*arguments)
        assert [path for path in disk.at.rglob("*") if path.is_file()] == []
        disk.grow()
        home.completes(*arguments)
        assert home.landed() == (ROWS, ROWS)


def test_import_with_a_full_folder_for_temporary_files(home: Home, tmp_path: Path) -> None:
    arguments = source(tmp_path)
    with small_disk(tmp_path / "temporary", "128k") as disk:
        home.full(*arguments, TMPDIR=str(disk.at))
        assert home.landed() == (0, 0)
        disk.grow()
        home.completes(*arguments, TMPDIR=str(disk.at))
        assert home.landed() == (ROWS, ROWS)


@pytest.fixture
def in_lake(home: Home) -> Home:
    table = transactions().drop_columns("parse_error")
    catalog.TRANSACTIONS.at(home.lake).publish("2026-01-01", table)
    return home


def test_ingest_into_a_full_lake(home: Home) -> None:
    with delivering(home.landing) as delivery:
        delivery.add("transactions", "2026-01-01", "shop", transactions())
    with small_disk(home.home / "lake", "128k") as disk:
        home.full("ingest")
        assert catalog.TRANSACTIONS.at(home.lake).partitions() == []
        disk.grow()
        home.completes("ingest")
        assert catalog.TRANSACTIONS.at(home.lake).verify("2026-01-01").rows == ROWS


def test_build_features_into_a_full_lake(in_lake: Home) -> None:
    with small_disk(in_lake.home / "lake/features", "128k") as disk:
        in_lake.full("build-features")
        assert catalog.features(THREE.stored_hash).at(in_lake.lake).partitions() == []
        disk.grow()
        in_lake.completes("build-features")
        assert catalog.features(THREE.stored_hash).at(in_lake.lake).verify("2026-01-01").rows == ROWS


def training_set(days: int = 44, per_day: int = 60) -> pa.Table:
    """Fraud is what costs far more than its user's average."""
    random, n = np.random.default_rng(3), days * per_day
    at = pa.array([FIRST + timedelta(days=days * row / n) for row in range(n)], STAMP)
    fraud = random.random(n) < 0.05
    amount = np.where(fraud, 500.0, 20.0) * random.uniform(0.5, 1.5, n)
    return pa.table(
        {
            "transaction_id": [f"t{row}" for row in range(n)], "event_timestamp": at, "created_timestamp": at,
            "user_id": [f"u{row % 97}" for row in range(n)], "merchant_id": ["m"] * n,
            "merchant_category": ["travel"] * n, "amount": amount.round(4),
            "distance_from_home": random.exponential(20, n), "transaction_velocity_1h": np.zeros(n),
            "avg_amount_7d": np.full(n, 20.0), "unique_merchants_30d": np.ones(n, np.int64), "is_fraud": fraud,
            "label_timestamp": pa.array(at.to_pylist(), STAMP, mask=~fraud),
        }
    )  # fmt: skip


class Registry:
    """What `fraud train` needs besides the lake: a project whose ladder trains in seconds, and MLflow in a file."""

    def __init__(self, home: Home, folder: Path) -> None:
        project, url = project_in(folder / "project"), f"sqlite:///{folder}/mlflow.db"
        (project / "requirements").mkdir()
        (project / "requirements/ml.txt").write_text("a lock\n")
        params = yaml.safe_load((ROOT / "params.yaml").read_text())
        for section, changes in QUICK.items():
            for key, value in changes.items():
                params[section][key] = {**params[section][key], **value} if isinstance(value, dict) else value
        (project / "params.yaml").write_text(yaml.safe_dump(params))
        self.env = {"FRAUD_PROJECT": str(project), "FRAUD_MLFLOW_URL": url, "MLFLOW_TRACKING_URI": url}
        stored_hash = load(project / NAME).stored_hash
        made_from = {"cut_off": "2026-03-01T00:00:00+00:00", "maturity_days": "7", "declaration": stored_hash}
        catalog.TRAINING_SETS.at(home.lake).publish("s1", training_set(), made_from)
        catalog.TRANSACTIONS.at(home.lake).publish("2026-01-01", training_set().slice(0, 10))
        self._client = mlflow.MlflowClient(url, url)

    def versions(self) -> dict[str, str]:
        """The tag `gates` of every version."""
        found = self._client.search_model_versions(f"name='{MODEL_NAME}'")
        return {str(version.version): version.tags["gates"] for version in found}


@pytest.fixture
def registry(home: Home, tmp_path: Path) -> Registry:
    return Registry(home, tmp_path)


def test_train_with_a_full_folder_for_temporary_files(home: Home, registry: Registry, tmp_path: Path) -> None:
    with small_disk(tmp_path / "temporary", "128k") as disk:
        home.full("train", **registry.env, TMPDIR=str(disk.at))
    assert registry.versions() == {}


@pytest.mark.timeout(600)
def test_train_with_a_full_folder_for_reports_and_score_into_a_full_folder(
    home: Home, registry: Registry, tmp_path: Path
) -> None:
    with small_disk(home.home / "reports", "4k") as disk:
        home.full("train", **registry.env)
        assert "passed" not in registry.versions().values()
        disk.grow()
        home.completes("train", **registry.env)
    version = max(registry.versions())
    pq.write_table(training_set(), tmp_path / "in.parquet")
    with small_disk(tmp_path / "answers", "16k") as disk:
        arguments = ["score", f"--input={tmp_path}/in.parquet", f"--output={disk.at}/out.csv", f"--model={version}"]
        home.full(*arguments, **registry.env)
        assert list(disk.at.iterdir()) == []
        disk.grow()
        home.completes(*arguments, **registry.env)
        assert len((disk.at / "out.csv").read_text().splitlines()) == training_set().num_rows + 1
