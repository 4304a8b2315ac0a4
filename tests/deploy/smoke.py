"""Run the main job on the running compose stack: `make smoke`.

The script runs in the scheduler's container with the ML environment's Python, so that the host needs only Docker. It
simulates transactions, lets Airflow run ingest -> features -> train -> promote (the script gives the approval) -> score
-> drift, and sends requests to the proxy. It may be run again: ingested data is kept, and then only the answers are
checked. It prints a line for each step and a JSON line at the end.
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


def progress(line: str) -> None:
    print(f"{time.monotonic() - STARTED:6.0f} s  {line}", flush=True)


def job(*arguments: str) -> dict[str, Any]:
    """Run `fraud` and return its result."""
    finished = subprocess.run(
        [os.environ["FRAUD_COMMAND"], *arguments, "--json"], stdout=subprocess.PIPE, text=True, check=False
    )
    if finished.returncode:
        sys.exit(f"fraud {' '.join(arguments)} failed with {finished.returncode}: {finished.stdout}")
    result: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return result


def wait_for_dags(api: AirflowApi) -> None:
    deadline = time.monotonic() + 180
    while not MAIN_JOB.issubset(api.dags()):
        if time.monotonic() > deadline:
            sys.exit(f"Airflow lists {api.dags()}; import errors: {api.import_errors()}")
        time.sleep(1)


def approve(api: AirflowApi, run: Run) -> None:
    """Approve in the run of `promote_model`, as the user of the login."""
    path = f"/dags/{run.dag}/dagRuns/{run.id}/taskInstances/approval/-1/hitlDetails"
    api._request("PATCH", path, json={"chosen_options": ["Approve"], "params_input": {}})


def until_finished(api: AirflowApi, follower: Follower, dag: str, after: datetime) -> Run:
    """The finished run of `dag` queued after a time. Gives the approval if the run waits for one."""
    deadline, approved = time.monotonic() + 1200, False
    while time.monotonic() < deadline:
        for run in (run for run in follower.poll() if run.dag == dag and run.queued_at > after):
            if run.state in FINISHED:
                return run
            approval = next((task.state for task in api.tasks(run) if task.id == "approval"), None)
            waiting = approval in ("awaiting_input", "deferred")
            if waiting and not approved:
                approve(api, run)
                approved = True
                progress("  approved")
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
        progress(f"fraud simulate {' '.join(WORLD)}")
        progress(f"  {job('simulate', *WORLD, '--hold-back-days=1')}")
    api = AirflowApi(AIRFLOW, os.environ["AIRFLOW_ADMIN_PASSWORD"])
    wait_for_dags(api)
    follower = Follower(api, Path("/var/lib/airflow/logs"), datetime.now(UTC), progress)
    progress("ingest_transactions")
    ingest = follower.until_finished(api.trigger("ingest_transactions", {"feed": "all"}))
    if any(task.state == "success" for task in api.tasks(ingest)):
        trained = chain(api, follower, ingest, ["build_features", "train_fraud_model"])
        promoted = until_finished(api, follower, "promote_model", trained.queued_at)
        chain(api, follower, promoted, ["score_nightly", "monitor_drift"])
    else:
        progress("no new file to ingest")
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
