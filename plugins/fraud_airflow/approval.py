"""A person's yes or no before a model goes live, where it is asked for."""

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowSkipException

from fraud_airflow.gates import figure

APPROVAL = "approval"
"""Task id of the question."""
GATES = "gates"
"""Task id of the job that read the candidate's gates."""
NOBODY = "nobody in time"


class OptionalApproval(ApprovalOperator):
    """Airflow's own approval; skipped when `wanted` (templated) renders to anything but "True".

    A no is an answer, not a failure, and is recorded by what follows; so nothing is skipped here. No answer in time is
    a no.
    """

    template_fields: Sequence[str] = (*ApprovalOperator.template_fields, "wanted")

    def __init__(self, *, wanted: str, **kwargs: Any) -> None:
        super().__init__(defaults=self.REJECT, **kwargs)
        self.wanted = wanted

    def execute(self, context: Context) -> Any:
        """Wait for the answer. Raises AirflowSkipException when none is asked for."""
        if self.wanted != "True":
            raise AirflowSkipException("no approval asked for in this run")
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Pass the answer on, whatever it is."""
        answer = super(ApprovalOperator, self).execute_complete(context, event)
        self.log.info("%s, by %s", *answer["chosen_options"], _person(answer))
        return answer


def approved(ti: Any) -> bool:
    """Whether the model may go live: it was approved, or nobody was asked."""
    answer = _answer(ti)
    return answer is None or answer["chosen_options"] == [OptionalApproval.APPROVE]


def answered_by(ti: Any) -> str:
    """Who answered; "" when nobody was asked."""
    answer = _answer(ti)
    return _person(answer) if answer else ""


def answer_reason(ti: Any) -> str:
    """Why, in the person's own words; "" without any."""
    answer = _answer(ti)
    if answer is None:
        return ""
    given = str((answer.get("params_input") or {}).get("reason") or "").strip()
    return given or ("no answer in time" if answer["responded_by_user"] is None else "")


def gates_for_people(ti: Any) -> str:
    """The candidate's gates as Markdown, for the question."""
    result: Mapping[str, Any] | None = ti.xcom_pull(task_ids=GATES)
    if not result or not result["version"]:
        return "There is no candidate."
    against = f"version {result['champion']}" if result["champion"] else "the rule of thumb: there is no Production yet"
    verdict = "Every gate passed." if result["gates_passed"] else f"**Failed: {', '.join(result['failed_gates'])}.**"
    rows = [
        f"| {'passed' if gate['passed'] else '**failed**'} | {gate['name']} | {figure(gate['value'])} "
        f"| {gate['asked']} {figure(gate['threshold'])} | {gate['detail'] or gate['why']} |"
        for gate in result["gates"]
    ]
    return "\n".join(
        [
            f"**Version {result['version']}**, level {result['selected']}, held against {against}. {verdict}",
            "",
            "| | gate | measured | asked for | |",
            "| --- | --- | --- | --- | --- |",
            *rows,
            "",
            f"The whole report is behind the button *Report* of the task `{GATES}`. No answer in two days is a no.",
        ]
    )


def _answer(ti: Any) -> dict[str, Any] | None:
    answer: dict[str, Any] | None = ti.xcom_pull(task_ids=APPROVAL)
    return answer


def _person(answer: Mapping[str, Any]) -> str:
    user = answer["responded_by_user"]
    return str(user["name"]) if user else NOBODY
