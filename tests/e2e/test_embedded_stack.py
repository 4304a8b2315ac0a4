"""The embedded stack with its real services: readiness, listening sockets, kill -9 of services, leftover processes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path

import httpx
import psutil
import pytest
from tests.e2e.project import small_project

from fraud.embedded import processes, services
from fraud.embedded.servers import alertmanager, prometheus
from fraud.embedded.servers.airflow import ADMIN
from fraud.embedded.stack import STREAM_PORTS, Stack
from fraud.settings import Settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]  # Airflow starts several times
AIRFLOW = ("airflow-api-server", "airflow-task-logs", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer")
PACKAGED = [
    *(["prometheus", "platform-metrics"] if prometheus.binary() else []),
    *(["alertmanager"] if alertmanager.binary() else []),
]
SERVICES = ["valkey", "mlflow", "serving", *PACKAGED, *AIRFLOW]
# Services with a permanent child -> whether they end or stop listening without it. The scheduler starts another one.
NEEDS_CHILD = {"mlflow": True, "airflow-triggerer": True, "airflow-scheduler": False}
ANSWER_S = 60.0
"""A page of Airflow takes seconds when it is made for the first time on a busy machine."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_project(tmp_path_factory.mktemp("stack") / "project")


@pytest.fixture(scope="module")
def command(project: Path) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """`python -m fraud.embedded` on a running stack for these tests."""
    env = {**os.environ, "FRAUD_HOME": str(project / "var"), "FRAUD_PROJECT": str(project)}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "fraud.embedded", *arguments], env=env, capture_output=True, text=True, check=False
        )

    try:
        started = run("up", "--free-ports")
        assert started.returncode == 0, started.stdout + started.stderr
        yield run
    finally:
        run("down")
        shutil.rmtree(project, ignore_errors=True)


@pytest.fixture(scope="module")
def stack(command: Callable[..., subprocess.CompletedProcess[str]], project: Path) -> Stack:
    return Stack.open(Settings(home=project / "var", project=project))


