"""Retention of versions, with a real registry, DVC remote and promotion history: what was in use stays whole."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
import structlog
from tests.served_answers import THREE

from fraud.embedded.servers import mlflow_server
from fraud.errors import RefusedError
from fraud.job import Context
from fraud.lake import catalog, reports
from fraud.params import Params
from fraud.registry import mlflow_client
from fraud.registry.model_versions import MODEL_NAME, PRODUCTION
from fraud.registry.promotion_log import opened
from fraud.registry.training_runs import TrainingRuns
from fraud.retention import apply_retention
from fraud.settings import Settings
from fraud.training.dvc import data_versions

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.slow
NOW = datetime.now(UTC).date()
LATER = NOW + timedelta(days=182)  # 181 would do, but the versions may be made after midnight


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[mlflow_server.Server]:
    with mlflow_server.running(tmp_path / "mlflow") as running:
        for name, value in running.client_environment().items():
            monkeypatch.setenv(name, value)
        yield running


@pytest.fixture
def context(server: mlflow_server.Server, tmp_path: Path) -> Context:
    settings = Settings(home=tmp_path, project=ROOT, mlflow_url=server.url)
    return Context(settings, Params.load(ROOT / "params.yaml"), THREE, structlog.get_logger())


def version(context: Context, number: int) -> tuple[str, str]:
    """A version with everything a training leaves. Its run and a level's."""
    settings, runs = context.settings, TrainingRuns(context.settings)
    snapshots = catalog.TRAINING_SETS.at(settings.lake_uri)
    snapshot = snapshots.publish(f"s{number}", pa.table({"n": [number], "shared": [0]}))
    stored_hash = f"{number:064x}"[::-1]
    catalog.features(stored_hash).at(settings.lake_uri).publish("2026-01-01", pa.table({"n": [number]}))
    data = data_versions.push_partition(settings.dvc_remote, snapshots, snapshot)
    model = settings.home / "model"
    model.mkdir(exist_ok=True)
    (model / "model.onnx").write_text(f"model {number}")
    tags = {
        "snapshot": f"s{number}", "dvc_data_md5": data.md5,
        "dvc_model_md5": data_versions.push(settings.dvc_remote, model).md5,
        "feature_hash": f"hash {number}", "stored_hash": stored_hash,
    }  # fmt: skip
    with runs.run(f"training {number}", tags) as run_id, runs.run("2-boosting", {}, parent=run_id) as level:
        runs.put_folder(run_id, model, "model")
        runs.put_text(level, "curve.txt", "a figure")
    runs.register(run_id, tags)
    reports.write(f"{settings.reports_uri}/training/{run_id}", "gates", "<p>", {})
    return run_id, level


def apply(context: Context, today: date, *, dry_run: bool = False) -> dict[str, list[str]]:
    done = apply_retention.run(apply_retention.Config(today=today, dry_run=dry_run), context)
    assert done.bytes == sum(store.bytes for store in done.stores)
    return {store.store: store.names for store in done.stores}


def test_what_was_production_stays_whole_and_what_never_was_goes_after_its_term(
    context: Context, server: mlflow_server.Server
) -> None:
    settings, client = context.settings, mlflow_client.client(context.settings)
    made = [version(context, number) for number in (1, 2, 3, 4)]
    with opened(settings) as promotion:
        for number in ("1", "2"):
            client.set_registered_model_alias(MODEL_NAME, PRODUCTION, number)
            promotion.repair()
    client.set_registered_model_alias(MODEL_NAME, "candidate-of-a-colleague", "4")
    third = {tag: client.get_model_version(MODEL_NAME, "3").tags[tag] for tag in ("dvc_data_md5", "dvc_model_md5")}
    artifacts = server.folder / "artifacts"

    assert apply(context, NOW) == {}
    files = sorted(artifacts.rglob("*"))
    planned = apply(context, LATER, dry_run=True)
    assert planned["versions"] == ["3"]
    assert planned["runs"] == sorted(made[2])
    assert planned["training_sets"] == ["s3"]
    assert planned["reports/training"] == [made[2][0]]
    assert planned["features"] == [f"declaration-3{'0' * 11}"]
    stores = {"versions", "runs", "training_sets", "reports/training", "features", "DVC remote", "replaced objects"}
    assert stores == set(planned)
    assert sorted(artifacts.rglob("*")) == files

    assert apply(context, LATER) == planned
    assert set(apply(context, LATER)) == {"replaced objects"}  # of the removed training set
    assert apply(context, LATER) == {}
    assert {v.version for v in TrainingRuns(settings).versions()} == {"1", "2", "4"}
    kept = {path.name for run in (made[0], made[1], made[3]) for path in artifacts.rglob(run[0])}
    assert kept == {made[0][0], made[1][0], made[3][0]}
    assert [path for run in made[2] for path in artifacts.rglob(f"{run}/**/*") if path.is_file()] == []
    snapshots = catalog.TRAINING_SETS.at(settings.lake_uri)
    assert snapshots.partitions() == ["s1", "s2", "s4"]
    assert [d.name[-12] for d in catalog.in_lake(settings.lake_uri)] == ["1", "2", "4"]
    for number in ("1", "2", "4"):
        tags = client.get_model_version(MODEL_NAME, number).tags
        data_versions.pull(settings.dvc_remote, tags["dvc_model_md5"], settings.home / f"back-{number}")
        assert (settings.home / f"back-{number}/model.onnx").read_text() == f"model {number}"
        data_versions.pull(settings.dvc_remote, tags["dvc_data_md5"], settings.home / f"data-{number}")
        snapshots.verify(f"s{number}")
    for md5 in third.values():
        with pytest.raises(RefusedError, match="has no"):
            data_versions.pull(settings.dvc_remote, md5, settings.home / "gone")

    # What is left of the deleted runs is rows. The page's own words take them out of the database.
    [words] = re.findall(r"mlflow python -c '\n(.*?)'\n", (ROOT / "docs/operations.md").read_text(), re.DOTALL)
    words = words.replace("http://mlflow:5000", server.url).replace("--older-than=30d", "--older-than=0s")
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")},
        "MLFLOW_AUTH_ADMIN_PASSWORD": server.password,
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{server.folder}/mlflow.db",
    }
    done = subprocess.run([sys.executable, "-c", words], env=env, check=True, capture_output=True, text=True)
    assert all(run in done.stdout + done.stderr for run in made[2])
    assert client.get_run(made[0][0]).info.lifecycle_stage == "active"


def test_nothing_goes_when_the_history_was_changed_or_a_kept_versions_data_is_not_there(context: Context) -> None:
    version(context, 1)
    version(context, 2)
    client = mlflow_client.client(context.settings)
    client.set_registered_model_alias(MODEL_NAME, PRODUCTION, "1")
    md5 = client.get_model_version(MODEL_NAME, "1").tags["dvc_model_md5"]
    data_versions.remove(context.settings.dvc_remote, md5)
    with pytest.raises(RefusedError, match="which a kept version uses"):
        apply(context, LATER)
    assert {v.version for v in TrainingRuns(context.settings).versions()} == {"1", "2"}
