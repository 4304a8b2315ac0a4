"""V0 to V1 to V3 over one FRAUD_HOME: each step has the data, models and history of the one before."""

import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.e2e.installation import Installation

from fraud.embedded.follow import Follower
from fraud.embedded.servers.airflow_api import AirflowApi
from fraud.embedded.stack import Stack
from fraud.lake import catalog
from fraud.settings import Settings

SHORT = {
    "amount": 4999.99, "merchant_category": "electronics", "hour_of_day": 3, "day_of_week": 2,
    "transaction_velocity": 12.0, "distance_from_home": 850.5,
}  # fmt: skip


class Embedded:
    """The services of V1 and V3, as processes."""

    def __init__(self, here: Installation) -> None:
        self._here = here

    def __call__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "fraud.embedded", *arguments]
        subprocess.run(command, env=self._here.environment, check=True)

    def stack(self) -> Stack:
        return Stack.open(Settings(home=self._here.home, project=self._here.project))

    def variables(self) -> dict[str, str]:
        """What a shell that sources stack.env has."""
        lines = (self._here.home / "stack.env").read_text().splitlines()
        return {name: shlex.split(value)[0] for name, _, value in (line.partition("=") for line in lines)}


@pytest.fixture
def here(tmp_path: Path) -> Installation:
    return Installation(tmp_path)


@pytest.fixture
def embedded(here: Installation) -> Iterator[Embedded]:
    services = Embedded(here)
    yield services
    services("down")


def answer(stack: Stack) -> dict[str, Any]:
    """Serving's answer to the short request. `up` returns when serving is ready."""
    found: dict[str, Any] = httpx.post(f"{stack.url('serving')}/predict", json=SHORT).raise_for_status().json()
    return found


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_each_step_takes_over_the_data_models_and_history_of_the_one_before(
    here: Installation, embedded: Embedded
) -> None:
    *before, last = here.days
    here.deliver(*before)
    assert here.night(1)["promote_model.promote"] == "success"
    model = here.fraud("production-version")["version"]
    history, transactions = here.fraud("history")["changes"], here.rows(catalog.TRANSACTIONS)

    # V1
    here.fraud("copy-registry")
    embedded("up", "--free-ports", "--only", "valkey", "mlflow", "serving")
    here.use(embedded.variables())
    assert here.fraud("materialize", "--live")["appended"] > 0
    assert answer(embedded.stack())["model_version"] == model
    assert here.fraud("history")["changes"] == history
    assert here.rows(catalog.TRANSACTIONS) == transactions
    here.deliver(last)
    night = here.night(2)
    assert night["build_features.materialize"] == night["score_nightly.score"] == "success"
    assert list(here.rows(catalog.SCORES))[-1] == last
    model, history = here.fraud("production-version")["version"], here.fraud("history")["changes"]

    # V3
    embedded("up")
    stack = embedded.stack()
    api = AirflowApi(stack.url("airflow"), stack.secret["AIRFLOW_ADMIN_PASSWORD"])
    deadline = time.monotonic() + 300
    while not {"ingest_transactions", "score_nightly"} <= set(api.dags()):
        assert time.monotonic() < deadline, api.import_errors()
        time.sleep(0.5)
    follower = Follower(api, stack.home / "airflow/logs", datetime.now(UTC), print)
    ingested = follower.until_finished(api.trigger("ingest_transactions", {"feed": "all"}))
    assert {task.state for task in api.tasks(ingested)} == {"skipped"}, "nothing is ingested twice"
    scored = follower.until_finished(api.trigger("score_nightly", {}))
    states = {task.id: task.state for task in api.tasks(scored)}
    assert states["production_model"] == states["score"] == "success"
    assert (api.result(scored, "score") or {})["model_version"] == model
    assert answer(stack)["model_version"] == model
    assert here.fraud("history")["changes"] == history
