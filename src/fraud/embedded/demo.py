"""Run the main job once, end to end, on a running stack: from landed data to a model and a day of checkout traffic.

The demo triggers Airflow's DAGs, follows their runs and prints a summary. It may be killed at any step and started
again: existing data is kept, ingested files are skipped, and unfinished runs of Airflow are followed to their end.
"""

import argparse
import json
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from glob import glob
from pathlib import Path
from typing import Any, Final, Self

import httpx

from fraud.embedded import processes
from fraud.embedded.follow import MAIN_JOB, Follower
from fraud.embedded.servers.airflow_api import FINISHED, AirflowApi, Run
from fraud.embedded.stack import Stack
from fraud.embedded.summary import summary
from fraud.errors import BadConfigError, RefusedError, UnavailableError
from fraud.secret_file import write_private

_DAGS_APPEAR_SECONDS: Final = 90.0
_SERVING_SECONDS: Final = 60.0
_JOIN_SECONDS: Final = 180.0
_POLL_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class Source:
    """The source of the demo's data: the `fraud` command that writes it to the landing zone."""

    command: tuple[str, ...]

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Self:
        """Read the command line. Raises BadConfigError for a source without a mapping, or a missing file."""
        if not arguments.source:
            flags = {"days": arguments.days, "users": arguments.users, "seed": arguments.seed, "hold-back-days": 1}
            return cls(("simulate", *(f"--{name}={value}" for name, value in flags.items())))
        if arguments.mapping is None:
            raise BadConfigError("a source needs a mapping", hint="MAPPING=mappings/<dataset>.yaml; see docs/data.md")
        for path in (str(arguments.mapping), *([] if "://" in arguments.source else [arguments.source])):
            # A source may be a folder or a glob pattern.
            if not (Path(path).exists() or glob(path, recursive=True)):  # noqa: PTH207 - pathlib takes no absolute ones
                raise BadConfigError(f"{path} does not exist", hint="relative paths start at the project's folder")
        return cls(("import", f"--source={arguments.source}", f"--mapping={arguments.mapping}", "--hold-back-days=1"))


