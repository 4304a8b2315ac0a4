"""Real backends for the serving tests. They run in the serving environment; MLflow runs in the ML environment."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from servers import Registry, Serving, Valkey

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def backends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("backends")
    command = [ROOT / ".venv/ml/bin/python", Path(__file__).with_name("backends.py"), folder]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        addresses = json.loads(process.stdout.readline())

        def registry(command: str) -> None:
            process.stdin.write(command.encode() + b"\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"done\n"

        yield {**addresses, "folder": str(folder), "registry": registry}
        process.stdin.close()


@pytest.fixture(scope="session")
def registry(backends: dict[str, Any]) -> Iterator[Registry]:
    registry = Registry(backends["mlflow"], backends["password"], Path(backends["folder"]) / "models")
    yield registry
    registry.close()


@pytest.fixture(scope="session")
def shared_store(backends: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """One store for tests that do not kill it; each uses users of its own."""
    store = Valkey(backends["valkey"], tmp_path_factory.mktemp("valkey"))
    store.start()
    yield store
    store.stop()


@pytest.fixture
def store(backends: dict[str, Any], tmp_path: Path) -> Iterator[Valkey]:
    """The store of one test, which may kill it."""
    store = Valkey(backends["valkey"], tmp_path / "valkey")
    store.start()
    yield store
    store.stop()


@pytest.fixture(scope="session")
def versions(registry: Registry) -> list[str]:
    """Registered versions; `versions[i]` answers `expected.probability(i, ...)`."""
    return [registry.register(*registry.files(number), git_commit="c0ffee") for number in range(8)]


@pytest.fixture(scope="module")
def serving(
    registry: Registry, versions: list[str], shared_store: Valkey, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Serving]:
    """One server for the tests of a module that do not change it. It serves `versions[0]`."""
    registry.promote(versions[0])
    server = Serving(tmp_path_factory.mktemp("serving"), shared_store.url, registry).start()
    yield server
    server.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Serving]]:
    """Start servers that end with the test: start(redis_url, registry, wait_for, **settings)."""
    started: list[Serving] = []

    def _start(
        redis_url: str, registry: Registry | None, wait_for: str = "/ready", folder: str = "serving", **settings: str
    ) -> Serving:
        server = Serving(tmp_path / folder, redis_url, registry, **settings)
        started.append(server)
        return server.start(wait_for)

    yield _start
    for server in started:
        server.close()
