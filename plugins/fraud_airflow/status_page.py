"""The page *Status*: `fraud status` of the ML environment as HTML."""

import json
import subprocess
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

from fraud_airflow import session
from fraud_airflow.job_environment import JobEnvironment

SOURCE_SECONDS = 10
"""Deadline of each source."""
PAGE_SECONDS = 90.0
"""Deadline of the command: two deadlines of sources, and its start on a busy machine."""
_EXIT_CODES = (0, 1)
_ONE_AT_A_TIME = threading.Lock()


class NoStatusError(Exception):
    """The command could not be run, failed, or did not end within its deadline."""


def status(token: str, seconds: float = PAGE_SECONDS) -> dict[str, Any]:
    """The result of `fraud status --json`. `token` is that of the user, whose permissions decide on the DAG runs shown.

    One command runs at a time; others wait for it within the deadline. Raises NoStatusError.
    """
    if not _ONE_AT_A_TIME.acquire(timeout=seconds):
        raise NoStatusError("other requests for the status are running; reload the page later")
    try:
        return _run(token, seconds)
    finally:
        _ONE_AT_A_TIME.release()


def _run(token: str, seconds: float) -> dict[str, Any]:
    environment = JobEnvironment.read()
    command = [str(environment.command), "status", "--json", f"--deadline={SOURCE_SECONDS}"]
    # In the environment, because every user of the machine can read arguments.
    env = {**environment.variables, "FRAUD_AIRFLOW_TOKEN": token}
    try:
        started = session.start(command, env=env, cwd=environment.project)
    except OSError as error:
        raise NoStatusError(f"{command[0]} cannot be run: {error.strerror}") from error
    try:
        output, log = started.process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise NoStatusError(f"fraud status did not end within {seconds:.0f} s") from error
    finally:
        started.end()
    result = _parsed(output)
    if started.process.returncode not in _EXIT_CODES or "problems" not in result:
        last = (log.strip().splitlines() or ["no message"])[-1]
        raise NoStatusError(f"fraud status ended with code {started.process.returncode}: {result.get('message', last)}")
    return result


def _parsed(output: str) -> dict[str, Any]:
    try:
        found = json.loads(output)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def body(result: Mapping[str, Any], base: str) -> str:
    """The page's body. `base` is the URL of Airflow."""
    problems = result["problems"]
    verdict = f"{len(problems)} problem{'s' * (len(problems) > 1)}" if problems else "No problem was found"
    at = datetime.fromisoformat(result["facts"]["now"]).astimezone(UTC)
    parts = [
        f'<h1>Status</h1><p class="{"bad" if problems else "good"}">{verdict}</p>',
        _table([_problem(problem, base) for problem in problems]),
        *(
            f"<h2>{escape(title.capitalize())}</h2>{_table([_row(row, base) for row in rows])}"
            for title, rows in result["tables"].items()
        ),
        "<h2>Changes of the last day</h2>",
        f"<ul>{''.join(f'<li>{escape(change)}</li>' for change in result['changes'])}</ul>"
        if result["changes"]
        else "<p>None</p>",
        f"<p>Sources: {', '.join(_source(source) for source in result['facts']['sources'])}.</p>",
        f'<p>Read at {at:%Y-%m-%d %H:%M:%S} UTC. <a href="{escape(base)}/fraud/status">Read again</a></p>',
    ]
    return "".join(parts)


def _source(source: Mapping[str, str]) -> str:
    return escape(source["name"]) + (" (no answer)" if source["problem"] else "")


def _problem(problem: Mapping[str, str], base: str) -> dict[str, str]:
    runbook = problem["runbook"]
    return {
        "Problem": escape(problem["text"]), "What to do": escape(problem["hint"]), "Runbook": _link(runbook, base),
    }  # fmt: skip


def _row(row: Mapping[str, str], base: str) -> dict[str, str]:
    return {
        name.capitalize(): _link(value, base) if name == "runbook" else escape(value) for name, value in row.items()
    }


def _link(runbook: str, base: str) -> str:
    """A link to a runbook: a URL, or a path of the documentation. Other schemes are shown as text."""
    if not runbook:
        return ""
    name = escape(runbook.rpartition("/")[2].removesuffix(".md"))
    if runbook.startswith("docs/"):
        return f'<a href="{escape(base)}/fraud/{escape(runbook)}">{name}</a>'
    if runbook.startswith(("http://", "https://")):
        return f'<a href="{escape(runbook)}">{name}</a>'
    return escape(runbook)


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    """A table of cells in HTML."""
    if not rows:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in rows[0])
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row.values())}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{lines}</table>"