class Demo:
    """One run of the main job. `progress` is called with each line of progress."""

    def __init__(self, stack: Stack, source: Source, progress: Callable[[str], None]) -> None:
        self._stack, self._source, self._progress = stack, source, progress
        self._landing = stack.home / "landing"
        self._state = stack.home / "demo.json"

    def run(self) -> None:
        """Run every step. Raises FraudError with the failed step and its log."""
        started = time.monotonic()
        landed = self._land()
        api = self._airflow()
        # The held-back day is delivered only after a model was served, and it starts no training.
        if not any(target.exists() for _, target in self._held_back()):
            first = self._through_airflow(api, {"feed": "all"})
            if first:
                self._follow_first(api, first)
        version = self._serving_version(api)
        traffic = self._send_held_back(version)
        self._land_held_back()
        self._progress("held-back day delivered to the landing zone")
        second = self._through_airflow(api, {"feed": "transactions"})
        if second:
            follower, run = second
            follower.chain(run, ["build_features", "score_nightly", "monitor_drift"])
            follower.until_quiet()
        text = summary(self._stack, api, landed, traffic, time.monotonic() - started)
        (self._stack.home / "summary.txt").write_text(text)
        print(text, flush=True)  # noqa: T201 - the demo's output

    def _send_held_back(self, version: str) -> dict[str, Any]:
        """Send the held-back day through the topic in a stack with streaming, otherwise through POST /predict."""
        source = f"--source={self._landing / 'held_back'}"
        if self._stack.stream:
            self._wait_for_partitions()
            self._progress(f"serving has version {version}; sending the held-back day through the topic transactions")
            return self._job("traffic-topic", source)
        self._progress(f"serving answers with version {version}; sending the held-back day through /predict")
        return self._job("traffic", source, f"--url={self._stack.url('serving')}")

    def _wait_for_partitions(self) -> None:
        """Wait until the consumer has joined its group, so that the join is not measured. Raises UnavailableError."""
        deadline, log = time.monotonic() + _JOIN_SECONDS, self._stack.log("stream")
        while True:
            try:
                metrics = httpx.get(f"{self._stack.url('stream')}/metrics", timeout=5).raise_for_status().text
                if re.search(r"^stream_assigned_partitions [1-9]", metrics, re.MULTILINE):
                    return
                reason = "no partition is assigned"
            except httpx.HTTPError as error:
                reason = type(error).__name__
            if time.monotonic() > deadline:
                raise UnavailableError("the consumer of the topic is not ready", got=reason, hint=f"read {log}")
            time.sleep(_POLL_SECONDS)

    def _job(self, *arguments: str) -> dict[str, Any]:
        """Run a `fraud` job as from a shell. Returns its result."""
        log = self._stack.log(arguments[0])
        command = [self._stack.program("ml", "fraud"), *arguments, "--json"]
        output = processes.run_step(arguments[0], command, self._stack.environment("ml"), log, self._stack.project)
        result: dict[str, Any] = json.loads(output.splitlines()[-1])
        return result

    def _land(self) -> dict[str, Any]:
        """Write the data to the landing zone, once. Raises BadConfigError when the stack has data of another source."""
        if self._state.is_file():
            recorded = json.loads(self._state.read_text())
            if recorded["command"] != list(self._source.command):
                raise BadConfigError(
                    "this stack contains data of another source",
                    expected=" ".join(recorded["command"]),
                    got=" ".join(self._source.command),
                    hint="remove the data with make clean, or set another FRAUD_HOME",
                )
            self._progress(f"data exists already: fraud {' '.join(recorded['command'])}")
            landed: dict[str, Any] = recorded["result"]
            return landed
        self._progress(f"fraud {' '.join(self._source.command)}")
        result = self._job(*self._source.command)
        write_private(self._state, json.dumps({"command": self._source.command, "result": result}, indent=1))
        return result

    def _airflow(self) -> AirflowApi:
        """Wait until Airflow lists the main job's DAGs. Raises UnavailableError with the import errors."""
        api = AirflowApi(self._stack.url("airflow"), self._stack.secret["AIRFLOW_ADMIN_PASSWORD"])
        deadline = time.monotonic() + _DAGS_APPEAR_SECONDS
        while missing := MAIN_JOB.difference(api.dags()):
            errors = api.import_errors()
            if errors or time.monotonic() > deadline:
                raise UnavailableError("Airflow does not list every DAG", got=f"no {sorted(missing)}; {errors}")
            time.sleep(_POLL_SECONDS)
        return api

    def _follower(self, api: AirflowApi) -> Follower:
        return Follower(api, self._stack.home / "airflow/logs", datetime.now(UTC), self._progress)

    def _through_airflow(self, api: AirflowApi, conf: dict[str, str]) -> tuple[Follower, Run] | None:
        """Trigger ingest and wait for its end. None when it ingested no new file, after unfinished runs ended."""
        follower = self._follower(api)
        self._progress(f"ingest_transactions, {conf['feed']} feeds")
        run = follower.until_finished(api.trigger("ingest_transactions", conf))
        if any(task.state == "success" for task in api.tasks(run)):
            return follower, run
        self._progress("no new file to ingest")
        follower.until_quiet()
        return None

    def _follow_first(self, api: AirflowApi, first: tuple[Follower, Run]) -> None:
        follower, run = first
        trained = follower.chain(run, ["build_features", "train_fraud_model"])[-1]
        if not any(task.id == "candidate" and task.state == "success" for task in api.tasks(trained)):
            follower.until_quiet()
            gates = (api.result(trained, "train") or {}).get("gates", [])
            failed = [gate for gate in gates if not gate.get("passed")]
            raise RefusedError(
                "no level passed every gate, so nothing was promoted",
                got="\n" + "\n".join(f"    {gate}" for gate in failed),
                hint=f"read the gate report: {self._stack.url('airflow')}/dags/train_fraud_model",
            )
        follower.chain(trained, ["promote_model", "score_nightly", "monitor_drift"])
        follower.until_quiet()

    def _serving_version(self, api: AirflowApi) -> str:
        """Wait until serving has a model, as long as a DAG runs. Raises UnavailableError."""
        url, follower = self._stack.url("serving"), self._follower(api)
        deadline = time.monotonic() + _SERVING_SECONDS
        while True:
            try:
                answer = httpx.get(f"{url}/ready", timeout=5)
                if answer.status_code == httpx.codes.OK:
                    return str(httpx.get(f"{url}/model", timeout=5).raise_for_status().json()["model_version"])
                reason = answer.text[:300]
            except httpx.HTTPError as error:
                reason = type(error).__name__
            if any(run.state not in FINISHED for run in follower.poll()):
                deadline = time.monotonic() + _SERVING_SECONDS
            elif time.monotonic() > deadline:
                raise UnavailableError(
                    "serving is not ready",
                    got=reason,
                    hint=f"open the newest run of {self._stack.url('airflow')}/dags/train_fraud_model and read "
                    f"{self._stack.log('serving')}",
                )
            time.sleep(_POLL_SECONDS)

    def _held_back(self) -> list[tuple[Path, Path]]:
        """The files of the held-back day, each with its path in the landing zone."""
        held_back = self._landing / "held_back"
        return [(file, self._landing / file.relative_to(held_back)) for file in sorted(held_back.rglob("*.parquet"))]

    def _land_held_back(self) -> None:
        """Copy the held-back files to the landing zone. The originals are kept: a second demo sends them again."""
        for file, target in self._held_back():
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary = target.with_suffix(".new")
                shutil.copyfile(file, temporary)
                temporary.replace(target)
