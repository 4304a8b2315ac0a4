"""The operator against real processes: a small program stands where `fraud` is."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from fraud_airflow import session
from fraud_airflow.operator import FraudJobOperator, MlflowRunLink, ReportLink

FIRST_TRY: Any = {"ti": SimpleNamespace(try_number=1)}
SECOND_TRY: Any = {"ti": SimpleNamespace(try_number=2)}


def program(path: Path, body: str) -> None:
    path.write_text(f"#!{sys.executable}\nimport json, os, sys, time, subprocess\n{body}\n")
    path.chmod(0o755)


def until(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)
    return value


def run(context: Any = FIRST_TRY, **more: Any) -> Any:
    return FraudJobOperator(task_id="job", job="ingest", **more).execute(context)


def test_the_result_is_the_json_line_on_standard_output(stand_in: Path) -> None:
    program(stand_in, "print('a library says hello'); print(json.dumps({'accepted': 3, 'argv': sys.argv[1:]}))")
    result = run(arguments=["--date=2026-01-02", "--from="])
    assert result == {"accepted": 3, "argv": ["ingest", "--date=2026-01-02", "--json"]}


def test_log_lines_are_shown_as_they_come_and_at_their_level(
    stand_in: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    go_on = tmp_path / "go_on"
    program(
        stand_in,
        "print(json.dumps({'event': 'rows quarantined', 'level': 'warning', 'rows': 2, 'job': 'ingest',"
        " 'timestamp': 'x'}), file=sys.stderr, flush=True)\n"
        f"while not os.path.exists({str(go_on)!r}): time.sleep(0.01)\n"
        "print('{}')",
    )
    task = threading.Thread(target=run)
    task.start()
    shown: list[str] = []

    def warning() -> list[str]:
        shown.extend(capsys.readouterr().out.splitlines())
        return [line for line in shown if "rows quarantined rows=2" in line]

    assert "[warning" in until(warning)[0]
    assert task.is_alive(), "the line must be there while the job still runs"
    go_on.touch()
    task.join()


@pytest.mark.parametrize(
    ("code", "again"), [(75, True), (1, False), (2, False), (3, False), (65, False), (-signal.SIGKILL, True)]
)
def test_only_a_service_that_is_down_or_a_killed_process_is_tried_again(stand_in: Path, code: int, again: bool) -> None:
    end = f"os.kill(os.getpid(), {-code})" if code < 0 else f"sys.exit({code})"
    program(
        stand_in,
        "print(json.dumps({'message': 'no day', 'expected': 'one', 'came': 'none', 'do': 'wait'}), flush=True)\n" + end,
    )
    with pytest.raises(AirflowException) as raised:
        run()
    assert isinstance(raised.value, AirflowFailException) is not again
    assert str(raised.value) == (
        f"fraud ingest: no day\n  expected: one\n  came: none\n  do: wait\n  exit code: {code}"
    )


def test_nothing_new_skips_on_the_first_try_only(stand_in: Path) -> None:
    program(stand_in, "print(json.dumps({'accepted': 0, 'days': []}))")
    with pytest.raises(AirflowSkipException, match=r"nothing new: accepted = 0, days = \[\]"):
        run(news=("accepted", "days"))
    # An earlier try may have done the work and died before its asset was recorded.
    assert run(SECOND_TRY, news=("accepted", "days")) == {"accepted": 0, "days": []}


def test_what_is_needed_and_missing_skips_on_every_try(stand_in: Path) -> None:
    program(stand_in, "print(json.dumps({'version': None}))")
    for context in (FIRST_TRY, SECOND_TRY):
        with pytest.raises(AirflowSkipException, match="no version"):
            run(context, needs=("version",))


def test_an_unwanted_job_is_not_started(stand_in: Path) -> None:
    with pytest.raises(AirflowSkipException):
        run(wanted="False")


def test_a_job_sees_the_platforms_variables_and_none_of_airflows(
    stand_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRAUD_LAKE_URI", "file:///lake")
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "secret")
    monkeypatch.setenv("SOMETHING_ELSE", "x")
    program(stand_in, "print(json.dumps(dict(os.environ)))")
    seen = run(actor="grace")
    assert seen["FRAUD_LAKE_URI"] == "file:///lake"
    assert seen["FRAUD_ACTOR"] == "grace"
    assert not [name for name in seen if name.startswith("AIRFLOW") or name == "SOMETHING_ELSE"]


STUBBORN_FAMILY = """
child = "import os, signal, time; os.setpgid(0, 0); signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", child])
open({pid_file!r} + ".new", "w").write(str(os.getpid())); os.rename({pid_file!r} + ".new", {pid_file!r})
time.sleep(600)
"""


def test_kill_ends_every_process_of_the_job_even_deaf_ones_in_other_groups(stand_in: Path, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    program(stand_in, STUBBORN_FAMILY.format(pid_file=str(pid_file)))
    operator = FraudJobOperator(task_id="job", job="score")
    failures: list[BaseException] = []

    def execute() -> None:
        try:
            operator.execute(FIRST_TRY)
        except AirflowException as error:
            failures.append(error)

    task = threading.Thread(target=execute)
    task.start()
    until(pid_file.exists)
    job = int(pid_file.read_text())
    until(lambda: len(session.members(job)) == 2)
    operator.on_kill()
    task.join(10)
    assert session.members(job) == []
    assert len(failures) == 1


def test_a_task_that_is_killed_outright_leaves_no_process_of_its_job(stand_in: Path, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    program(stand_in, STUBBORN_FAMILY.format(pid_file=str(pid_file)))
    code = (
        "import os, sys; from pathlib import Path; from fraud_airflow import session\n"
        f"s = session.start([{str(stand_in)!r}], env=os.environ, cwd=Path('/'))\n"
        "s.process.wait()"
    )
    plugins = Path(session.__file__).parents[1]
    task = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(plugins)})
    until(pid_file.exists)
    job = int(pid_file.read_text())
    until(lambda: len(session.members(job)) == 2)
    task.kill()
    task.wait()
    until(lambda: session.members(job) == [])


def test_the_buttons_lead_to_the_run_and_to_the_report_behind_the_login(stand_in: Path, reports: Path) -> None:
    program(
        stand_in,
        f"report = 'file://{reports}/drift/a b.html'\n"
        "print(json.dumps({'mlflow_run_url': 'http://m/#/runs/1', 'report_uri': report}))",
    )
    operator = FraudJobOperator(task_id="job", job="drift")
    assert ReportLink().get_link(operator, ti_key=None) == ""
    operator.execute(FIRST_TRY)
    assert MlflowRunLink().get_link(operator, ti_key=None) == "http://m/#/runs/1"
    assert ReportLink().get_link(operator, ti_key=None) == "http://airflow.test/fraud/reports/drift/a%20b.html"
