"""MLflow's client as jobs use it. MLflow takes seconds to import, so it is imported by the first call that needs it.

Feast registers a provider of request headers with MLflow, for tokens that Feast resolved. Loading it at a job's first
request imports all of Feast and torch, 8 s of CPU, and it never has a token of ours. So MLflow is shown none.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from fraud.errors import BadConfigError, FraudError, UnavailableError
from fraud.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

T = TypeVar("T")
_ABSENT: Final = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
_REFUSED: Final = (401, 403)


class ModelVersion(Protocol):
    """What jobs read of MLflow's model version."""

    version: str
    run_id: str
    tags: Mapping[str, str]
    current_stage: str
    creation_timestamp: int
    """Milliseconds since 1970, UTC."""


def client(settings: Settings) -> "MlflowClient":
    """A client of the registry that `settings` names; it connects at its first call."""
    _configure()
    from mlflow import MlflowClient  # noqa: PLC0415 - MLflow takes seconds to import

    return MlflowClient(settings.mlflow_url)


@cache
def _configure() -> None:
    from mlflow.environment_variables import (  # noqa: PLC0415 - MLflow takes seconds to import
        MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR,
        MLFLOW_HTTP_REQUEST_MAX_RETRIES,
        MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT,
    )
    from mlflow.utils import plugins  # noqa: PLC0415

    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.set(False)  # a job's log is read line by line
    MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(3)  # seven, the default, take minutes; whoever runs the job can try again
    MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT.set(True)  # standard output is the job's result
    # MLflow's remarks about pip and about waiting repeat what the job's own log states.
    for name in ("mlflow.utils.environment", "mlflow.store.model_registry.abstract_store"):
        logging.getLogger(name).setLevel(logging.ERROR)
    listed = plugins.get_entry_points
    plugins.get_entry_points = lambda _group: []
    try:
        import mlflow.tracking.request_header.registry  # noqa: F401, PLC0415 - looks for providers once, now
    finally:
        plugins.get_entry_points = listed


def lookup(call: Callable[..., T], *arguments: str) -> T | None:
    """The result of a look-up in the registry; None when there is no such entry."""
    from mlflow.exceptions import MlflowException  # noqa: PLC0415 - MLflow takes seconds to import

    try:
        return call(*arguments)
    except MlflowException as error:
        if error.error_code not in _ABSENT:
            raise
        return None


@contextmanager
def registry_errors() -> Iterator[None]:
    """Raise MLflow's errors as ours: BadConfigError for refused credentials, UnavailableError for everything else."""
    from mlflow.exceptions import MlflowException  # noqa: PLC0415 - MLflow takes seconds to import

    try:
        yield
    except MlflowException as error:
        raise _named(error) from error


def _named(error: "MlflowException") -> FraudError:
    if error.get_http_status_code() in _REFUSED:
        return BadConfigError(
            "the model registry refuses the credentials",
            expected="MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD of a user with access",
            got=str(error),
            hint="the embedded stack's are in <FRAUD_HOME>/stack.env: set -a; . var/stack.env; set +a",
        )
    return UnavailableError(
        "the model registry does not answer", got=str(error), hint="check FRAUD_MLFLOW_URL; make status shows the stack"
    )
