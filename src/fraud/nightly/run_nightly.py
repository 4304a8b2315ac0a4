"""Run what is due of a night, one job after the other, without Airflow.

A job runs as a process of its own, as under Airflow: its memory is released, and one that the kernel kills ends alone.
"""

import datetime as dt
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field

from fraud.errors import BadConfigError, BadInputError, FraudError, RefusedError, UnavailableError
from fraud.job import Context, JobConfig, JobResult, Moment
from fraud.nightly.chains import CHAINS, RETRAINING_REQUESTED, TRIES, Chain, Step
from fraud.nightly.state import State

_LONGEST_WAIT_S: Final = 600.0
_LOG_NIGHTS: Final = 30
_ENDED: Final = (BadConfigError, RefusedError, BadInputError, UnavailableError)
_SHOWN: Final = ("version", "verdict", "rows", "selected", "gates_passed")
"""Fields of a result that the line of a job shows, beside those that decide whether it changed something."""


class Config(JobConfig):
    """The time of the run. Jobs of a night that succeeded are not run again."""

    at: dt.time = Field(default=dt.time(2), description="time of day, UTC, from which a night is due")
    again: bool = Field(default=False, description="run the jobs of a complete night once more")
    retry_seconds: float = Field(
        default=20.0,
        ge=0,
        description="wait before a job that found a service unavailable is tried again, then twice that",
    )
    now: Moment | None = Field(default=None, description="time of the run; default: now")


