"""Everything that is kept lies on S3 as it lies in files: the same objects, the same bytes, the same guarantees.

Against a real server process (tests/s3.py).
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
import structlog
from tests import s3
from tests.served_answers import THREE, line

from fraud import declaration_file
from fraud.audit import ship_predictions
from fraud.core.declaration import Declaration
from fraud.embedded.servers import mlflow_server, valkey
from fraud.errors import BadInputError, RefusedError
from fraud.features import build_daily, build_features, materialize
from fraud.ingest import ingest_labels, ingest_transactions
from fraud.job import Context
from fraud.lake import catalog, declarations, reports
from fraud.lake.dataset import Dataset
from fraud.lake.objects import opened
from fraud.params import Params
from fraud.retention import expired
from fraud.settings import Settings
from fraud.simulator import simulate
from fraud.training import training_set
from fraud.training.dvc import data_versions

ROOT = Path(__file__).resolve().parents[3]
DVC = Path(sys.executable).with_name("dvc")
FRAUD = Path(sys.executable).with_name("fraud")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3.Server]:
    """The server, and an environment that leads to it and nowhere else."""
    with s3.running(tmp_path_factory.mktemp("s3") / "objects") as running, pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in running.environment.items():
            patch.setenv(name, value)
        yield running


def numbers(n: int, rows: int = 3) -> pa.Table:
    return pa.table({"n": [n] * rows})


def test_a_partition_is_published_read_verified_and_dropped(server: s3.Server) -> None:
    things = Dataset(server.uri("basic"), "things")
    assert things.partitions() == []
    assert things.partition("2025-03-01") is None
    with pytest.raises(BadInputError, match="things has no partition 2025-03-01"):
        things.read("2025-03-01")
    for day in (1, 2, 5):
        things.publish(f"2025-03-0{day}", (numbers(day, 2) for _ in range(2)), {"made": "here"})
    assert things.partitions() == ["2025-03-01", "2025-03-02", "2025-03-05"]
    found = things.read_range("2025-03-02", "2025-03-05")
    assert found is not None
    assert found["n"].to_pylist() == [2, 2, 2, 2, 5, 5, 5, 5]
    things.verify("2025-03-05")
    things.drop(["2025-03-02"])
    things.drop(["2025-03-02"])
    assert things.open().number == 3
    assert things.partitions() == ["2025-03-01", "2025-03-05"]


def test_what_another_process_publishes_is_seen_by_one_that_has_looked_before(server: s3.Server) -> None:
    things, root = Dataset(server.uri("seen"), "things"), server.uri("seen/reports")
    reports.write(f"{root}/2025-03-01", "drift", "<p>", {})
    assert things.partitions() == []
    assert reports.expire(root, 30) == []
    script = (
        "import sys, pyarrow as pa\nfrom fraud.lake import reports\nfrom fraud.lake.dataset import Dataset\n"
        "Dataset(sys.argv[1], 'things').publish('2025-03-01', pa.table({'n': [1]}))\n"
        "reports.write(f'{sys.argv[2]}/2025-05-01', 'drift', '<p>', {'verdict': 'ok'})\n"
    )
    subprocess.run([sys.executable, "-c", script, server.uri("seen"), root], check=True)
    assert things.partitions() == ["2025-03-01"]
    assert reports.read(f"{root}/2025-05-01", "drift") == {"verdict": "ok"}
    assert reports.expire(root, 30) == ["2025-03-01"]


def test_publishers_at_once_leave_one_of_their_partitions_whole_and_readers_never_see_half(server: s3.Server) -> None:
    things = Dataset(server.uri("race"), "things")
    things.publish("2025-03-01", numbers(0, 20_000))

    def publish(first: int) -> None:
        for n in range(first, first + 5):
            Dataset(server.uri("race"), "things").publish("2025-03-01", numbers(n, 20_000))

    seen = []
    with ThreadPoolExecutor(max_workers=3) as pool:
        publishers = [pool.submit(publish, first) for first in (10, 20, 30)]
        while not all(publisher.done() for publisher in publishers):
            table = things.read("2025-03-01")
            seen.append((table.num_rows, len(table["n"].unique())))
        for publisher in publishers:
            publisher.result()
    assert set(seen) == {(20_000, 1)}
    assert things.verify("2025-03-01").rows == 20_000
    assert things.read("2025-03-01")["n"][0].as_py() in {14, 24, 34}


PUBLISHER = """
import sys
import pyarrow as pa
from fraud.lake.dataset import Dataset
things = Dataset(sys.argv[1], "things")
things.publish("2025-03-01", pa.table({"n": [0] * 50_000}))
print("up", flush=True)
n = 0
while True:
    n += 1
    things.publish("2025-03-01", pa.table({"n": [n] * 50_000}))
