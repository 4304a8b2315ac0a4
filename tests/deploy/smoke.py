"""The main job's path against the running compose stack: `make smoke`.

Runs inside the scheduler's container, with the ML environment's Python, so that a host needs Docker and nothing else:
it reaches the other containers as jobs do. A world is landed, Airflow runs ingest -> features -> train -> promote (this
script is the person who approves) -> score -> drift, the proxy answers a checkout. Safe to run again: what was taken in
is kept, and then only the answers are checked. Prints a line per step and one of JSON at the end.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Final

import httpx

from fraud.embedded.follow import MAIN_JOB, Follower
from fraud.embedded.servers.airflow_api import FINISHED, AirflowApi, Run

AIRFLOW: Final = os.environ["FRAUD_AIRFLOW_URL"]
PROXY: Final = "http://proxy:8000"
LANDING: Final = Path(os.environ["FRAUD_HOME"]) / "landing"
WORLD: Final = os.environ.get("SMOKE_WORLD", "--days=150 --users=1500 --seed=1").split()
STARTED: Final = time.monotonic()
HANDBOOK: Final = {
    "amount": 4999.99, "merchant_category": "electronics", "hour_of_day": 3, "day_of_week": 2,
    "transaction_velocity": 12.0, "distance_from_home": 850.5,
}  # fmt: skip


def say(line: str) -> None:
    print(f"{time.monotonic() - STARTED:6.0f} s  {line}", flush=True)


def job(*arguments: str) -> dict[str, Any]:
    """Run `fraud` and return its result."""
    done = subprocess.run(
        [os.environ["FRAUD_COMMAND"], *arguments, "--json"], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"fraud {' '.join(arguments)} failed with {done.returncode}: {done.stdout}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def dags_known(api: AirflowApi) -> None:
    deadline = time.monotonic() + 180
    while not MAIN_JOB.issubset(api.dags()):
        if time.monotonic() > deadline:
            sys.exit(f"Airflow knows {api.dags()}; import errors: {api.import_errors()}")
        time.sleep(1)


def approve(api: AirflowApi, run: Run) -> None:
    """Answer the approval that `promote_model` asks for, as the person we are logged in as."""
    path = f"/dags/{run.dag}/dagRuns/{run.id}/taskInstances/approval/-1/hitlDetails"
    api._ask("PATCH", path, json={"chosen_options": ["Approve"], "params_input": {}})


def until_finished(api: AirflowApi, follower: Follower, dag: str, after: datetime) -> Run:
    """The run of `dag` queued after a time; approves when it asks."""
    deadline, approved = time.monotonic() + 1200, False
    while time.monotonic() < deadline:
        for run in (run for run in follower.look() if run.dag == dag and run.queued_at > after):
            if run.state in FINISHED:
                return run
            requested = next((task.state for task in api.tasks(run) if task.id == "approval"), None)
            waiting = requested in ("awaiting_input", "deferred")
            if waiting and not approved:
                approve(api, run)
                approved = True
                say("  approved")
        time.sleep(1)
    sys.exit(f"no finished run of {dag} after 20 minutes")


def chain(api: AirflowApi, follower: Follower, first: Run, dags: Sequence[str]) -> Run:
    run = until_finished(api, follower, first.dag, first.queued_at.replace(year=2000))
    for dag in dags:
        run = until_finished(api, follower, dag, run.queued_at)
    return run


def served_version(client: httpx.Client) -> str:
    deadline = time.monotonic() + 60
    while client.get("/ready").status_code != httpx.codes.OK:
        if time.monotonic() > deadline:
            sys.exit("serving has no model a minute after promotion")
        time.sleep(0.5)
    return str(client.get("/model").json()["model_version"])


def main() -> None:
    key = f"checkout.{os.environ['SERVING_CHECKOUT_KEY']}"
    if not (LANDING / "transactions").is_dir():
        say(f"fraud simulate {' '.join(WORLD)}")
        say(f"  {job('simulate', *WORLD, '--hold-back-days=1')}")
    api = AirflowApi(AIRFLOW, os.environ["AIRFLOW_ADMIN_PASSWORD"])
    dags_known(api)
    follower = Follower(api, Path("/var/lib/airflow/logs"), datetime.now(UTC), say)
    say("ingest_transactions")
    ingest = follower.until_finished(api.trigger("ingest_transactions", {"feed": "all"}))
    if any(task.state == "success" for task in api.tasks(ingest)):
        trained = chain(api, follower, ingest, ["build_features", "train_fraud_model"])
        promoted = until_finished(api, follower, "promote_model", trained.queued_at)
        chain(api, follower, promoted, ["score_nightly", "monitor_drift"])
    else:
        say("nothing new to take in")
    with httpx.Client(base_url=PROXY, headers={"X-API-Key": key}, timeout=10) as client:
        version = served_version(client)
        answer = client.post("/predict", json=HANDBOOK)
        unknown = client.post("/predict", json=HANDBOOK, headers={"X-API-Key": "checkout.wrong"})
    if answer.status_code != httpx.codes.OK or answer.json()["model_version"] != version:
        sys.exit(f"the handbook's request: {answer.status_code} {answer.text}, expected version {version}")
    if unknown.status_code != httpx.codes.UNAUTHORIZED:
        sys.exit(f"a wrong API key was answered with {unknown.status_code}")
    with NamedTemporaryFile("w") as file:
        file.write(key)
        file.flush()
        traffic = job(
            "traffic", f"--source={LANDING / 'held_back'}", f"--url={PROXY}", f"--key-file={file.name}", "--limit=2000"
        )
    if traffic["failed"]:
        sys.exit(f"checkout traffic failed: {traffic}")
    history = job("history")
    print(json.dumps({"version": version, "answer": answer.json(), "traffic": traffic, "history": history}))


if __name__ == "__main__":
    main()
