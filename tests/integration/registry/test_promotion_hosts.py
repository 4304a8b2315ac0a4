"""A promotion whose host is lost while it has the lock. Hosts are network namespaces (tests/netns.py)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr
from tests import netns, postgres
from tests.integration.registry_platform import PROJECT, Platform

PROMOTION = """
import json, sys
sys.path.insert(0, sys.argv[2])
from fraud.errors import FraudError
from fraud.registry.promotion_log import opened
from fraud.settings import Settings

def choose(current, history):
    print("locked", flush=True)
    sys.stdin.readline()
    return promotion.version("staging")

with opened(Settings(**json.loads(sys.argv[1]))) as promotion:
    try:
        promotion.change("promote", choose, actor="grace", reason="better")
    except FraudError as error:
        print(type(error).__name__, error.message, flush=True)
"""


@pytest.mark.slow
def test_the_lock_of_a_lost_host_is_released_and_the_host_changes_nothing_when_it_is_back(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason := netns.missing():
        pytest.skip(reason)
    if (programs := postgres.programs()) is None:
        pytest.skip("NOT TESTED: PostgreSQL is not installed; install the package postgresql")
    with netns.hosts("database", "lost") as [database, lost], postgres.running(programs, database) as url:
        monkeypatch.setenv("FRAUD_CONTROL_DB", url)
        platform.settings = platform.settings.model_copy(update={"control_db": SecretStr(url)})
        own = {  # a registry of its own: that of the test listens on the loopback interface of this machine
            "home": str(tmp_path / "lost"), "project": str(PROJECT), "mlflow_url": f"sqlite:///{tmp_path}/lost.db",
            "actor": "grace", "control_db": url,
        }  # fmt: skip
        holder = lost.start(
            sys.executable, "-c", PROMOTION, json.dumps(own), str(PROJECT / "src"),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        version = platform.register()
        with lost.disconnected():
            assert platform.fraud("promote")[0] == 0
        output, _ = holder.communicate("continue\n")
        assert output == "UnavailableError the control database does not answer\n"
        history = platform.fraud("history")[1]
        assert [(each["version"], each["actor"]) for each in history["changes"]] == [(version, "ada")]
