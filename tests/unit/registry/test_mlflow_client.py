"""Costs of a request to the registry."""

import subprocess
import sys

CODE = """
import sys
from fraud.registry import mlflow_client
from fraud.settings import Settings
mlflow_client.client(Settings(mlflow_url="http://127.0.0.1:1"))
from mlflow.tracking.request_header.registry import resolve_request_headers
assert resolve_request_headers()["User-Agent"].startswith("mlflow")
print(*sorted({"feast", "torch"} & sys.modules.keys()))
"""


def test_a_request_does_not_import_feast_and_torch() -> None:
    """Feast's plugin for MLflow would; in a process of its own, since tests import everything."""
    ended = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == ""
