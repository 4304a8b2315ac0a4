"""The one way from Airflow into the ML environment: `fraud <job> --json` as a local process."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any, ClassVar
from urllib.parse import quote

from airflow.configuration import conf
from airflow.sdk import BaseOperator, BaseOperatorLink, Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from fraud_airflow import session
from fraud_airflow.surroundings import Surroundings

UNAVAILABLE = 75
"""The exit code of `fraud.errors.UnavailableError`: something that should be there is not. Worth trying again."""

Result = dict[str, Any]


class MlflowRunLink(BaseOperatorLink):
    """Button of the task: the run this job logged."""

    name = "MLflow run"

    def get_link(self, operator: BaseOperator, *, ti_key: object) -> str:  # noqa: ARG002 - Airflow's signature
        return str(_result_of(operator).get("mlflow_run_url") or "")


class ReportLink(BaseOperatorLink):
    """Button of the task: the HTML report this job wrote, in the reports view behind Airflow's login."""

    name = "Report"

    def get_link(self, operator: BaseOperator, *, ti_key: object) -> str:  # noqa: ARG002 - Airflow's signature
        uri = str(_result_of(operator).get("report_uri") or "")
        root = Surroundings.read().reports_uri.rstrip("/") + "/"
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
        start nothing. Only on the first try: a later one cannot know what the one before it had already done.
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
        wanted: str = "True",
        needs: Sequence[str] = (),
        news: Sequence[str] = (),
        actor: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job = job
        self.arguments = list(arguments)
        self.wanted = wanted
        self.needs = tuple(needs)
        self.news = tuple(news)
        self.actor = actor
        self.result: Result = {}
        self._session: session.Session | None = None

    def execute(self, context: Context) -> Result:
        """Run the job to its end. Raises by its exit code: see `failure`."""
        if self.wanted != "True":
            raise AirflowSkipException(f"not asked for in this run: {self.job}")
        surroundings = Surroundings.read()
        arguments = [argument for argument in self.arguments if not argument.endswith("=")]
        command = [str(surroundings.command), self.job, *arguments, "--json"]
        env = {**surroundings.job_environment, **({"FRAUD_ACTOR": self.actor} if self.actor else {})}
        self.log.info("fraud %s", " ".join([self.job, *arguments]))
        self._session = session.start(command, env=env, cwd=surroundings.project)
        try:
            stdout, stderr = self._session.streams
            with ThreadPoolExecutor(1) as reader:
                said = reader.submit(lambda: list(self._results(stdout)))
                last = ""
                for line in stderr:
                    log_line(self.log, line)
                    last = line.strip() or last
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
        if missing := [name for name in self.needs if not answer[name]]:
            raise AirflowSkipException(f"nothing to go on with: no {', no '.join(missing)}")
        if self.news and not any(answer[name] for name in self.news) and context["ti"].try_number == 1:
            raise AirflowSkipException(f"nothing new: {', '.join(f'{n} = {answer[n]}' for n in self.news)}")
        return answer

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
    said = answer.get("message") or "it ended without a word"
    parts = [f"fraud {job}: {said}"]
    parts += [f"  {key}: {answer[key]}" for key in ("expected", "came", "do") if answer.get(key)]
    parts.append(f"  exit code: {code}")
    again = code == UNAVAILABLE or code < 0
    return (AirflowException if again else AirflowFailException)("\n".join(parts))


def log_line(log: Any, line: str) -> None:
    """One line of a job's standard error as a line of the task's log, at its level: `event key=value ...`."""
    entry = _json_object(line)
    if entry is None:
        if line.strip():
            log.info("%s", line.rstrip())
        return
    level = logging.getLevelNamesMapping().get(str(entry.pop("level", "info")).upper(), logging.INFO)
    event = entry.pop("event", "")
    entry.pop("timestamp", None)  # Airflow puts its own
    entry.pop("job", None)
    trace = entry.pop("exception", "")
    pairs = " ".join(f"{key}={value}" for key, value in entry.items())
    write: Callable[..., None] = log.error if level >= logging.ERROR else log.warning
    if level < logging.WARNING:
        write = log.info
    write("%s", " ".join(part for part in (str(event), pairs) if part) + (f"\n{trace}" if trace else ""))


def _readable(value: Any) -> list[Any]:
    """A result's value as lines: one a record, and of a long list its ends."""
    if not isinstance(value, list) or not value:
        return [value]
    if isinstance(value[0], dict):
        return [" ".join(f"{key}={item}" for key, item in record.items()) for record in value]
    return [value if len(value) <= 10 else f"{len(value)}, {value[0]} .. {value[-1]}"]


def _json_object(line: str) -> dict[str, Any] | None:
    if not line.startswith("{"):
        return None
    try:
        value = json.loads(line)
    except json.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None
