"""Real servers for integration tests."""

from collections.abc import Iterator

import pytest

from fraud.embedded import valkey
from fraud.io import mlflow_client
from fraud.settings import Settings


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Valkey server of our own for the whole session; tests share its keys, so they use their own users."""
    with valkey.running(tmp_path_factory.mktemp("valkey")) as server:
        yield server.url


@pytest.fixture(scope="session", autouse=True)
def mlflow_as_in_jobs() -> None:
    """Tests use MLflow's client directly too; without this its first request imports Feast and torch."""
    mlflow_client.client(Settings())
