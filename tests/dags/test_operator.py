"""The operator with real processes: a small program replaces `fraud`."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from fraud_airflow import session
from fraud_airflow.figures import figure
from fraud_airflow.operator import FraudJobOperator, MlflowRunLink, ReportLink

ROOT = Path(__file__).resolve().parents[2]


class StateStore(dict[str, Any]):
    """Airflow's task state store for tries in this process; tests/dags/test_in_airflow.py has the real one."""

    set = dict.__setitem__
    delete = dict.pop


def program(path: Path, body: str) -> None:
    path.write_text(f"#!{sys.executable}\nimport json, os, sys, time, subprocess\n{body}\n")
    path.chmod(0o755)


def until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition did not become true in time"
        time.sleep(0.02)
    return value


def run(store: StateStore | None = None, **more: Any) -> Any:
    context: Any = {"task_state_store": StateStore() if store is None else store}
    return FraudJobOperator(task_id="job", job="ingest", **more).execute(context)


def test_the_result_is_the_json_line_on_standard_output(stand_in: Path) -> None:
    program(stand_in, "print('a library says hello'); print(json.dumps({'accepted': 3, 'argv': sys.argv[1:]}))")
    result = run(arguments=["--date=2026-01-02", "--from="])
    assert result == {"accepted": 3, "argv": ["ingest", "--date=2026-01-02", "--json"]}


