"""One MLflow server per module, one registered model per test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.registry_platform import Platform, environment

from fraud.embedded.servers import mlflow_server
from fraud.registry.model_versions import MODEL_NAME


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[mlflow_server.Server]:
    with mlflow_server.running(tmp_path_factory.mktemp("mlflow")) as running:
        yield running


@pytest.fixture
def platform(server: mlflow_server.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    for name, value in environment(server, tmp_path).items():
        monkeypatch.setenv(name, value)
    platform = Platform(server, tmp_path)
    platform.client.create_registered_model(MODEL_NAME)
    yield platform
    platform.client.delete_registered_model(MODEL_NAME)
