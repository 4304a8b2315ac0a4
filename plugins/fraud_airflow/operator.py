"""The one way from Airflow into the ML environment: `fraud <job> --json` as a local process."""

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
"""The exit code of `fraud.errors.UnavailableError`: something that should be there is not. Worth trying again."""
UNFINISHED = "unfinished"
"""Key in Airflow's task state store, which outlives a try and a clear: a try has started the job and not ended well."""

_DETAILS = ("expected", "got", "do")
"""What an error of the command line says beside its message."""

Result = dict[str, Any]


class MlflowRunLink(BaseOperatorLink):
    """Button of the task: the run this job logged."""

    name = "MLflow run"

    def get_link(self, operator: BaseOperator, *, ti_key: object) -> str:  # noqa: ARG002 - Airflow's signature
        return _mlflow_run(_result_of(operator))


class ReportLink(BaseOperatorLink):
    """Button of the task: the HTML report this job wrote, in the reports view behind Airflow's login."""

    name = "Report"

    def get_link(self, operator: BaseOperator, *, ti_key: object) -> str:  # noqa: ARG002 - Airflow's signature
        return _report_page(_result_of(operator))


def _mlflow_run(result: Result) -> str:
    return str(result.get("mlflow_run_url") or "")


def _report_page(result: Result) -> str:
    """The page of a result's report behind Airflow's login; "" without a report that is served there."""
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
    """Run one `fraud` job and pass its typed result on as XCom.

    :param job: name of the job, as `fraud --help` lists it.
    :param arguments: its flags. Templated; an empty rendered flag value (`--date=`) is left out.
    :param wanted: rendered to anything but "True", the task is skipped without starting the job. Templated.
    :param needs: names of result fields. When one of them is empty the task is skipped, and what follows with it.
    :param news: names of result fields. When all of them are zero or empty the task is skipped, so that its assets
        start nothing. Not after a try that started the job and failed or was killed: that one may have done the work
        whose asset was never recorded. So a cleared task that finds nothing to do is skipped, a retried one is not.
    :param actor: who is recorded as having decided, for jobs that record it. Templated.
    """

    template_fields: Sequence[str] = ("arguments", "wanted", "actor")
    operator_extra_links: Sequence[BaseOperatorLink] = (MlflowRunLink(), ReportLink())
    ui_color: ClassVar[str] = "#e8f0fe"

    def __init__(
        self,
        *,
        job: str,
        arguments: Sequence[str] = (),
        expected: str = "True",
        needs: Sequence[str] = (),
        news: Sequence[str] = (),
        actor: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job = job
        self.arguments = list(arguments)
        self.expected = expected
        self.needs = tuple(needs)
        self.news = tuple(news)
        self.actor = actor
        self.result: Result = {}
        self._session: session.Session | None = None

    def execute(self, context: Context) -> Result:
        """Run the job to its end. Raises by its exit code: see `failure`."""
        if self.expected != "True":
            raise AirflowSkipException(f"not asked for in this run: {self.job}")
        job_environment = JobEnvironment.read()
        arguments = [argument for argument in self.arguments if not argument.endswith("=")]
        command = [str(job_environment.command), self.job, *arguments, "--json"]
        env = {**job_environment.job_environment, **({"FRAUD_ACTOR": self.actor} if self.actor else {})}
        self.log.info("fraud %s", " ".join([self.job, *arguments]))
        tried_before = self._note_try(context) if self.news else False
        self._session = session.start(command, env=env, cwd=job_environment.project)
        try:
            stdout, stderr = self._session.streams
            with ThreadPoolExecutor(1) as reader:
                said = reader.submit(lambda: list(self._results(stdout)))
                last = ""
                for line in stderr:
                    last = log_line(self.log, line) or last
            code = self._session.process.wait()
        finally:
            self._session.end()
        answer = said.result()[-1] if said.result() else {}
        if code:
            raise failure(self.job, code, {"message": last, **answer})
        self.result = answer
        for name, value in answer.items():
            for text in _readable(value):
                self.log.info("%s: %s", name, text)
        for name, url in (("MLflow run", _mlflow_run(answer)), ("Report", _report_page(answer))):
            if url:
                self.log.info("%s: %s", name, url)
        if missing := [name for name in self.needs if not answer[name]]:
            raise AirflowSkipException(f"nothing to go on with: no {', no '.join(missing)}")
        if self.news and not any(answer[name] for name in self.news) and not tried_before:
            context["task_state_store"].delete(UNFINISHED)
            raise AirflowSkipException(f"nothing new: {', '.join(f'{n} = {answer[n]}' for n in self.news)}")
        return answer

    @staticmethod
    def _note_try(context: Context) -> bool:
        """Note that a try starts the job; whether an earlier one did and did not end well.

        Airflow removes the note together with recording a success (`[state_store] clear_on_success`).
        """
        store = context["task_state_store"]
        before = bool(store.get(UNFINISHED))
        store.set(UNFINISHED, True)
        return before

    def on_kill(self) -> None:
        """Called when the task is cleared, marked, or out of time: leave no process of the job behind."""
        if self._session is not None:
            session.end(self._session.process.pid)

    def _results(self, stdout: IO[str]) -> Sequence[Result]:
        """JSON objects on standard output, in order; whatever else a library prints there goes to the log."""
        results = []
        for line in stdout:
            parsed = _json_object(line)
            if parsed is None:
                log_line(self.log, line)
            else:
                results.append(parsed)
        return results


def failure(job: str, code: int, answer: Mapping[str, Any]) -> AirflowException:
    """What to raise for an exit code.

    Tried again: 75 (a service is down) and death by a signal (out of memory, a node that goes away: jobs are safe to
    run again). All else would fail the same way.
    """
    killed = _signal_name(code)
    message = answer.get("message")
    if killed:
        hint = "the kernel's log (dmesg) says whether memory ran out" if killed == "SIGKILL" else ""
        answer = {"last output": message, "hint": hint}
        message = f"killed by {killed} before it ended"
    parts = [f"fraud {job}: {message or 'it ended without a message'}"]
    parts += [f"  {key}: {answer[key]}" for key in (*_DETAILS, "last output", "hint") if answer.get(key)]
    parts.append(f"  exit code: {code}")
    again = code == UNAVAILABLE or bool(killed)
    return (AirflowException if again else AirflowFailException)("\n".join(parts))


def _signal_name(code: int) -> str:
    """The signal that ended a process, "" for none: -9 as Python gives it, 137 as a shell around the job does."""
    number = -code if code < 0 else code - 128
    return signal.Signals(number).name if number in {each.value for each in signal.Signals} else ""


def log_line(log: Any, line: str) -> str:
    """One line of a job's standard error as a line of the task's log, at its level: `event key=value ...`.

    Returns what was logged, without a traceback; "" for an empty line.
    """
    entry = _json_object(line)
    if entry is None:
        if line.strip():
            log.info("%s", line.rstrip())
        return line.strip()
    level = logging.getLevelNamesMapping().get(str(entry.pop("level", "info")).upper(), logging.INFO)
    event = entry.pop("event", "")
    entry.pop("timestamp", None)  # Airflow puts its own
    entry.pop("job", None)
    trace = entry.pop("exception", "")
    write: Callable[..., None] = log.error if level >= logging.ERROR else log.warning
    if level < logging.WARNING:
        write = log.info
    text = " ".join(part for part in (str(event), _pairs(entry)) if part)
    write("%s", text + (f"\n{trace}" if trace else ""))
    return text


def _readable(value: Any) -> list[Any]:
    """A result's value as lines: one a record, and of a long list its ends."""
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