def test_log_lines_are_written_at_once_and_at_their_level(
    stand_in: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resume = tmp_path / "resume"
    program(
        stand_in,
        "print(json.dumps({'event': 'rows quarantined', 'level': 'warning', 'rows': 2, 'job': 'ingest',"
        " 'timestamp': 'x'}), file=sys.stderr, flush=True)\n"
        f"while not os.path.exists({str(resume)!r}): time.sleep(0.01)\n"
        "print('{}')",
    )
    task = threading.Thread(target=run)
    task.start()
    shown: list[str] = []

    def warning() -> list[str]:
        shown.extend(capsys.readouterr().out.splitlines())
        return [line for line in shown if "rows quarantined rows=2" in line]

    assert "[warning" in until(warning)[0]
    assert task.is_alive(), "the line must be logged while the job runs"
    resume.touch()
    task.join()


@pytest.mark.parametrize(("code", "retried"), [(75, True), (1, False), (2, False), (3, False), (65, False)])
def test_only_an_unavailable_service_is_retried(stand_in: Path, code: int, retried: bool) -> None:
    error = "{'message': 'no day', 'expected': 'one', 'got': 'none', 'hint': 'wait'}"
    program(stand_in, f"print(json.dumps({error}))\nsys.exit({code})")
    with pytest.raises(AirflowException) as raised:
        run()
    assert isinstance(raised.value, AirflowFailException) is not retried
    assert str(raised.value) == (
        f"fraud ingest: no day\n  expected: one\n  got: none\n  hint: wait\n  exit code: {code}"
    )


def test_an_import_without_a_readable_row_fails_the_task_without_a_retry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real job, not a stand-in."""
    monkeypatch.setenv("FRAUD_PROJECT", str(ROOT))
    monkeypatch.setenv("FRAUD_HOME", str(tmp_path))
    monkeypatch.setenv("FRAUD_COMMAND", str(ROOT / ".venv/ml/bin/fraud"))
    (tmp_path / "source.csv").write_text("step,type,amount,nameOrig,nameDest,isFraud\n1,PAYMENT,abc,C1,M1,0\n")
    operator = FraudJobOperator(
        task_id="job", job="import",
        arguments=[f"--source={tmp_path / 'source.csv'}", f"--mapping={ROOT / 'mappings/paysim.yaml'}"],
    )  # fmt: skip
    with pytest.raises(AirflowFailException, match="no row of") as raised:
        operator.execute({"task_state_store": StateStore()})
    assert "amount: not a number: 'abc'" in str(raised.value)
    assert "exit code: 65" in str(raised.value)


@pytest.mark.parametrize(
    ("end", "name", "code"),
    [
        ("os.kill(os.getpid(), 9)", "SIGKILL", -9),
        ("os.kill(os.getpid(), 15)", "SIGTERM", -15),
        ("sys.exit(137)", "SIGKILL", 137),  # a shell around the job reports the signal in this form
    ],
)
def test_a_job_that_a_signal_killed_names_the_signal_and_is_retried(
    stand_in: Path, end: str, name: str, code: int
) -> None:
    program(
        stand_in,
        "print(json.dumps({'event': 'scored', 'days': 40, 'level': 'info'}), file=sys.stderr, flush=True)\n" + end,
    )
    with pytest.raises(AirflowException) as raised:
        run()
    assert not isinstance(raised.value, AirflowFailException)
    lines = str(raised.value).splitlines()
    assert lines[:2] == [f"fraud ingest: killed by {name} before it ended", "  last output: scored days=40"]
    assert lines[-1] == f"  exit code: {code}"
    assert ("memory" in str(raised.value)) is (name == "SIGKILL")


def test_a_job_that_fails_without_a_result_reports_its_last_line(stand_in: Path) -> None:
    program(stand_in, "raise KeyError('amount')")
    with pytest.raises(AirflowFailException, match=r"^fraud ingest: KeyError: 'amount'\n  exit code: 1$"):
        run()


def test_a_try_without_changes_is_skipped_and_so_is_the_next_one_after_a_clear(stand_in: Path) -> None:
    program(stand_in, "print(json.dumps({'accepted': 0, 'days': []}))")
    store = StateStore()
    for _ in range(2):
        with pytest.raises(AirflowSkipException, match=r"no change: accepted = 0, days = \[\]"):
            run(store, change_fields=("accepted", "days"))
    assert store == {}


def test_after_a_try_that_was_killed_the_next_one_is_not_skipped(stand_in: Path) -> None:
    """The killed try may have done the work before its asset event was recorded."""
    store = StateStore()
    program(stand_in, "os.kill(os.getpid(), 9)")
    with pytest.raises(AirflowException):
        run(store, change_fields=("accepted",))
    program(stand_in, "print(json.dumps({'accepted': 0}))")
    assert run(store, change_fields=("accepted",)) == {"accepted": 0}


def test_a_missing_required_field_skips_every_try(stand_in: Path) -> None:
    program(stand_in, "print(json.dumps({'version': None}))")
    store = StateStore()
    for _ in range(2):
        with pytest.raises(AirflowSkipException, match="no version"):
            run(store, required_fields=("version",))


@pytest.mark.parametrize(
    ("value", "shown"),
    [(20828, "20,828"), (20828.0, "20,828"), (999, "999"), (1234.56, "1,234.6"), (0.15, "0.150"), (0.00042, "4.2e-04"),
     (0, "0"), (float("nan"), "nan")],
)  # fmt: skip
def test_numbers_are_formatted_for_readers(value: float, shown: str) -> None:
    assert figure(value) == shown


def test_counts_and_links_are_logged(stand_in: Path, reports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program(
        stand_in,
        "print(json.dumps({'accepted': 20828, 'days': [{'day': '2026-01-02', 'rows': 10414}], 'ok': True,"
        f" 'failed': ['skew', 'slices'], 'reopened': [], 'report_uri': 'file://{reports}/drift/d.html',"
        " 'mlflow_run_url': 'http://m/#/runs/1'}))",
    )
    run()
    logged = capsys.readouterr().out
    for line in (
        "accepted: 20,828",
        "days: day=2026-01-02 rows=10,414",
        "ok: True",
        "failed: skew, slices",
        "reopened: none",
        "Report: http://airflow.test/fraud/reports/drift/d.html",
        "MLflow run: http://m/#/runs/1",
    ):
        assert line in logged


def test_a_job_with_a_false_condition_is_not_started(stand_in: Path) -> None:
    with pytest.raises(AirflowSkipException):
        run(condition="False")


def test_a_job_gets_the_platforms_variables_and_none_of_airflows(
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


def test_kill_ends_every_process_of_the_job_also_those_in_other_groups_that_ignore_sigterm(
    stand_in: Path, tmp_path: Path
) -> None:
    pid_file = tmp_path / "pid"
    program(stand_in, STUBBORN_FAMILY.format(pid_file=str(pid_file)))
    operator = FraudJobOperator(task_id="job", job="score")
    failures: list[BaseException] = []

    def execute() -> None:
        try:
            operator.execute({})
        except AirflowException as error:
            failures.append(error)

    task = threading.Thread(target=execute)
    task.start()
    until(pid_file.exists)
    job = int(pid_file.read_text())
    until(lambda: len(session.members(job)) == 2)
    operator.on_kill()
    task.join(60)
    assert session.members(job) == []
    assert len(failures) == 1


def test_a_task_that_is_killed_by_sigkill_leaves_no_process_of_its_job(stand_in: Path, tmp_path: Path) -> None:
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


def test_the_buttons_link_to_the_run_and_to_the_report_behind_the_login(stand_in: Path, reports: Path) -> None:
    program(
        stand_in,
        f"report = 'file://{reports}/drift/a b.html'\n"
        "print(json.dumps({'mlflow_run_url': 'http://m/#/runs/1', 'report_uri': report}))",
    )
    operator = FraudJobOperator(task_id="job", job="drift")
    assert ReportLink().get_link(operator, ti_key=None) == ""
    operator.execute({})
    assert MlflowRunLink().get_link(operator, ti_key=None) == "http://m/#/runs/1"
    assert ReportLink().get_link(operator, ti_key=None) == "http://airflow.test/fraud/reports/drift/a%20b.html"
