"""MLflow's client as jobs use it.

Feast registers a provider of request headers with MLflow, for tokens that Feast resolved. Loading it at a job's first
request imports all of Feast and torch, 8 s of CPU, and it never has a token of ours. So MLflow is shown none.
"""

from mlflow import MlflowClient
from mlflow.environment_variables import MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR, MLFLOW_HTTP_REQUEST_MAX_RETRIES
from mlflow.utils import plugins

from fraud.settings import Settings

MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.set(False)  # a job's log is read line by line
MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(3)  # MLflow's seven take minutes; who runs the job knows when to try again

_listed = plugins.get_entry_points
plugins.get_entry_points = lambda _group: []
try:
    import mlflow.tracking.request_header.registry  # noqa: F401 - looks for providers once, now
finally:
    plugins.get_entry_points = _listed


def client(settings: Settings) -> MlflowClient:
    """A client of the registry that `settings` names; it connects at its first call."""
    return MlflowClient(settings.mlflow_url)
