"""A service of a real stack is killed and started again."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from tests.e2e.project import small_project
from tests.soak import resources
from tests.soak.kills import killing
from tests.soak.schedule import Kill

from fraud.embedded import processes, services
from fraud.embedded.stack import Stack
from fraud.errors import UnavailableError
from fraud.settings import Settings


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """A stack of which only the store runs."""
    project = small_project(tmp_path / "project")
    made = Stack.open(Settings(home=tmp_path / "home", project=project), usual_ports=False)
    services.start_all(made, print, ["valkey"])
    yield made
    services.stop_all(made, print)


def test_a_killed_store_is_started_again_with_what_it_had(stack: Stack) -> None:
    before, lines = processes.running_process("valkey", stack.run), list[str]()
    with redis.Redis.from_url(stack.platform_environment()["FRAUD_REDIS_URL"]) as store:
        store.set("some", "value")
        with killing(stack, Kill("valkey", "day", 0.0, 0.0), lines.append):
            pass
        assert store.get("some") == b"value"
    after = processes.running_process("valkey", stack.run)
    assert None not in (before, after)
    assert before != after
    assert lines[0] == "kill -9 valkey"
    assert lines[-1].startswith("valkey is ready after")
    assert resources.orphans(stack) == []
    assert list(resources.measure(stack, stack.home / "tmp").services) == ["valkey"]


def test_nothing_is_killed_without_a_kill(stack: Stack) -> None:
    before = processes.running_process("valkey", stack.run)
    with killing(stack, None, print):
        pass
    assert processes.running_process("valkey", stack.run) == before


def test_a_service_that_does_not_run_is_an_error(stack: Stack) -> None:
    with (
        pytest.raises(UnavailableError, match="serving does not run"),
        killing(stack, Kill("serving", "day", 0.0, 0.0), print),
    ):
        pass