def until(condition: Callable[[], object], seconds: float, message: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, message
        time.sleep(0.1)


def problems(stack: Stack) -> dict[str, str]:
    """Service -> why it is not ready, for services that are not ready."""
    return {state.name: state.problem for state in services.states(stack) if state.problem}


def becomes_whole(stack: Stack) -> None:
    """A service that was ready may answer late once, while another one starts."""
    until(lambda: not problems(stack), 60, "a service is not ready")


def kill(process: processes.Process) -> None:
    os.kill(process.pid, signal.SIGKILL)
    until(lambda: not processes.is_running(process), 10, "a killed process still runs")


def running(stack: Stack, service: str) -> processes.Process:
    process = processes.running_process(service, stack.run)
    assert process is not None, f"{service} does not run"
    return process


def start(stack: Stack) -> list[str]:
    """Do what `make start` does, in this process. Returns the printed lines."""
    lines: list[str] = []
    services.end_leftover_processes(stack, lines.append)
    assert services.choose_free_ports(stack, lines.append) is stack
    services.start_all(stack, lines.append)
    return lines


def writing_below(home: Path) -> list[psutil.Process]:
    """Every process of this machine with an open file of the stack: all of its processes write into its logs."""
    found = []
    for process in psutil.process_iter():
        try:
            links = [entry.readlink() for entry in Path(f"/proc/{process.pid}/fd").iterdir()]
        except OSError:
            continue
        if process.pid != os.getpid() and any(link.is_relative_to(home) for link in links):
            found.append(process)
    return found


def test_every_service_runs_and_the_list_prints_a_page_that_opens(
    stack: Stack, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    listed = command("services")
    assert listed.returncode == 0, listed.stdout
    rows = [line.split() for line in listed.stdout.splitlines()]
    assert [row[0] for row in rows] == SERVICES
    assert {row[1] for row in rows} == {"ready"}
    pages = [row[2] for row in rows if len(row) > 2 and row[2].startswith("http")]
    assert len(pages) == len(SERVICES) - 5  # the store has no HTTP server; four parts of Airflow have no page
    login = httpx.BasicAuth("admin", stack.secret["MLFLOW_ADMIN_PASSWORD"])
    answers = {page: httpx.get(page, auth=login, follow_redirects=True, timeout=ANSWER_S).status_code for page in pages}
    assert set(answers.values()) == {200}, answers


def test_every_socket_of_the_stack_listens_on_loopback(stack: Stack) -> None:
    sockets = {
        (connection.laddr.ip, connection.laddr.port)
        for process in writing_below(stack.home)
        for connection in process.net_connections("inet")
        if connection.status in (psutil.CONN_LISTEN, psutil.CONN_NONE)  # TCP that listens, and UDP
    }
    absent = {*STREAM_PORTS, *(() if PACKAGED else ("prometheus", "platform_metrics", "alertmanager"))}
    assert {port for _, port in sockets} >= {port for name, port in stack.ports.items() if name not in absent}
    assert [address for address, _ in sockets if not ip_address(address).is_loopback] == []


@pytest.mark.skipif(len(PACKAGED) < 3, reason="needs the packages prometheus and prometheus-alertmanager")
def test_an_alerts_links_open(stack: Stack) -> None:
    url = f"{stack.url('alertmanager')}/api/v2/alerts?filter=alertname%3DWatchdog"
    until(lambda: httpx.get(url, timeout=ANSWER_S).json(), 120, "Watchdog did not reach Alertmanager")
    (alert,) = httpx.get(url, timeout=ANSWER_S).json()
    assert alert["generatorURL"].startswith(stack.url("prometheus"))
    assert httpx.get(alert["generatorURL"], follow_redirects=True, timeout=ANSWER_S).status_code == 200
    runbook = alert["annotations"]["runbook_url"]
    assert runbook == f"{stack.url('airflow')}/fraud/docs/runbooks/Watchdog.md"
    password = stack.secret["AIRFLOW_ADMIN_PASSWORD"]
    who = {"username": ADMIN, "password": password}
    login = httpx.post(f"{stack.url('airflow')}/auth/token", json=who, timeout=ANSWER_S)
    page = httpx.get(runbook, headers={"Authorization": f"Bearer {login.json()['access_token']}"}, timeout=ANSWER_S)
    assert page.status_code == 200
    assert "Watchdog</h1>" in page.text


@pytest.mark.long
@pytest.mark.skipif(not PACKAGED, reason="needs the package prometheus")
def test_an_alert_is_pending_for_a_stopped_component_of_airflow(stack: Stack) -> None:
    def alerting() -> set[str]:
        alerts = httpx.get(f"{stack.url('prometheus')}/api/v1/alerts").raise_for_status().json()["data"]["alerts"]
        return {alert["labels"]["service"] for alert in alerts if alert["labels"]["alertname"] == "AirflowDown"}

    until(lambda: not alerting(), 60, "an alert about a healthy Airflow")
    scheduler = processes.members("airflow-scheduler", stack.run)
    for process in scheduler:
        os.kill(process.pid, signal.SIGSTOP)
    try:
        # Airflow calls a scheduler unhealthy 30 s after its last heartbeat. The alert fires after five minutes of this.
        until(lambda: alerting() == {"airflow-scheduler"}, 120, "no alert about the scheduler")
    finally:
        for process in scheduler:
            os.kill(process.pid, signal.SIGCONT)
    until(lambda: not alerting(), 120, "the alert stays")


@pytest.mark.parametrize("service", SERVICES)
def test_a_killed_service_is_reported_and_restarted(stack: Stack, service: str) -> None:
    killed = running(stack, service)
    kill(killed)
    assert problems(stack)[service].startswith("died")
    lines = start(stack)
    assert any(line.startswith(f"{service} is ready after") for line in lines)
    assert f"{service} is running already" not in lines
    assert running(stack, service) != killed
    becomes_whole(stack)


@pytest.mark.parametrize("service", sorted(NEEDS_CHILD))
def test_a_service_whose_child_was_killed_is_repaired(stack: Stack, service: str) -> None:
    parent = running(stack, service)
    until(lambda: len(processes.members(service, stack.run)) > 1, 60, f"{service} has no child")
    child = next(process for process in processes.members(service, stack.run) if process != parent)
    kill(child)
    if NEEDS_CHILD[service]:
        until(lambda: problems(stack).get(service), 60, "the list does not show it")
    start(stack)
    becomes_whole(stack)


def test_a_stopped_service_is_reported_and_restarted(stack: Stack) -> None:
    stopped = running(stack, "platform-metrics") if PACKAGED else running(stack, "mlflow")
    name = "platform-metrics" if PACKAGED else "mlflow"
    os.kill(stopped.pid, signal.SIGSTOP)
    assert problems(stack)[name].startswith("not ready")
    lines = start(stack)
    assert any(line.startswith(f"{name} was running but is not ready") for line in lines)
    assert running(stack, name) != stopped
    becomes_whole(stack)


def test_down_leaves_no_process_even_of_services_that_were_killed(
    stack: Stack, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    for service in ("mlflow", "airflow-scheduler", "airflow-triggerer"):
        kill(running(stack, service))
    listed = command("services")
    assert listed.returncode == 1
    assert "make start" in listed.stdout
    assert str(stack.log("mlflow")) in listed.stdout
    assert len(writing_below(stack.home)) > len(SERVICES) - 3  # children of the killed ones among them
    done = command("down")
    assert done.returncode == 0, done.stderr
    assert writing_below(stack.home) == []
    assert processes.marked(stack.mark) == []
    assert command("services").returncode == 1
