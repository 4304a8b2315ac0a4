"""A person's yes or no before a model goes live, with the waiver of failed gates where one is needed."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Context, Param
from airflow.sdk.definitions.param import ParamsDict
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from fraud_airflow.figures import figure

APPROVAL: Final = "approval"
"""Task id of the question."""
GATES: Final = "gates"
"""Task id of the job that read the candidate's gates."""
NOBODY: Final = "nobody in time"
WAIVER_DAYS: Final = 30
"""The length of a waiver that the form proposes."""
MIN_WAIVER_REASON: Final = 10
"""Characters; `fraud promote` refuses a shorter one."""

Answer = dict[str, Any]


class OptionalApproval(ApprovalOperator):
    """Airflow's own approval; skipped when `wanted` (templated) renders to anything but "True".

    A version that failed gates is approved with a waiver of them: the form then asks for its reason and its end. A
    version that cannot be promoted at all is not asked about. A no is an answer, not a failure, and is recorded by
    what follows; so nothing is skipped here. No answer in time is a no.
    """

    template_fields: Sequence[str] = (*ApprovalOperator.template_fields, "wanted")

    def __init__(self, *, expected: str, **kwargs: Any) -> None:
        super().__init__(defaults=self.REJECT, **kwargs)
        self.expected = expected

    def execute(self, context: Context) -> Any:
        """Wait for the answer. Raises AirflowSkipException when none is wanted, or none could lead to a promotion."""
        if self.expected != "True":
            raise AirflowSkipException("no approval is required in this run")
        if outdated := _outdated(_gates(context["ti"])):
            raise AirflowSkipException(outdated)
        self._set_form(context)
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Pass the answer on. Raises AirflowFailException for an approval that lacks the waiver it needs."""
        self._set_form(context)
        answer = super(ApprovalOperator, self).execute_complete(context, event)
        self.log.info("%s, by %s", *answer["chosen_options"], _person(answer))
        if answer["chosen_options"] == [self.APPROVE] and _failed(context["ti"]):
            _require_waiver(answer)
        return answer

    def validate_params_input(self, params_input: Mapping[str, Any]) -> None:
        """As Airflow's, but a program that answers may leave fields out: *Reject* needs no waiver."""
        if unknown := set(params_input) - set(self.params):
            raise ValueError(f"unknown fields {sorted(unknown)}; the form has {sorted(self.params)}")
        for name, value in params_input.items():
            self.params[name] = value

    def _set_form(self, context: Context) -> None:
        """A field whose type has no "null" must be filled in before Airflow's form can be submitted."""
        reason = Param(None, type=["null", "string"], title="Reason", description="kept in the promotion history")
        if not _failed(context["ti"]):
            self.params = ParamsDict({"reason": reason})
            return
        about_reason = f"required for either answer, and kept; at least {MIN_WAIVER_REASON} characters to approve"
        end = (datetime.now(UTC).date() + timedelta(days=WAIVER_DAYS)).isoformat()
        about_end = "on this day Production goes back to the version before; Reject does not use it"
        self.params = ParamsDict(
            {
                "reason": Param(None, type="string", title="Reason", description=about_reason),
                "waiver_expires": Param(
                    end, type="string", format="date", title="Waiver expires", description=about_end
                ),
            }
        )


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
    return _input(answer, "reason") or ("no answer in time" if answer["responded_by_user"] is None else "")


def waiver(ti: Any) -> dict[str, str]:
    """The waiver that an approval gave, for the flags of `fraud promote`; every value is "" without one."""
    answer, failed = _answer(ti), _failed(ti)
    if answer is None or not failed or not approved(ti):
        return {"gates": "", "reason": "", "expires": ""}
    return {
        "gates": ",".join(failed),
        "reason": _input(answer, "reason"),
        "expires": _input(answer, "waiver_expires"),
    }


def gates_as_text(ti: Any) -> str:
    """The candidate's gates as Markdown, for the question."""
    result = _gates(ti)
    if not result or not result["version"]:
        return "There is no candidate."
    against = f"version {result['champion']}" if result["champion"] else "the untuned rule: there is no Production yet"
    lines = [f"**Version {result['version']}**, level {result['selected']}, compared with {against}.", ""]
    if failed := result["failed_gates"]:
        lines.append(
            f"**Failed gates: {', '.join(failed)}.** *Approve* promotes this version with a waiver of them. Enter the "
            "reason and the day on which the waiver expires: both stand in the promotion history, with your name."
        )
    else:
        lines.append("Every gate passed. *Approve* promotes this version.")
    lines += [
        "*Reject*, or no answer within two days, takes it off `staging`.",
        "",
        "| | gate | measured | required | |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {'passed' if gate['passed'] else '**failed**'} | {gate['name']} | {_measured(gate)} "
        f"| {gate['comparison']} {figure(gate['threshold'])} | {gate['detail'] or gate['why']} |"
        for gate in _failed_first(result["gates"])
    ]
    return "\n".join([*lines, "", f"The button *Report* of the task `{GATES}` opens the whole report."])


def gate_lines(gates: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line a gate, the failed ones first, for a log."""
    return [
        f"{'passed' if gate['passed'] else 'FAILED'}  {gate['name']}: {_measured(gate)}, required "
        f"{gate['comparison']} {figure(gate['threshold'])} ({gate['detail'] or gate['why']})"
        for gate in _failed_first(gates)
    ]


def _failed_first(gates: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted(gates, key=lambda gate: bool(gate["passed"]))


def _measured(gate: Mapping[str, Any]) -> str:
    return "not measured" if gate["value"] is None else figure(gate["value"])


def _gates(ti: Any) -> Mapping[str, Any] | None:
    result: Mapping[str, Any] | None = ti.xcom_pull(task_ids=GATES)
    return result


def _failed(ti: Any) -> list[str]:
    result = _gates(ti)
    return list(result["failed_gates"]) if result else []


def _outdated(result: Mapping[str, Any] | None) -> str:
    """Why `fraud promote` refuses the version whatever a person answers; "" when it does not."""
    if not result or result["champion"] == result["production"] or result["version"] == result["production"]:
        return ""
    return (
        f"version {result['version']} was compared with {_production(result['champion'])}, and now there is "
        f"{_production(result['production'])}: it cannot be promoted. Train again."
    )


def _production(version: str) -> str:
    return f"Production version {version}" if version else "no Production model"


def _require_waiver(answer: Answer) -> None:
    reason, expires = _input(answer, "reason"), _input(answer, "waiver_expires")
    if len(reason) < MIN_WAIVER_REASON or not expires or date.fromisoformat(expires) <= datetime.now(UTC).date():
        raise AirflowFailException(
            "an approval of a version that failed gates needs a waiver\n"
            f"  expected: a reason of at least {MIN_WAIVER_REASON} characters and a day after today\n"
            f"  got: {reason!r}, {expires or 'no day'}\n"
            f"  hint: clear the task `{APPROVAL}` to be asked again"
        )


def _answer(ti: Any) -> Answer | None:
    answer: Answer | None = ti.xcom_pull(task_ids=APPROVAL)
    return answer


def _input(answer: Answer, field: str) -> str:
    return str((answer.get("params_input") or {}).get(field) or "").strip()


def _person(answer: Mapping[str, Any]) -> str:
    user = answer["responded_by_user"]
    return str(user["name"]) if user else NOBODY
