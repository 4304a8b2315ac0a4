"""A team adds features, a column and an entity by editing features.yaml alone, twice: before and after a release.

Everything runs as in production: jobs as processes, a real online store, MLflow, serving. Only features.yaml of a copy
of the project changes.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest

from .project import ROOT, small_project, start_serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

PYTHON = ROOT / ".venv/ml/bin/python"
FRAUD = [str(PYTHON), "-c", "from fraud.cli import main; main()"]
WORLD = ("--days=50", "--users=400", "--seed=3", "--fraud-rate=0.04", "--hold-back-days=1")
COLUMN = "  terminal_id: {type: id, description: Where the card was read.}\n"
ENTITIES = "  terminal: {id: terminal_id, max_events: 64}\n  shop: {id: merchant_id}\n"
FEATURES = """
  - {name: max_amount_24h, kind: window, entity: user, aggregate: max, column: amount, window: 24h, default: amount}
  - {name: terminal_distinct_users_1d, kind: window, entity: terminal, aggregate: distinct, column: user_id, window: 1d}
  - {name: shop_fraud_rate_30d, kind: daily, entity: shop, aggregate: fraud_rate, days: 30, label_delay_days: 7}
"""
LATER = """
  - {name: users_of_terminal_7d, kind: window, entity: terminal, aggregate: distinct, column: user_id, window: 7d}
"""
ADDED = ("max_amount_24h", "terminal_distinct_users_1d", "shop_fraud_rate_30d")
COLUMNS = (
    "transaction_id", "event_timestamp", "created_timestamp", "user_id", "merchant_id", "amount", "merchant_category",
    "distance_from_home", "terminal_id",
)  # fmt: skip
DETAILS = {
    "event_timestamp": ", format: ISO8601", "created_timestamp": ", format: ISO8601",
    "distance_from_home": ", unit: miles",
}  # fmt: skip
MAPPING = "name: export\nsource: {format: csv}\n" + "".join(
    f"{name}: {{column: {name}{DETAILS.get(name, '')}}}\n" for name in COLUMNS
)
"""A source whose columns have our names: a mapping names each of them."""


class Project:
    """A copy of the project with its own stack."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = small_project(folder), folder / "var"
        (folder / "feature_repo").unlink()
        shutil.copytree(ROOT / "feature_repo", folder / "feature_repo")
        self.file = folder / "feature_repo/features.yaml"
        shutil.copy(ROOT / "tests/declarations/three.yaml", self.file)
        self.env = {**os.environ, "FRAUD_HOME": str(self.home), "FRAUD_PROJECT": str(folder), "FRAUD_ACTOR": "ada"}

    def add(self, column: str = "", entities: str = "", features: str = "") -> None:
        """Edit features.yaml."""
        text = self.file.read_text()
        text = text.replace("entities:\n", f"{column}entities:\n{entities}", 1)
        self.file.write_text(text.rstrip() + "\n" + features.lstrip("\n"))

    def embedded(self, *arguments: str) -> None:
        subprocess.run([str(PYTHON), "-m", "fraud.embedded", *arguments], env=self.env, check=True, cwd=self.folder)

    def fraud(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        done = subprocess.run([*FRAUD, *arguments, "--json"], env=self.env, check=False, capture_output=True, text=True)
        assert done.returncode == code, f"fraud {' '.join(arguments)}: {done.stdout}\n{done.stderr[-3000:]}"
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return result

    def serving(self) -> httpx.Client:
        port = json.loads((self.home / "stack.json").read_text())["ports"]["serving"]
        return httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)

    def traffic(self, source: str, limit: int) -> dict[str, Any]:
        with self.serving() as client:
            url = str(client.base_url)
        return self.fraud("traffic", f"--source={self.home / source}", f"--url={url}", f"--limit={limit}", "--rate=0")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    made = Project(tmp_path_factory.mktemp("team") / "project")
    made.add(COLUMN, ENTITIES, FEATURES)
    try:
        made.embedded("up", "--free-ports", "--only", "valkey", "mlflow")
        start_serving(made.folder, made.home)
        lines = (made.home / "stack.env").read_text().splitlines()
        made.env |= dict(line.split("=", 1) for line in lines)
        yield made
    finally:
        made.embedded("down")


def until(condition: Callable[[], bool], what: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.2)