"""


def test_killed_while_publishing_a_reader_sees_one_whole_version(server: s3.Server) -> None:
    things = Dataset(server.uri("killed"), "things")
    publisher = subprocess.Popen(
        [sys.executable, "-c", PUBLISHER, server.uri("killed")], stdout=subprocess.PIPE, text=True
    )
    assert publisher.stdout is not None
    publisher.stdout.readline()
    first = things.partition("2025-03-01")
    while things.partition("2025-03-01") == first:
        assert publisher.poll() is None, "the publisher died by itself"
    os.kill(publisher.pid, signal.SIGKILL)
    publisher.wait()
    publisher.stdout.close()
    assert things.verify("2025-03-01").rows == 50_000
    assert len(things.read("2025-03-01")["n"].unique()) == 1


def context(home: Path, redis_url: str, base: str = "", declared: Declaration = THREE) -> Context:
    home.mkdir(exist_ok=True)
    where = {f"{name}_uri": f"{base}/{name}" for name in ("landing", "lake", "reports", "job_runs")} if base else {}
    settings = Settings.model_validate({"home": home, "project": ROOT, "redis_url": redis_url, **where})
    return Context(settings, Params.load(ROOT / "params.yaml"), declared, structlog.get_logger())


@pytest.mark.slow
def test_the_jobs_make_the_same_lake_on_s3_as_in_files(server: s3.Server, tmp_path: Path) -> None:
    with valkey.running(tmp_path / "valkey") as online:
        shipped = declaration_file.load_of(ROOT)
        files = context(tmp_path / "files", online.url, declared=shipped)
        other_store = online.url.removesuffix("/0") + "/1"
        objects = context(tmp_path / "objects", other_store, server.uri("platform"), shipped)
        made = []
        for each in (files, objects):
            world = simulate.Config(days=16, users=40, seed=1, start=date(2025, 1, 1), bad_rows_per_100k=2000)
            simulate.run(world, each)
            ingest_transactions.run(ingest_transactions.Config(), each)
            ingest_labels.run(ingest_labels.Config(), each)
            build_daily.run(build_daily.Config(), each)
            build_features.run(build_features.Config(), each)
            snapshot = training_set.run(training_set.Config(), each)
            made.append((snapshot, materialize.run(materialize.Config(), each)))
        assert made[0][0].rows > 100
        assert made[0][1].feast_days == 16
        assert made[0] == made[1]
        tables = (
            catalog.TRANSACTIONS, catalog.LABELS, catalog.QUARANTINE, catalog.TRAINING_SETS,
            *catalog.of_declarations([shipped]),
        )  # fmt: skip
        for definition in tables:
            one, other = (definition.at(each.settings.lake_uri).open() for each in (files, objects))
            assert one.contents.partitions, definition.name
            assert one.contents == other.contents
            assert (one.number, other.number) == (0, 0)  # one commit of all days
        ingest_transactions.run(ingest_transactions.Config(), objects)
        ingest_labels.run(ingest_labels.Config(), objects)
        assert build_daily.run(build_daily.Config(), objects).days_built == 0
        assert build_features.run(build_features.Config(), objects).days_built == 0
        assert training_set.run(training_set.Config(), objects).feature_rows_compared == 0
        assert {d.at(objects.settings.lake_uri).open().number for d in tables} == {0}  # equal inputs: no commit


def test_answers_are_shipped_to_s3_once_each(server: s3.Server, tmp_path: Path) -> None:
    objects = context(tmp_path, "redis://127.0.0.1:1/0", server.uri("shipped"))
    log = tmp_path / "predictions"
    log.mkdir()
    record = {
        "prediction_id": "p1", "transaction_id": "t1", "user_id": "u1", "merchant_id": "m1",
        "merchant_category": "grocery", "amount": 5.0, "hour_of_day": 3, "day_of_week": 2,
        "served_us": 1_740_000_000_000_000, "history": "store", "degraded": False, "transaction_velocity_1h": 0.0,
        "unique_merchants_30d": 0, "fraud_probability": 0.25, "is_fraud": False, "threshold": 0.5,
        "model_version": "1", "model_sha256": "0" * 64, "feature_hash": "0" * 64, "latency_us": 9,
    }  # fmt: skip
    (log / "segment-1740000000000000-1.jsonl").write_bytes(line(record, THREE))
    today = date(2025, 2, 20)
    assert ship_predictions.run(ship_predictions.Config(today=today), objects).rows == 1
    assert ship_predictions.run(ship_predictions.Config(today=today), objects).rows == 0
    assert catalog.PREDICTIONS.at(objects.settings.lake_uri).read("2025-02-19")["prediction_id"].to_pylist() == ["p1"]


def test_retention_weighs_and_removes_on_s3_what_it_would_in_files(server: s3.Server) -> None:
    lake, later = server.uri("old"), datetime.now(UTC) + timedelta(days=3)
    for day in ("2025-01-01", "2025-01-02", "2025-03-01"):
        catalog.TRANSACTIONS.at(lake).publish(day, numbers(1))
    catalog.TRANSACTIONS.at(lake).publish("2025-03-01", numbers(2))
    catalog.QUARANTINE.at(lake).publish("b1", numbers(3))
    reports.write(f"{lake}/compare/1-2", "compare", "<p>", {})
    catalog.features("a" * 64).at(lake).publish("2025-01-01", numbers(4))
    catalog.features("b" * 64).at(lake).publish("2025-01-01", numbers(4))
    declarations.record(lake, THREE)
    assert expired.newest_day(lake, date(2026, 1, 1)) == date(2025, 3, 1)

    def old() -> list[expired.Expired]:
        return [
            *expired.unreferenced_objects(lake, later),
            *expired.partitions_before(catalog.TRANSACTIONS, lake, "2025-01-03"),
            *expired.partitions_published_before(catalog.QUARANTINE, lake, later),
            *expired.report_folders(f"{lake}/compare", later),
            *expired.unused_datasets(lake, {catalog.features("a" * 64).name}, later),
            *expired.unused_declarations(lake, (), later),
        ]

    [replaced] = catalog.TRANSACTIONS.at(lake).open(2).object_uris("2025-03-01")
    went = old()
    assert [each.name for each in went if "/_partitions/" not in each.name] == [
        f"transactions/dt=2025-03-01/{replaced.rpartition('/')[2]}",
        "2025-01-01",
        "2025-01-02",
        "b1",
        "1-2",
        f"declaration-{'b' * 12}",
        THREE.hash,
    ]
    assert all(each.size_bytes > 0 for each in went)
    for each in went:
        each.remove()
    assert {each.store for each in old()} == {"replaced objects"}
    for each in old():
        each.remove()
    assert old() == []
    left = [name for name in server.names("old") if name.endswith(".parquet")]
    [kept] = catalog.TRANSACTIONS.at(lake).object_uris("2025-03-01")
    needed = [name for name in left if name.startswith(f"{catalog.features('a' * 64).name}/dt=")]
    assert len(needed) == 1
    objects = [name for name in left if "/_partitions/" not in name]
    assert sorted(set(objects) - set(needed)) == [f"transactions/dt=2025-03-01/{kept.split('/')[-1]}"]
    assert len(left) - len(objects) == 3  # the records of the newest versions of the tables
    assert catalog.TRANSACTIONS.at(lake).open().retention_watermark() == "2025-01-03"


def dvc(project: Path, *arguments: str) -> None:
    subprocess.run([DVC, *arguments, "--quiet"], cwd=project, check=True, capture_output=True)


def test_a_folder_pushed_to_the_dvc_remote_comes_back(server: s3.Server, folder: Path, tmp_path: Path) -> None:
    stored = data_versions.push(server.uri("dvc"), folder)
    data_versions.pull(server.uri("dvc"), stored.md5, tmp_path / "back")
    assert (tmp_path / "back/inner/b.txt").read_text() == "b\n"
    with pytest.raises(RefusedError, match="has no"):
        data_versions.pull(server.uri("dvc"), "0" * 32 + ".dir", tmp_path / "none")


@pytest.mark.slow
def test_dvcs_own_push_pull_and_gc_work_on_the_remote(server: s3.Server, folder: Path, tmp_path: Path) -> None:
    remote, project = server.uri("dvc-own"), tmp_path / "kept"
    old, kept = data_versions.push(remote, folder).md5, tmp_path / "pushed"
    data_versions.write_pointers(kept, remote, {})
    (kept / "c.txt").write_text("c\n")
    dvc(kept, "add", "c.txt")
    dvc(kept, "push")
    (kept / "c.txt").unlink()
    shutil.rmtree(kept / ".dvc/cache")
    dvc(kept, "pull")
    assert (kept / "c.txt").read_text() == "c\n"
    (folder / "a.txt").write_text("another\n")
    data_versions.write_pointers(project, remote, {"models/2": data_versions.push(remote, folder).md5})
    dvc(project, "gc", "--workspace", "--cloud", "--force")
    dvc(project, "pull")
    assert (project / "models/2/a.txt").read_text() == "another\n"
    with pytest.raises(RefusedError, match="has no"):
        data_versions.pull(remote, old, tmp_path / "gone")


@pytest.mark.slow
def test_mlflow_keeps_artifacts_on_s3_and_clients_need_no_key_to_it(server: s3.Server, tmp_path: Path) -> None:
    with mlflow_server.running(tmp_path / "mlflow", server.uri("mlflow")) as tracking:
        # A client with MLflow's password alone: bytes go through the server.
        own = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        script = (
            "import mlflow\nwith mlflow.start_run() as run:\n    mlflow.log_text('hello', 'report/a.txt')\n"
            "found = mlflow.artifacts.load_text(f'runs:/{run.info.run_id}/report/a.txt')\nassert found == 'hello'\n"
            "print(run.info.artifact_uri)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script], env=own | tracking.client_environment(), check=True, capture_output=True,
            text=True,
        )  # fmt: skip
    assert "mlflow-artifacts:/" in done.stdout
    [stored] = [name for name in server.names("mlflow") if name.endswith("a.txt")]
    with opened(server.uri(f"mlflow/{stored}")) as file:
        assert file.read() == b"hello"


def test_a_store_that_does_not_answer_is_said_and_worth_another_try(server: s3.Server, tmp_path: Path) -> None:
    env = dict(os.environ) | {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{valkey.free_port()}", "AWS_MAX_ATTEMPTS": "1",
        "FRAUD_HOME": str(tmp_path), "FRAUD_PROJECT": str(ROOT), "FRAUD_LAKE_URI": "s3://fraud/lake",
    }  # fmt: skip
    done = subprocess.run([FRAUD, "build-features", "--json"], env=env, check=False, capture_output=True, text=True)
    assert done.returncode == 75, done.stderr
    assert json.loads(done.stdout)["message"] == "the object store does not answer"