class Ran(BaseModel):
    """One job of the run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dag: str
    task: str
    state: Literal["success", "skipped", "failed", "not run"]
    """skipped: it had nothing to do; not run: an earlier job of the chain failed."""
    seconds: float
    detail: str
    exit_code: int = 0

    def line(self) -> str:
        return f"{self.dag + '.' + self.task:<36} {self.state:<8} {self.seconds:>7.1f} s  {self.detail}".rstrip()


class Result(JobResult):
    """The night, and the jobs that this run started, in order. None: the night was complete."""

    night: dt.date
    jobs: list[Ran]
    seconds: float

    def as_text(self) -> str:
        if not self.jobs:
            return f"night of {self.night}: complete before, nothing is due"
        return "\n".join([*(job.line() for job in self.jobs), f"night of {self.night}: complete, {self.seconds:.1f} s"])


def run(config: Config, context: Context) -> Result:
    """Run the due jobs. Raises the error with the exit code of the failed jobs, UnavailableError beside another run."""
    began, home = time.monotonic(), context.settings.home
    home.mkdir(parents=True, exist_ok=True)
    with _alone(home / "nightly.lock") as lock, _ended_by_sigterm():
        state = State.read(home / "nightly.json")
        night = ((config.now or dt.datetime.now(dt.UTC)) - _since_midnight(config.at)).astimezone(dt.UTC).date()
        if state.night is None or state.night < night or config.again:
            state.begin(night, [c for c in CHAINS if context.settings.kafka_brokers or not c.needs_brokers])
        runner = _Runner(state, config, context, lock)
        runner.save()
        runner.run()
    if failed := [job for job in runner.jobs if job.state == "failed"]:
        _fail(night, failed, runner)
    return Result(night=night, jobs=runner.jobs, seconds=round(time.monotonic() - began, 1))


class _Runner:
    """Runs pending chains until none is left, and records each step. `jobs` has what ran."""

    def __init__(self, state: State, config: Config, context: Context, lock: int) -> None:
        self.jobs: list[Ran] = []
        self._state, self._config, self._context, self._lock = state, config, context, lock
        home = context.settings.home
        self._path = home / "nightly.json"
        self.logs = home / "logs/nightly" / str(state.night)

    def save(self) -> None:
        self._state.write(self._path)

    def run(self) -> None:
        """The first pending chain is next, because a chain that ends can start others. A failed one is left to the
        next run."""
        failed = set[str]()
        while chain := next((c for c in CHAINS if c.dag not in failed and self._state.is_pending(c)), None):
            if not self._run_chain(chain):
                failed.add(chain.dag)
        self._remove_old_logs()

    def _run_chain(self, chain: Chain) -> bool:
        """Whether no step failed."""
        ran, results = list[Ran](), dict[str, dict[str, Any]]()
        if chain.needs_approval and self._context.settings.approval == "required":
            self._report(Ran(dag=chain.dag, task=chain.steps[-1].task, state="skipped", seconds=0.0,
                             detail="a person decides: fraud gates, then fraud promote or fraud reject"))  # fmt: skip
            self._succeeded(chain)
            return True
        for step in chain.steps:
            ran.append(self._run_step(chain, step, ran[-1].state if ran else "success", results))
            self._report(ran[-1])
        if any(each.state in ("failed", "not run") for each in ran):
            return False
        causes = sorted(s.cause for s in chain.steps if s.cause and results.get(s.task, {}).get("retrain"))
        if causes:
            self._request_retraining(chain, causes)
        self._succeeded(chain)
        return True

    def _succeeded(self, chain: Chain) -> None:
        if chain.is_started_by({RETRAINING_REQUESTED}):
            self._state.causes = []
        self._state.succeeded(chain)
        self.save()

    def _run_step(self, chain: Chain, step: Step, before: str, results: dict[str, dict[str, Any]]) -> Ran:
        def ran(state: Literal["success", "skipped", "failed", "not run"], detail: str, exit_code: int = 0) -> Ran:
            seconds = round(time.monotonic() - began, 1)
            return Ran(
                dag=chain.dag, task=step.task, state=state, seconds=seconds, detail=detail, exit_code=exit_code
            )  # fmt: skip

        began = time.monotonic()
        if step.after != "any" and before in ("failed", "not run"):
            return ran("not run", "an earlier job failed")
        if step.after == "success" and before == "skipped":
            return ran("skipped", "the job before it was skipped")
        if step.needs_store and not self._context.settings.has_online_store:
            return ran("skipped", "no online store")
        key = f"{chain.dag}.{step.task}"
        tried_before = key in self._state.unfinished
        if not tried_before:
            self._state.unfinished.append(key)
            self.save()
        arguments = [each.format(cause=", ".join(self._state.causes), **results) for each in step.arguments]
        code, result = self._tried(step, [each for each in arguments if not each.endswith("=")], key)
        if code:
            return ran("failed", f"exit code {code}: {result.get('message') or 'see its log'}", code)
        results[step.task] = result
        missing = [name for name in step.required if not result[name]]
        unchanged = step.changes and not any(result[name] for name in step.changes) and not tried_before
        if not missing and not unchanged and (not step.emits_if or result[step.emits_if]):
            for asset in step.emits:
                self._state.emit(asset)
        self._state.unfinished.remove(key)
        self.save()
        if missing:
            return ran("skipped", f"no {', '.join(missing)}")
        detail = " ".join(f"{n}={result[n]}" for n in (*step.changes, *_SHOWN) if n in result)
        return ran("skipped" if unchanged else "success", detail)

    def _tried(self, step: Step, arguments: Sequence[str], key: str) -> tuple[int, dict[str, Any]]:
        """Exit code and printed object of a job, of the last try."""
        wait = self._config.retry_seconds
        for tries_left in reversed(range(TRIES)):
            code, result = self._execute(step, arguments, key)
            if not tries_left or not _may_succeed_later(code):
                break
            self._context.log.warning("job is tried again", job=step.job, exit_code=code, seconds=wait)
            time.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT_S)
        return code, result

    def _execute(self, step: Step, arguments: Sequence[str], key: str) -> tuple[int, dict[str, Any]]:
        self.logs.mkdir(parents=True, exist_ok=True)
        command = [str(Path(sys.executable).with_name("fraud")), step.job, *arguments, "--json"]
        # A job that survives a killed nightly run keeps the lock.
        with (
            (self.logs / f"{key}.log").open("ab") as log,
            subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True,
                env={**os.environ, "FRAUD_ACTOR": step.actor}, pass_fds=(self._lock,),
            ) as process,
        ):  # fmt: skip
            try:
                output, _ = process.communicate()
            finally:
                if process.poll() is None:
                    process.terminate()
        return process.returncode, _last_object(output)

    def _request_retraining(self, chain: Chain, causes: list[str]) -> None:
        """Start a training of the same night, at most once per cool-down."""
        now = self._config.now or dt.datetime.now(dt.UTC)
        cool_down = dt.timedelta(hours=self._context.settings.retraining_cool_down_hours)
        before = self._state.requested_at
        if before is not None and now - before < cool_down:
            state, detail = "skipped", f"{', '.join(causes)}; requested {now - before} ago, cool-down {cool_down}"
        else:
            state, detail = "success", ", ".join(causes)
            self._state.requested_at, self._state.causes = now, causes
            self._state.emit(RETRAINING_REQUESTED)
        self._report(
            Ran.model_validate(
                {"dag": chain.dag, "task": "request_retraining", "state": state, "seconds": 0.0, "detail": detail}
            )
        )

    def _report(self, ran: Ran) -> None:
        self.jobs.append(ran)
        log = self._context.log.error if ran.state == "failed" else self._context.log.info
        log("job ended", **{"job": f"{ran.dag}.{ran.task}", **ran.model_dump(include={"state", "seconds", "detail"})})

    def _remove_old_logs(self) -> None:
        nights = sorted(self.logs.parent.iterdir()) if self.logs.parent.is_dir() else []
        for folder in nights[:-_LOG_NIGHTS]:
            shutil.rmtree(folder)


def _may_succeed_later(code: int) -> bool:
    """Whether Airflow would retry: a service is unavailable, or a signal ended the job."""
    return code == UnavailableError.exit_code or code < 0


def _last_object(output: str) -> dict[str, Any]:
    lines = [line for line in output.splitlines() if line.startswith("{")]
    found: dict[str, Any] = json.loads(lines[-1]) if lines else {}
    return found


def _fail(night: dt.date, failed: Sequence[Ran], runner: _Runner) -> NoReturn:
    """Raise the error whose exit code is that of the failed jobs: 75 only if each of them may succeed later."""
    codes = [job.exit_code for job in failed if not _may_succeed_later(job.exit_code)] or [UnavailableError.exit_code]
    kinds: Mapping[int, type[FraudError]] = {kind.exit_code: kind for kind in _ENDED}
    raise kinds.get(codes[0], FraudError)(
        f"night of {night}: {len(failed)} of {len(runner.jobs)} jobs failed",
        got="\n" + "\n".join(f"    {job.line()}" for job in runner.jobs),
        hint=f"logs: {runner.logs}. Correct the cause; fraud nightly then runs what is left",
    )


def _since_midnight(at: dt.time) -> dt.timedelta:
    return dt.timedelta(hours=at.hour, minutes=at.minute, seconds=at.second)


@contextmanager
def _alone(path: Path) -> Iterator[int]:
    """Hold the lock; gives its file descriptor. The kernel releases it when the run and its jobs have ended."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UnavailableError(
                "another nightly run, or a job of a killed one, is running", got=str(path), hint="run it again later"
            ) from error
        yield file.fileno()


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """End the running job, too, when this process gets SIGTERM."""

    def end(number: int, _: object) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
