"""Configure and create MLflow's client. MLflow takes seconds to import, so it is imported on first use.

Feast registers a provider of request headers with MLflow. Loading it would import all of Feast and torch (8 s of CPU)
at the first request, and the platform does not use its tokens. Therefore plugins are hidden while MLflow looks for
providers.
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
    """The attributes of MLflow's model version that jobs read."""

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
    MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(3)  # the default of 7 takes minutes; Airflow retries the job
    MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT.set(True)  # standard output is the job's result
    # MLflow's messages about pip and waiting duplicate the job's log.
    for name in ("mlflow.utils.environment", "mlflow.store.model_registry.abstract_store"):
        logging.getLogger(name).setLevel(logging.ERROR)
    listed = plugins.get_entry_points
    plugins.get_entry_points = lambda _group: []
    try:
        import mlflow.tracking.request_header.registry  # noqa: F401, PLC0415 - looks for providers at import
    finally:
        plugins.get_entry_points = listed


def lookup(call: Callable[..., T], *arguments: str) -> T | None:
    """Result of a registry look-up; None if the entry does not exist."""
    from mlflow.exceptions import MlflowException  # noqa: PLC0415 - MLflow takes seconds to import

    try:
        return call(*arguments)
    except MlflowException as error:
        if error.error_code not in _ABSENT:
            raise
        return None


@contextmanager
def registry_errors() -> Iterator[None]:
    """Convert MLflow's errors: BadConfigError for refused credentials, UnavailableError for all others."""
    from mlflow.exceptions import MlflowException  # noqa: PLC0415 - MLflow takes seconds to import

    try:
        yield
    except MlflowException as error:
        raise _as_fraud_error(error) from error


def _as_fraud_error(error: "MlflowException") -> FraudError:
    if error.get_http_status_code() in _REFUSED:
        return BadConfigError(
            "the model registry refuses the credentials",
            expected="MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD of a user with access",
            got=str(error),
            hint="the embedded stack's are in <FRAUD_HOME>/stack.env: set -a; . var/stack.env; set +a",
        )
    return UnavailableError(
        "the model registry does not answer",
        got=str(error),
        hint="check FRAUD_MLFLOW_URL; make services lists the servers of the embedded stack",
    )
