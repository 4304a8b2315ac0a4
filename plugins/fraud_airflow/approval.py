"""The approval of a model before it is promoted, with a waiver of failed gates where one is needed."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Context, Param
from airflow.sdk.definitions.param import ParamsDict
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from fraud_airflow.figures import figure

APPROVAL: Final = "approval"
"""Task id of the approval."""
GATES: Final = "gates"
"""Task id of the job that reads the candidate's gates."""
TIMED_OUT: Final = "approval timeout"
"""Recorded as the actor when the approval ended without an answer."""
WAIVER_DAYS: Final = 30
"""Default duration of a waiver in the form."""
MIN_WAIVER_REASON: Final = 10
"""Minimum length of a waiver's reason in characters. `fraud promote` has the same limit."""

Answer = dict[str, Any]


class OptionalApproval(ApprovalOperator):
    """Airflow's approval operator. It is skipped when `condition` (templated) does not render to "True".

    The form of a version that failed gates has fields for the waiver: its reason and its end. The task is skipped for
    a version that cannot be promoted. *Reject* does not skip the downstream tasks: one of them records it. Without an
    answer before the timeout, the answer is *Reject*.
    """

    template_fields: Sequence[str] = (*ApprovalOperator.template_fields, "condition")

    def __init__(self, *, condition: str, **kwargs: Any) -> None:
        super().__init__(defaults=self.REJECT, **kwargs)
        self.condition = condition

    def execute(self, context: Context) -> Any:
        """Wait for the answer. Raises AirflowSkipException when `condition` is false or promotion is impossible."""
        if self.condition != "True":
            raise AirflowSkipException("no approval is required in this run")
        if outdated := _outdated(_gates(context["ti"])):
            raise AirflowSkipException(outdated)
        self._set_form(context)
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Return the answer. Raises AirflowFailException for an approval without the required waiver."""
        self._set_form(context)
        answer = super(ApprovalOperator, self).execute_complete(context, event)
        self.log.info("%s, by %s", *answer["chosen_options"], _person(answer))
        if answer["chosen_options"] == [self.APPROVE] and _failed(context["ti"]):
            _require_waiver(answer)
        return answer

    def validate_params_input(self, params_input: Mapping[str, Any]) -> None:
        """Accept answers through the API that leave out fields: *Reject* needs no waiver. Raises ValueError."""
        if unknown := set(params_input) - set(self.params):
            raise ValueError(f"unknown fields {sorted(unknown)}; the form has {sorted(self.params)}")
        for name, value in params_input.items():
            self.params[name] = value

    def _set_form(self, context: Context) -> None:
        """Set the fields of the form. Airflow requires a value for a field whose type has no "null"."""
        reason = Param(None, type=["null", "string"], title="Reason", description="kept in the promotion history")
        if not _failed(context["ti"]):
            self.params = ParamsDict({"reason": reason})
            return
        about_reason = f"required; kept in the history; at least {MIN_WAIVER_REASON} characters for an approval"
        end = (datetime.now(UTC).date() + timedelta(days=WAIVER_DAYS)).isoformat()
        about_end = "on this day Production is set back to the version before; not used by Reject"
        self.params = ParamsDict(
            {
                "reason": Param(None, type="string", title="Reason", description=about_reason),
                "waiver_expires": Param(
                    end, type="string", format="date", title="Waiver expires", description=about_end
                ),
            }
        )


def approved(ti: Any) -> bool:
    """Whether the version may be promoted: it was approved, or no approval was required."""
    answer = _answer(ti)
    return answer is None or answer["chosen_options"] == [OptionalApproval.APPROVE]


def answered_by(ti: Any) -> str:
    """The name of the person who answered; "" when no approval was required."""
    answer = _answer(ti)
    return _person(answer) if answer else ""


def answer_reason(ti: Any) -> str:
    """The reason that the person entered; "" without one."""
    answer = _answer(ti)
    if answer is None:
        return ""
    return _input(answer, "reason") or ("no answer in time" if answer["responded_by_user"] is None else "")


def waiver(ti: Any) -> dict[str, str]:
    """The waiver of an approval, as values of `fraud promote`'s flags; each is "" without a waiver."""
    answer, failed = _answer(ti), _failed(ti)
    if answer is None or not failed or not approved(ti):
        return {"gates": "", "reason": "", "expires": ""}
    return {
        "gates": ",".join(failed),
        "reason": _input(answer, "reason"),
        "expires": _input(answer, "waiver_expires"),
    }


def gates_as_text(ti: Any) -> str:
    """The candidate's gates as Markdown, for the approval form."""
    result = _gates(ti)
    if not result or not result["version"]:
        return "There is no candidate."
    champion = f"version {result['champion']}" if result["champion"] else "the untuned rule: there is no Production yet"
    lines = [f"**Version {result['version']}**, level {result['selected']}, compared with {champion}.", ""]
    if failed := result["failed_gates"]:
        lines.append(
            f"**Failed gates: {', '.join(failed)}.** *Approve* promotes this version with a waiver of them. Enter the "
            "reason and the day on which the waiver expires. Both are kept in the promotion history, with your name."
        )
    else:
        lines.append("Every gate passed. *Approve* promotes this version.")
    lines += [
        "*Reject*, or no answer within two days, removes it from `staging`.",
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
    """One log line for each gate, failed gates first."""
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
    """Why `fraud promote` refuses the version even after an approval; "" when it does not."""
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
            f"  hint: clear the task `{APPROVAL}` and answer again"
        )


def _answer(ti: Any) -> Answer | None:
    answer: Answer | None = ti.xcom_pull(task_ids=APPROVAL)
    return answer


def _input(answer: Answer, field: str) -> str:
    return str((answer.get("params_input") or {}).get(field) or "").strip()


def _person(answer: Mapping[str, Any]) -> str:
    user = answer["responded_by_user"]
    return str(user["name"]) if user else TIMED_OUT
