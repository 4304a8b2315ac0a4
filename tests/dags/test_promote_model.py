"""The question of `promote_model`: what it shows, and what follows from each answer. The job is a stand-in."""

import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
VERDICT = {
    "version": "7", "selected": "2-boosting", "champion": "6", "gates_passed": False, "failed_gates": ["slices"],
    "gates": [
        {"name": "slices", "value": 0.2, "asked": "at most", "threshold": 0.15, "passed": False,
         "why": "no slice may pay", "detail": "worst: travel"},
    ],
}  # fmt: skip


class TaskInstance:
    """What the functions under test need of one: XComs by task id."""

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
        (answer("Reject", None), False, "nobody in time", "no answer in time"),
    ],
)
def test_an_answer_says_whether_who_and_why(given: Any, yes: bool, who: str, why: str) -> None:
    from fraud_airflow.approval import answer_reason, answered_by, approved

    ti = TaskInstance(approval=given)
    assert (approved(ti), answered_by(ti), answer_reason(ti)) == (yes, who, why)


def test_the_question_shows_every_gate() -> None:
    from fraud_airflow.approval import gates_for_people

    text = gates_for_people(TaskInstance(gates=VERDICT))
    assert "**Version 7**, level 2-boosting, held against version 6. **Failed: slices.**" in text
    assert "| **failed** | slices | 0.2 | at most 0.15 | worst: travel |" in text
    assert gates_for_people(TaskInstance()) == "There is no candidate."


def write_stand_in(path: Path, version: str) -> Path:
    """A `fraud` that answers as the jobs do, and writes down what it was asked."""
    asked = path.with_name("asked")
    path.write_text(
        f"#!{sys.executable}\n"
        "import json, sys\n"
        f"open({str(asked)!r}, 'a').write(' '.join(sys.argv[1:]) + '\\n')\n"
        f"print(json.dumps({VERDICT | {'version': version, 'changed': bool(version)}!r}))\n"
    )
    path.chmod(0o755)
    return asked


@pytest.mark.parametrize(
    ("version", "states", "asked"),
    [
        ("7", {"gates": "success", "approval": "skipped", "promote": "success", "reject": "skipped"},
         ["gates staging --json", "promote --version=7 --json"]),
        ("", {"gates": "skipped", "approval": "skipped", "promote": "skipped", "reject": "skipped"},
         ["gates staging --json", "promote --json"]),
    ],
    ids=["a candidate", "none"],
)  # fmt: skip
def test_without_a_question_the_candidate_that_was_looked_at_is_promoted(
    stand_in: Path, database: None, version: str, states: dict[str, str], asked: list[str]
) -> None:
    from airflow.dag_processing.dagbag import DagBag

    said = write_stand_in(stand_in, version)
    finished = DagBag(ROOT / "dags").dags["promote_model"].test(run_conf={})
    assert {task.task_id: str(task.state) for task in finished.get_task_instances()} == states
    assert said.read_text().splitlines() == asked
