"""Run `fraud <job> --json` of the ML environment as a local process of an Airflow task."""

import json
import logging
import signal
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any, ClassVar
from urllib.parse import quote

from airflow.configuration import conf
from airflow.sdk import BaseOperator, BaseOperatorLink, Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from fraud_airflow import session
from fraud_airflow.figures import figure
from fraud_airflow.job_environment import JobEnvironment

UNAVAILABLE = 75
"""The exit code of `fraud.errors.UnavailableError`: a service is unavailable. The task is retried."""
UNFINISHED = "unfinished"
"""Key in Airflow's task state store (kept across tries and clears): a try started the job and did not succeed."""

_DETAILS = ("expected", "got", "hint")
"""Fields of a job's error beside its message."""

Result = dict[str, Any]


class MlflowRunLink(BaseOperatorLink):
    """Button of the task: the MLflow run that the job logged."""

    name = "MLflow run"

    def get_link(self, operator: BaseOperator, *, ti_key: object) -> str:  # noqa: ARG002 - Airflow's signature
        return _mlflow_run(_result_of(operator))


class ReportLink(BaseOperatorLink):
    """Button of the task: the HTML report that the job wrote, in the reports view behind Airflow's login."""

    name = "Report"

    def get_link(self, operator: BaseOperator, *, ti_key: object) -> str:  # noqa: ARG002 - Airflow's signature
        return _report_page(_result_of(operator))


def _mlflow_run(result: Result) -> str:
    return str(result.get("mlflow_run_url") or "")


def _report_page(result: Result) -> str:
    """The URL of a result's report behind Airflow's login; "" without a report below the reports URI."""
    uri = str(result.get("report_uri") or "")
    root = JobEnvironment.read().reports_uri.rstrip("/") + "/"
    if not uri.startswith(root):
        return ""
    base = conf.get("api", "base_url", fallback="").rstrip("/")
    return f"{base}/fraud/reports/{quote(uri.removeprefix(root))}"


def _result_of(operator: BaseOperator) -> Result:
    result: Result = getattr(operator, "result", {})
    return result


