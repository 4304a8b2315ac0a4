"""A person's yes before a model goes live, where it is asked for."""

from collections.abc import Sequence
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowSkipException


class OptionalApproval(ApprovalOperator):
    """Airflow's own approval; skipped when `wanted` (templated) renders to anything but "True"."""

    template_fields: Sequence[str] = (*ApprovalOperator.template_fields, "wanted")

    def __init__(self, *, wanted: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.wanted = wanted

    def execute(self, context: Context) -> Any:
        """Wait for the answer. Raises AirflowSkipException when none is asked for."""
        if self.wanted != "True":
            raise AirflowSkipException("no approval asked for in this run")
        return super().execute(context)


def approved_by(ti: Any) -> str:
    """Who answered the task `approval` of this run; "" when nobody was asked."""
    answer = ti.xcom_pull(task_ids="approval")
    return str(answer["responded_by_user"]["name"]) if answer else ""
