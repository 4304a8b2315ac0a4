"""The main job once, end to end, on a running stack: data in, a model out, a day of checkout traffic against it.

Airflow does the work; this triggers it, follows it and sums it up. It may be killed at any step and run again: data
that is there is kept, files that were ingested are skipped, and Airflow's unfinished runs are followed to their end.
"""

import argparse
import json
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
_POLL_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class Source:
    """Where the demo's data comes from, as the command that lands it."""

    command: tuple[str, ...]

    @classmethod
    def of(cls, given: argparse.Namespace) -> Self:
        """From the command line. Raises BadConfigError for a source without mapping, or a missing file."""
        if not given.source:
            flags = {"days": given.days, "users": given.users, "seed": given.seed, "hold-back-days": 1}
            return cls(("simulate", *(f"--{name}={value}" for name, value in flags.items())))
        if given.mapping is None:
            raise BadConfigError("a source needs a mapping", hint="MAPPING=mappings/<dataset>.yaml; see docs/data.md")
        for path in (str(given.mapping), *([] if "://" in given.source else [given.source])):
            # A source may be a folder or a glob pattern.
            if not (Path(path).exists() or glob(path, recursive=True)):  # noqa: PTH207 - pathlib takes no absolute ones
                raise BadConfigError(f"{path} is not there", hint="check the path: it counts from the project's folder")
        return cls(("import", f"--source={given.source}", f"--mapping={given.mapping}", "--hold-back-days=1"))


class Demo:
    """One walk through the main job. `say` tells a line of progress."""

    def __init__(self, stack: Stack, source: Source, say: Callable[[str], None]) -> None:
        self._stack, self._source, self._say = stack, source, say
        self._landing = stack.home / "landing"
        self._state = stack.home / "demo.json"

    def run(self) -> None:
        """All of it. Raises FraudError naming the step that failed and its log."""
        began = time.monotonic()
        landed = self._land()
        api = self._airflow()
        # The held-back day lands only after a model was served, and no training follows from it.
        if not any(target.exists() for _, target in self._held_back()):
            first = self._through_airflow(api, {"feed": "all"})
            if first:
                self._follow_first(api, first)
        version = self._serving_version(api)
        self._say(f"serving answers with version {version}; sending the held-back day through /predict")
        traffic = self._job("traffic", f"--source={self._landing / 'held_back'}", f"--url={self._stack.url('serving')}")
        self._land_held_back()
        self._say("the held-back day lands")
        second = self._through_airflow(api, {"feed": "transactions"})
        if second:
            follower, run = second
            follower.chain(run, ["build_features", "score_nightly", "monitor_drift"])
            follower.until_quiet()
        text = summary(self._stack, api, landed, traffic, time.monotonic() - began)
        (self._stack.home / "summary.txt").write_text(text)
        print(text, flush=True)  # noqa: T201 - the demo's answer

    def _job(self, *arguments: str) -> dict[str, Any]:
        """Run a `fraud` job as a person would. Returns its result."""
        log = self._stack.log(arguments[0])
        command = [self._stack.program("ml", "fraud"), *arguments, "--json"]
        output = processes.run_step(arguments[0], command, self._stack.environment("ml"), log, self._stack.project)
        result: dict[str, Any] = json.loads(output.splitlines()[-1])
        return result

    def _land(self) -> dict[str, Any]:
        """Data in the landing zone, made now or found there. Raises BadConfigError when another world is there."""
        if self._state.is_file():
            known = json.loads(self._state.read_text())
            if known["command"] != list(self._source.command):
                raise BadConfigError(
                    "this stack holds other data",
                    expected=" ".join(known["command"]),
                    got=" ".join(self._source.command),
                    hint="make clean for a new start, or another FRAUD_HOME",
                )
            self._say(f"data is there: fraud {' '.join(known['command'])}")
            kept: dict[str, Any] = known["result"]
            return kept
        self._say(f"fraud {' '.join(self._source.command)}")
        result = self._job(*self._source.command)
        write_private(self._state, json.dumps({"command": self._source.command, "result": result}, indent=1))
        return result

    def _airflow(self) -> AirflowApi:
        """A session, once the main job's DAGs are known. Raises UnavailableError with the import errors otherwise."""
        api = AirflowApi(self._stack.url("airflow"), self._stack.secret["AIRFLOW_ADMIN_PASSWORD"])
        deadline = time.monotonic() + _DAGS_APPEAR_SECONDS
        while missing := MAIN_JOB.difference(api.dags()):
            errors = api.import_errors()
            if errors or time.monotonic() > deadline:
                raise UnavailableError("Airflow does not know every DAG", got=f"no {sorted(missing)}; {errors}")
            time.sleep(_POLL_SECONDS)
        return api

    def _follower(self, api: AirflowApi) -> Follower:
        return Follower(api, self._stack.home / "airflow/logs", datetime.now(UTC), self._say)

    def _through_airflow(self, api: AirflowApi, conf: dict[str, str]) -> tuple[Follower, Run] | None:
        """Trigger ingest; None when there was nothing new and what was under way is done."""
        follower = self._follower(api)
        self._say(f"ingest_transactions, {conf['feed']} feeds")
        run = follower.until_finished(api.trigger("ingest_transactions", conf))
        if any(task.state == "success" for task in api.tasks(run)):
            return follower, run
        self._say("nothing new to take in")
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
        """Wait until serving has a model, as long as Airflow is at work. Raises UnavailableError."""
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
            if any(run.state not in FINISHED for run in follower.look()):
                deadline = time.monotonic() + _SERVING_SECONDS
            elif time.monotonic() > deadline:
                raise UnavailableError(
                    "serving is not ready",
                    got=reason,
                    hint=f"look at the newest run of {self._stack.url('airflow')}/dags/train_fraud_model, and read "
                    f"{self._stack.log('serving')}",
                )
            time.sleep(_POLL_SECONDS)

    def _held_back(self) -> list[tuple[Path, Path]]:
        """The files of the held-back day, and where each lands."""
        held_back = self._landing / "held_back"
        return [(file, self._landing / file.relative_to(held_back)) for file in sorted(held_back.rglob("*.parquet"))]

    def _land_held_back(self) -> None:
        """Deliver the held-back files. They stay where they were too: a second demo sends them again."""
        for file, target in self._held_back():
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary = target.with_suffix(".new")
                shutil.copyfile(file, temporary)
                temporary.replace(target)
