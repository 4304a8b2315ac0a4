"""Automatic retraining after drift, on a whole embedded stack with Airflow's scheduler.

A first model is trained and promoted by runs that the assets start. Then days are delivered on which customers spend
differently and stolen cards are tested with 2 USD, with their labels. One trigger of ingest starts the rest: features,
scores, drift, the request for retraining, training, gates, promotion, the swap in serving.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from tests.e2e.project import small_project

from fraud.embedded.follow import MAIN_JOB, Follower
from fraud.embedded.servers.airflow_api import AirflowApi, Run
from fraud.embedded.stack import Stack
from fraud.settings import Settings

pytestmark = [pytest.mark.long, pytest.mark.timeout(1500)]  # Airflow starts, two trainings
WORLD = ("--users=400", "--seed=3", "--fraud-rate=0.04", "--data-drift", "--drift-from=50")
CHANGES = "2025-02-20"  # day 50 of the simulation
PAYMENT = {
    "amount": 40.0, "merchant_category": "grocery", "hour_of_day": 12, "day_of_week": 2, "transaction_velocity": 0.0,
    "distance_from_home": 2.0,
}  # fmt: skip


class Platform:
    """A running stack and a client of its Airflow."""

    def __init__(self, project: Path, home: Path) -> None:
        self.stack = Stack.open(Settings(home=home, project=project))
        self.api = AirflowApi(self.stack.url("airflow"), self.stack.secret["AIRFLOW_ADMIN_PASSWORD"])
        deadline = time.monotonic() + 300
        while MAIN_JOB.difference(self.api.dags()):
            assert time.monotonic() < deadline, self.api.import_errors()
            time.sleep(0.5)

    def fraud(self, *arguments: str) -> dict[str, Any]:
        """Run a job. Returns its result."""
        env = {**os.environ, **self.stack.environment("ml")}
        command = [self.stack.program("ml", "fraud"), *arguments, "--json"]
        answer = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE)
        result: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
        return result

    def from_ingest(self, feed: str, *dags: str) -> list[Run]:
        """Trigger ingest, and wait for the runs that its assets start and until no run is left."""
        follower = Follower(self.api, self.stack.home / "airflow/logs", datetime.now(UTC), print)
        runs = follower.chain(self.api.trigger("ingest_transactions", {"feed": feed}), dags)
        follower.until_quiet()
        return runs

    def served(self) -> str:
        answer = httpx.get(f"{self.stack.url('serving')}/model", timeout=30).raise_for_status()
        return str(answer.json()["model_version"])


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    project = small_project(tmp_path / "project")
    home = project / "var"
    env = {**os.environ, "FRAUD_HOME": str(home), "FRAUD_PROJECT": str(project)}
    command = [sys.executable, "-m", "fraud.embedded"]
    try:
        subprocess.run([*command, "up", "--free-ports"], env=env, check=True)
        made = Platform(project, home)
        yield made
        made.api._http.close()
    finally:
        subprocess.run([*command, "down"], env=env, check=True)
        shutil.rmtree(project, ignore_errors=True)


def deliver_drifted_days(platform: Platform) -> None:
    """Deliver the next forty days of the same simulation. Every fraud in them is an online payment of 2 USD."""
    landing, later = platform.stack.home / "landing", platform.stack.home / "later"
    platform.fraud("simulate", "--days=90", f"--out=file://{later}", *WORLD)
    labels = ds.dataset(later / "labels", format="parquet").to_table()
    frauds = labels["transaction_id"].filter(labels["is_fraud"]).combine_chunks()
    for file in sorted(later.rglob("*.parquet")):
        if file.parent.name < f"dt={CHANGES}":
            continue
        table = pq.read_table(file)
        if file.parent.parent.name == "transactions":
            stolen = pc.is_in(table["transaction_id"], frauds)
            for name, value in (("amount", 2.0), ("merchant_category", "misc_net")):
                at = table.column_names.index(name)
                table = table.set_column(at, table.field(name), pc.if_else(stolen, value, table[name]))
        target = landing / file.relative_to(later)
        target.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, target)


class Checkout:
    """Sends requests continuously; records the versions that answered and every answer other than a 200."""

    def __init__(self, url: str) -> None:
        self.versions: list[str] = []
        self.refused: list[str] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._send, args=(url,))
        self._thread.start()

    def _send(self, url: str) -> None:
        with httpx.Client(base_url=url, timeout=60) as client:
            while not self._ended.wait(0.05):
                answer = client.post("/predict", json=PAYMENT)
                if answer.status_code != httpx.codes.OK:
                    self.refused.append(answer.text)
                elif (version := answer.json()["model_version"]) not in self.versions[-1:]:
                    self.versions.append(version)

    def end(self) -> None:
        self._ended.set()
        self._thread.join()


def test_drift_leads_to_a_new_production_model(platform: Platform) -> None:
    platform.fraud("simulate", "--days=50", *WORLD)
    platform.from_ingest("all", "build_features", "train_fraud_model", "promote_model", "score_nightly")
    assert platform.served() == "1"

    checkout = Checkout(platform.stack.url("serving"))
    try:
        deliver_drifted_days(platform)
        # Without Airflow: labels and features together would start the nightly training. Only drift may start one.
        platform.fraud("ingest-labels")
        runs = platform.from_ingest(
            "transactions", "build_features", "score_nightly", "monitor_drift", "train_fraud_model", "promote_model"
        )
        deadline = time.monotonic() + 180
        while platform.served() != "2":
            assert time.monotonic() < deadline, "serving did not load the new model"
            time.sleep(0.2)
    finally:
        checkout.end()
    assert checkout.refused == []
    assert checkout.versions == ["1", "2"]

    drift = platform.api.result(runs[3], "drift") or {}
    assert drift["retrain"] is True
    assert drift["model_version"] == "1"
    states = {task.id: task.state for task in platform.api.tasks(runs[3])}
    assert states["request_retraining"] == "success"
    assert runs[4].id.startswith("asset_triggered")
    trained = platform.api.result(runs[4], "train") or {}
    assert trained["gates_passed"] is True
    assert cause_of(platform, trained["run_id"]) == "data drift"
    history = platform.fraud("history")["changes"]
    assert [(row["action"], row["version"], row["actor"]) for row in history] == [
        ("promote", "1", "airflow"), ("promote", "2", "airflow"),
    ]  # fmt: skip


def cause_of(platform: Platform, run_id: str) -> str | None:
    """The tag of the MLflow run."""
    login = ("admin", platform.stack.secret["MLFLOW_ADMIN_PASSWORD"])
    url = f"{platform.stack.url('mlflow')}/api/2.0/mlflow/runs/get"
    run = httpx.get(url, params={"run_id": run_id}, auth=login).raise_for_status().json()["run"]
    return next((tag["value"] for tag in run["data"]["tags"] if tag["key"] == "cause"), None)