class FraudJobOperator(BaseOperator):
    """Run one `fraud` job and return its result as XCom.

    :param job: name of the job, as in `fraud --help`.
    :param arguments: flags of the job. Templated. A flag with an empty value (`--date=`) is left out.
    :param condition: the task is skipped without starting the job unless this renders to "True". Templated.
    :param required_fields: names of result fields. The task is skipped, with its downstream tasks, when one is empty.
    :param change_fields: names of result fields. The task is skipped, so that it emits no asset event, when all are
        zero or empty. It is not skipped when an earlier try started the job and failed or was killed: that try may
        have done the work without recording the asset event. A cleared task without changes is skipped.
    :param actor: the person or process that the job records. Templated.
    """

    template_fields: Sequence[str] = ("arguments", "condition", "actor")
    operator_extra_links: Sequence[BaseOperatorLink] = (MlflowRunLink(), ReportLink())
    ui_color: ClassVar[str] = "#e8f0fe"

    def __init__(
        self,
        *,
        job: str,
        arguments: Sequence[str] = (),
        condition: str = "True",
        required_fields: Sequence[str] = (),
        change_fields: Sequence[str] = (),
        actor: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job = job
        self.arguments = list(arguments)
        self.condition = condition
        self.required_fields = tuple(required_fields)
        self.change_fields = tuple(change_fields)
        self.actor = actor
        self.result: Result = {}
        self._session: session.Session | None = None

    def execute(self, context: Context) -> Result:
        """Run the job and return its result. Raises the exception of its exit code (see `failure`)."""
        if self.condition != "True":
            raise AirflowSkipException(f"not part of this run: {self.job}")
        job_environment = JobEnvironment.read()
        arguments = [argument for argument in self.arguments if not argument.endswith("=")]
        command = [str(job_environment.command), self.job, *arguments, "--json"]
        env = {**job_environment.variables, **({"FRAUD_ACTOR": self.actor} if self.actor else {})}
        self.log.info("fraud %s", " ".join([self.job, *arguments]))
        tried_before = self._record_try(context) if self.change_fields else False
        self._session = session.start(command, env=env, cwd=job_environment.project)
        try:
            stdout, stderr = self._session.streams
            with ThreadPoolExecutor(1) as reader:
                results = reader.submit(self._results, stdout)
                last_line = ""
                for line in stderr:
                    last_line = log_line(self.log, line) or last_line
            code = self._session.process.wait()
        finally:
            self._session.end()
        result = results.result()[-1] if results.result() else {}
        if code:
            raise failure(self.job, code, {"message": last_line, **result})
        self.result = result
        for name, value in result.items():
            for text in _readable(value):
                self.log.info("%s: %s", name, text)
        for name, url in (("MLflow run", _mlflow_run(result)), ("Report", _report_page(result))):
            if url:
                self.log.info("%s: %s", name, url)
        if missing := [name for name in self.required_fields if not result[name]]:
            raise AirflowSkipException(f"the result has no {', no '.join(missing)}")
        if self.change_fields and not any(result[name] for name in self.change_fields) and not tried_before:
            context["task_state_store"].delete(UNFINISHED)
            raise AirflowSkipException(f"no change: {', '.join(f'{n} = {result[n]}' for n in self.change_fields)}")
        return result

    @staticmethod
    def _record_try(context: Context) -> bool:
        """Record that a try starts the job. True when an earlier try did and did not succeed.

        Airflow removes the record in the transaction of a success (`[state_store] clear_on_success`).
        """
        store = context["task_state_store"]
        before = bool(store.get(UNFINISHED))
        store.set(UNFINISHED, True)
        return before

    def on_kill(self) -> None:
        """End every process of the job. Airflow calls it when the task is cleared, marked, or over its time limit."""
        if self._session is not None:
            session.end(self._session.process.pid)

    def _results(self, stdout: IO[str]) -> Sequence[Result]:
        """JSON objects on standard output, in order. Other lines are logged."""
        results = []
        for line in stdout:
            parsed = _json_object(line)
            if parsed is None:
                log_line(self.log, line)
            else:
                results.append(parsed)
        return results


def failure(job: str, code: int, result: Mapping[str, Any]) -> AirflowException:
    """The exception for an exit code.

    The task is retried after 75 (a service is unavailable) and after death by a signal (out of memory, a node that was
    shut down); jobs are idempotent. Every other failure would repeat.
    """
    killed = _signal_name(code)
    message = result.get("message")
    if killed:
        hint = "the kernel's log (dmesg) shows whether memory ran out" if killed == "SIGKILL" else ""
        result = {"last output": message, "hint": hint}
        message = f"killed by {killed} before it ended"
    parts = [f"fraud {job}: {message or 'it ended without a message'}"]
    parts += [f"  {key}: {result[key]}" for key in ("last output", *_DETAILS) if result.get(key)]
    parts.append(f"  exit code: {code}")
    retried = code == UNAVAILABLE or bool(killed)
    return (AirflowException if retried else AirflowFailException)("\n".join(parts))


def _signal_name(code: int) -> str:
    """The signal that ended a process; "" for none. Python reports SIGKILL as -9, a shell as 137."""
    number = -code if code < 0 else code - 128
    return signal.Signals(number).name if number in {each.value for each in signal.Signals} else ""


def log_line(log: Any, line: str) -> str:
    """Log one line of a job's standard error at its level, as `event key=value ...`.

    Returns the logged text without the traceback; "" for an empty line.
    """
    entry = _json_object(line)
    if entry is None:
        if line.strip():
            log.info("%s", line.rstrip())
        return line.strip()
    level = logging.getLevelNamesMapping().get(str(entry.pop("level", "info")).upper(), logging.INFO)
    event = entry.pop("event", "")
    entry.pop("timestamp", None)  # Airflow adds its own
    entry.pop("job", None)
    trace = entry.pop("exception", "")
    write: Callable[..., None] = log.error if level >= logging.ERROR else log.warning
    if level < logging.WARNING:
        write = log.info
    text = " ".join(part for part in (str(event), _pairs(entry)) if part)
    write("%s", text + (f"\n{trace}" if trace else ""))
    return text


def _readable(value: Any) -> list[Any]:
    """A result's value as log lines: one for each record; a long list as its length and its ends."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return [figure(value)]
    if isinstance(value, dict):
        return [_pairs(value)]
    if not isinstance(value, list):
        return [value]
    if not value:
        return ["none"]
    if isinstance(value[0], dict):
        return [_pairs(record) for record in value]
    return [", ".join(map(str, value)) if len(value) <= 10 else f"{len(value)}, {value[0]} .. {value[-1]}"]


def _pairs(record: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={' '.join(map(str, _readable(item)))}" for key, item in record.items())


def _json_object(line: str) -> dict[str, Any] | None:
    if not line.startswith("{"):
        return None
    try:
        value = json.loads(line)
    except json.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None
