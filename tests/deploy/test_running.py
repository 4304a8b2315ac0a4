"""The containers of the running stack, checked by /proc and the engine. Needs `make up` first."""

import json
import re
import shutil
import subprocess
from typing import Any

import pytest

PROJECT = "fraud"
pytestmark = pytest.mark.deploy


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True, timeout=60).stdout


def running() -> list[dict[str, Any]]:
    """The output of `docker inspect` for each running container of the project. Empty without an engine."""
    if shutil.which("docker") is None:
        return []
    listed = subprocess.run(
        ["docker", "ps", "--quiet", "--filter", f"label=com.docker.compose.project={PROJECT}"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    ids = listed.stdout.split()
    inspected: list[dict[str, Any]] = json.loads(docker("inspect", *ids)) if listed.returncode == 0 and ids else []
    return inspected


CONTAINERS = running()
each_container = pytest.mark.parametrize(
    "container",
    CONTAINERS or [pytest.param({}, marks=pytest.mark.skip(reason="no deployed stack runs here: make up"))],
    ids=lambda c: c["Config"]["Labels"]["com.docker.compose.service"] if c else "none",
)


@each_container
def test_it_is_healthy_and_was_not_restarted(container: dict[str, Any]) -> None:
    assert container["State"]["Health"]["Status"] == "healthy"
    assert not container["State"]["OOMKilled"]


@each_container
def test_its_processes_have_no_privileges(container: dict[str, Any]) -> None:
    """Every process: not root, no effective, permitted or bounding capability, no new privileges."""
    pids = [line.split()[1] for line in docker("top", container["Id"]).splitlines()[1:]]
    seen = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/status", encoding="ascii") as file:  # noqa: PTH123 - a pseudo file
                status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
        except (FileNotFoundError, ProcessLookupError):
            continue  # the process has ended
        seen += 1
        assert "0" not in status["Uid"].split()
        assert "0" not in status["Gid"].split() or container["Config"]["Image"].startswith("grafana/")
        for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(status[kind], 16) == 0, kind
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2"
    assert seen


@each_container
def test_an_own_image_has_labels_and_a_health_check(container: dict[str, Any]) -> None:
    if not container["Config"]["Image"].startswith("fraud-"):
        assert container["Config"]["Healthcheck"]["Test"][0] in ("CMD", "CMD-SHELL")
        return
    image = json.loads(docker("image", "inspect", container["Image"]))[0]["Config"]
    assert image["User"] == "10001:10001"
    assert image["Healthcheck"]["Test"][0] == "CMD"
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", image["Labels"]["org.opencontainers.image.revision"])
    assert image["Labels"]["org.opencontainers.image.title"] == container["Config"]["Image"].partition(":")[0]


@each_container
def test_its_root_cannot_be_written(container: dict[str, Any]) -> None:
    assert container["HostConfig"]["ReadonlyRootfs"]
    tried = subprocess.run(
        ["docker", "exec", container["Id"], "sh", "-c", "echo 1 >/etc/written || echo 1 >/usr/written"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert tried.returncode
    assert "ead-only file system" in tried.stderr


@each_container
def test_its_ports_are_on_the_loopback_interface(container: dict[str, Any]) -> None:
    bindings = [b for several in (container["NetworkSettings"]["Ports"] or {}).values() for b in several or ()]
    assert all(binding["HostIp"] == "127.0.0.1" for binding in bindings)


@each_container
def test_it_has_limits(container: dict[str, Any]) -> None:
    host = container["HostConfig"]
    assert host["Memory"] > 0
    assert host["NanoCpus"] > 0
    assert host["PidsLimit"] > 0


@each_container
def test_no_command_line_contains_a_secret(container: dict[str, Any]) -> None:
    names = ("PASSWORD", "SECRET", "FERNET_KEY")
    given = [pair.partition("=") for pair in container["Config"]["Env"]]
    secrets = {value for name, _, value in given if any(n in name for n in names) and len(value) >= 16}
    commands = docker("top", container["Id"], "-eo", "pid,args")
    assert not [value for value in secrets if value in commands]