def train_and_promote(project: Project) -> str:
    for job in ("build-daily", "build-features", "materialize", "training-set", "train", "promote"):
        result = project.fraud(job, *(["--live"] if job in ("build-daily", "build-features", "materialize") else []))
    return str(result["version"])


def served_by(project: Project, version: str) -> None:
    """Wait until serving has swapped the version in."""
    with project.serving() as client:
        until(lambda: client.get("/model").json().get("model_version") == version, f"version {version} is served", 60)


def test_a_team_adds_features_a_column_and_an_entity_by_editing_one_file(project: Project) -> None:
    project.fraud("simulate", *WORLD)
    delivered = sorted((project.home / "landing/transactions").rglob("*.parquet"))
    days = [pq.read_table(path) for path in delivered]
    assert "terminal_id" in days[0].column_names, "the simulator generates a column that it has no role for"

    # One delivery arrives as another system's export.
    export, mapping = project.folder / "export.csv", project.folder / "mapping.yaml"
    mapping.write_text(MAPPING)
    first = days[0].select(list(COLUMNS))
    times = [first[name].cast(pa.string()) for name in ("event_timestamp", "created_timestamp")]
    pc.write_csv(first.set_column(1, COLUMNS[1], times[0]).set_column(2, COLUMNS[2], times[1]), export)
    delivered[0].unlink()
    assert project.fraud("import", f"--source={export}", f"--mapping={mapping}")["transactions"] == first.num_rows

    ingested = project.fraud("ingest")
    assert ingested["accepted"] > 0
    assert ingested["quarantined"] < 0.02 * ingested["accepted"]
    project.fraud("ingest-labels")
    version = train_and_promote(project)
    served_by(project, version)

    sent = project.traffic("landing/held_back", 500)
    assert sent["answered"] == sent["sent"] > 300
    assert sent["degraded"] == 0
    payment = days[-1].slice(0, 1).to_pylist()[0]
    request = {name: payment[name] for name in COLUMNS if name not in ("created_timestamp", "event_timestamp")}
    request |= {"transaction_id": "explained", "event_timestamp": payment["event_timestamp"].isoformat()}
    with project.serving() as client:
        answer = client.post("/predict?explain=true", json=request).raise_for_status().json()
        refused = client.post("/predict", json=request | {"no_such_column": 1})
    assert refused.status_code == 422
    assert refused.json()["field"] == "no_such_column"
    explained = {name for reason in answer["reasons"] for name in reason["values"]}
    assert explained & {*ADDED, "terminal_id"} or len(answer["reasons"]) > 0

    shipped = project.fraud("ship-predictions")
    assert shipped["rows"] > sent["sent"]
    skew = project.fraud("skew")
    assert skew["mismatches"] == 0
    assert skew["compared"] > 300
    assert skew["features"].keys() >= set(ADDED)
    project.fraud("score")
    project.fraud("drift")
    receipt = project.fraud("receipt", answer["prediction_id"])
    assert {name for group in receipt["features"].values() for name in group} >= set(ADDED)
    assert receipt["columns"]["terminal_id"] == payment["terminal_id"]
    replay = project.fraud("replay", answer["prediction_id"])
    assert replay["equal"] == {"served": 1}


def test_a_version_with_other_features_is_released_beside_the_old_one(project: Project) -> None:
    """Runs after the test above, on its stack: `LATER` needs another history of the same entity."""
    with project.serving() as client:
        old = client.get("/model").json()["model_version"]
    project.add(features=LATER)
    for job in ("build-daily", "build-features"):
        project.fraud(job, "--live")
    project.fraud("training-set")
    new = str(project.fraud("train", "--force")["version"])
    refused = project.fraud("promote", f"--version={new}", code=3)
    assert "fraud materialize" in json.dumps(refused)
    project.fraud("materialize", "--live")
    waiver = (
        "--waive=better_than_production",
        "--waiver-reason=a test of two declarations",
        f"--waiver-expires={datetime.now(UTC).date() + timedelta(9)}",
    )
    project.fraud("promote", f"--version={new}", "--reason=more features", *waiver)
    served_by(project, new)
    sent = project.traffic("landing/held_back", 200)
    assert sent["answered"] == 200
    project.fraud("rollback", "--reason=the old one again")
    served_by(project, old)
    assert project.traffic("landing/held_back", 200)["answered"] == 200
    project.fraud("ship-predictions")
    assert project.fraud("skew")["mismatches"] == 0
