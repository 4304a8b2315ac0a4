"""Real servers for integration tests."""

from collections.abc import Iterator

import pytest

from fraud.embedded import valkey


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Valkey server of our own for the whole session; tests share its keys, so they use their own users."""
    with valkey.running(tmp_path_factory.mktemp("valkey")) as server:
        yield server.url
