"""The approval of `promote_model`: the form, and the effect of each answer. A stand-in replaces the job."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
VERDICT = {
    "version": "7", "selected": "2-boosting", "champion": "6", "production": "6", "gates_passed": False,
    "failed_gates": ["slices"],
    "gates": [
        {"name": "holdout_rows", "value": 20828, "comparison": "at least", "threshold": 1000, "passed": True,
         "why": "a small holdout proves nothing", "detail": ""},
        {"name": "slices", "value": 0.2, "comparison": "at most", "threshold": 0.15, "passed": False,
         "why": "no slice may pay", "detail": "worst: travel"},
    ],
}  # fmt: skip


class TaskInstance:
    """A task instance with XComs by task id."""

    def __init__(self, **xcoms: Any) -> None:
        self._xcoms = xcoms

    def xcom_pull(self, *, task_ids: str) -> Any:
        return self._xcoms.get(task_ids)


def answer(option: str, name: str | None, reason: str = "") -> dict[str, Any]:
    user = {"id": "1", "name": name} if name else None
    return {"chosen_options": [option], "params_input": {"reason": reason}, "responded_by_user": user}


@pytest.mark.parametrize(
    ("given", "yes", "who", "why"),
    [
        (None, True, "", ""),
        (answer("Approve", "ada", "earns more"), True, "ada", "earns more"),
        (answer("Approve", "ada"), True, "ada", ""),
        (answer("Reject", "grace", "a campaign runs"), False, "grace", "a campaign runs"),
        (answer("Reject", None), False, "approval timeout", "no answer in time"),
    ],
)
def test_an_answer_has_a_decision_a_person_and_a_reason(given: Any, yes: bool, who: str, why: str) -> None:
    from fraud_airflow.approval import answer_reason, answered_by, approved

    ti = TaskInstance(approval=given)
    assert (approved(ti), answered_by(ti), answer_reason(ti)) == (yes, who, why)


PASSED: dict[str, Any] = {**VERDICT, "gates_passed": True, "failed_gates": []}


def test_the_form_lists_every_gate_failed_gates_first_and_offers_the_waiver() -> None:
    from fraud_airflow.approval import gates_as_text

    text = gates_as_text(TaskInstance(gates=VERDICT))
    assert "**Version 7**, level 2-boosting, compared with version 6." in text
    assert "**Failed gates: slices.** *Approve* promotes this version with a waiver of them." in text
    failed = "| **failed** | slices | 0.200 | at most 0.150 | worst: travel |"
    passed = "| passed | holdout_rows | 20,828 | at least 1,000 | a small holdout proves nothing |"
    assert text.index(failed) < text.index(passed)
    assert gates_as_text(TaskInstance()) == "There is no candidate."
    assert "waiver" not in gates_as_text(TaskInstance(gates=PASSED))


def test_the_log_of_a_candidate_puts_failed_gates_first() -> None:
    from fraud_airflow.approval import gate_lines

    assert gate_lines(VERDICT["gates"]) == [
        "FAILED  slices: 0.200, required at most 0.150 (worst: travel)",
        "passed  holdout_rows: 20,828, required at least 1,000 (a small holdout proves nothing)",
    ]


def test_an_approval_of_a_version_that_failed_gates_is_a_waiver_of_them() -> None:
    from fraud_airflow.approval import waiver

    given = answer("Approve", "ada", "agreed with risk")
    given["params_input"]["waiver_expires"] = "2999-01-01"
    none = {"gates": "", "reason": "", "expires": ""}
    failed = {**VERDICT, "failed_gates": ["slices", "skew"]}
    assert waiver(TaskInstance(gates=failed, approval=given)) == {
        "gates": "slices,skew", "reason": "agreed with risk", "expires": "2999-01-01",
    }  # fmt: skip
    assert waiver(TaskInstance(gates=PASSED, approval=given)) == none
    assert waiver(TaskInstance(gates=VERDICT)) == none
    assert waiver(TaskInstance(gates=VERDICT, approval=answer("Reject", "ada", "a campaign runs"))) == none


def approval_task() -> Any:
    from fraud_airflow.approval import APPROVAL, OptionalApproval

    return OptionalApproval(task_id=APPROVAL, subject="?", body="", condition="True")


@pytest.mark.parametrize(
    ("verdict", "fields"),
    [(PASSED, {"reason": ["null", "string"]}), (VERDICT, {"reason": "string", "waiver_expires": "string"})],
    ids=["passed", "failed"],
)
def test_the_form_has_waiver_fields_where_a_waiver_is_needed(verdict: dict[str, Any], fields: dict[str, Any]) -> None:
    operator = approval_task()
    operator._set_form({"ti": TaskInstance(gates=verdict)})
    assert {name: field["schema"]["type"] for name, field in operator.serialized_params.items()} == fields


@pytest.mark.parametrize(
    ("reason", "expires", "complete"),
    [
        ("agreed with risk", "2999-01-01", True),
        ("ten chars!", "2999-01-01", True),
        ("nine char", "2999-01-01", False),
        ("agreed with risk", "2020-01-01", False),
        ("agreed with risk", None, False),
    ],
)
def test_an_approval_without_a_complete_waiver_fails_the_approval_task(
    reason: str, expires: str | None, complete: bool
) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    given = answer("Approve", "ada", reason) | {"responded_at": datetime(2026, 1, 2, tzinfo=UTC)}
    # A client of the API may leave out fields. Airflow does not check this.
    given["params_input"] = {"reason": reason, "waiver_expires": expires} if expires else {}
    context: Any = {"ti": TaskInstance(gates=VERDICT)}
    if complete:
        assert approval_task().execute_complete(context, given)["chosen_options"] == ["Approve"]
    else:
        with pytest.raises(AirflowFailException, match="needs a waiver"):
            approval_task().execute_complete(context, given)
    refused = {**given, "chosen_options": ["Reject"], "params_input": {"reason": reason}}
    assert approval_task().execute_complete(context, refused)["chosen_options"] == ["Reject"]


def test_an_answer_with_a_field_that_the_form_lacks_is_refused() -> None:
    given = answer("Approve", "ada") | {"params_input": {"until": "2999-01-01"}}
    with pytest.raises(ValueError, match=r"unknown fields \['until'\]; the form has \['reason'\]"):
        approval_task().execute_complete({"ti": TaskInstance(gates=PASSED)}, given)


def test_the_approval_is_skipped_for_a_version_that_cannot_be_promoted() -> None:
    """It was compared with version 6, and 8 is Production: `fraud promote` refuses it with any waiver."""
    from airflow.sdk.exceptions import AirflowSkipException

    context: Any = {"ti": TaskInstance(gates={**VERDICT, "production": "8"})}
    with pytest.raises(AirflowSkipException, match=r"compared with Production version 6.*now there is.*version 8"):
        approval_task().execute(context)


def write_stand_in(path: Path, version: str) -> Path:
    """A stand-in for `fraud` that prints the jobs' results. Returns the file to which it writes its arguments."""
    commands = path.with_name("commands")
    path.write_text(
        f"#!{sys.executable}\n"
        "import json, sys\n"
        f"open({str(commands)!r}, 'a').write(' '.join(sys.argv[1:]) + '\\n')\n"
        f"print(json.dumps({VERDICT | {'version': version, 'changed': bool(version)}!r}))\n"
    )
    path.chmod(0o755)
    return commands


@pytest.mark.parametrize(
    ("version", "states", "commands"),
    [
        ("7", {"gates": "success", "approval": "skipped", "promote": "success", "reject": "skipped"},
         ["gates staging --json", "promote --version=7 --json"]),
        ("", {"gates": "skipped", "approval": "skipped", "promote": "skipped", "reject": "skipped"},
         ["gates staging --json", "promote --json"]),
    ],
    ids=["a candidate", "none"],
)  # fmt: skip
def test_without_an_approval_the_version_whose_gates_were_read_is_promoted(
    stand_in: Path, database: Path, version: str, states: dict[str, str], commands: list[str]
) -> None:
    from airflow.dag_processing.dagbag import DagBag

    recorded = write_stand_in(stand_in, version)
    finished = DagBag(ROOT / "dags").dags["promote_model"].test(run_conf={})
    assert {task.task_id: str(task.state) for task in finished.get_task_instances()} == states
    assert recorded.read_text().splitlines() == commands
