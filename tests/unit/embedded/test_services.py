"""Ports used by other processes, and leftover processes of a killed command."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from fraud.embedded import processes, services, sockets
from fraud.embedded.services import Launch, Service
from fraud.embedded.stack import Stack
from fraud.errors import UnavailableError
from fraud.settings import Settings

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
JOB = f"import subprocess, time; subprocess.Popen({SLEEP!r}, start_new_session=True); time.sleep(600)"


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    made = Stack.open(Settings(home=tmp_path / "var", project=tmp_path), usual_ports=False)
    yield made
    services.stop_all(made, lambda _line: None)


@pytest.fixture
def foreign(stack: Stack) -> Iterator[int]:
    """The port of a web server that does not belong to the stack, on MLflow's port."""

    class Healthy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with HTTPServer(("127.0.0.1", stack.ports["mlflow"]), Healthy) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def begin(stack: Stack, name: str, command: list[str]) -> processes.Process:
    return processes.start(name, command, {**os.environ, processes.MARK: stack.mark}, stack.run, stack.log(name))


def test_a_new_stack_uses_another_port_and_names_the_process_on_the_default_one(stack: Stack, foreign: int) -> None:
    lines: list[str] = []
    settled = services.choose_free_ports(stack, lines.append)
    assert settled.ports["mlflow"] != foreign
    assert {**settled.ports, "mlflow": foreign} == stack.ports
    assert len(lines) == 1
    assert lines[0].startswith(f"port {foreign} of mlflow is used by process {os.getpid()} (")


def test_a_running_stack_keeps_its_ports_and_names_the_process_on_one_of_them(stack: Stack, foreign: int) -> None:
    begin(stack, "valkey", SLEEP)
    with pytest.raises(UnavailableError, match=f"port {foreign} of mlflow is used by process {os.getpid()}"):
        services.choose_free_ports(stack, print)


def test_a_port_of_the_stacks_own_process_is_kept(stack: Stack) -> None:
    port = stack.ports["valkey"]
    begin(stack, "valkey", [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)])
    while sockets.is_free(port):
        assert processes.running_process("valkey", stack.run), stack.log("valkey").read_text()
    assert services.choose_free_ports(stack, print) is stack


def test_an_answer_of_another_process_does_not_make_a_service_ready(stack: Stack, foreign: int) -> None:
    begin(stack, "mlflow", SLEEP)
    registry_errors = Service("mlflow", lambda: Launch(SLEEP, {}), lambda: "", 1.0, port=foreign)
    assert services.not_ready(stack, registry_errors) == f"no listener on port {foreign}"


def test_steps_of_a_killed_command_are_ended_and_running_services_with_their_jobs_are_not(stack: Stack) -> None:
    service = begin(stack, "serving", [sys.executable, "-c", JOB])
    while len(processes.marked(stack.mark)) < 2:
        assert processes.is_running(service)
    job = next(process for process in processes.marked(stack.mark) if process != service)
    drill = begin(stack, "drill-exporter", SLEEP)
    with subprocess.Popen(SLEEP, env={processes.MARK: stack.mark}) as step, socket.socket():
        lines: list[str] = []
        services.end_leftover_processes(stack, lines.append)
        assert step.wait(10) < 0
    assert processes.is_running(service)
    assert processes.is_running(job)
    assert not processes.is_running(drill)
    assert lines[0] == "ended leftover processes of drill-exporter"
    assert lines[1].startswith(f"ending a leftover of a killed command: process {step.pid}")


def test_states_show_a_dead_service_and_its_leftover_processes(stack: Stack) -> None:
    parent = begin(stack, "serving", [sys.executable, "-c", f"import subprocess; subprocess.run({SLEEP!r})"])
    while len(processes.members("serving", stack.run)) < 2:
        assert processes.is_running(parent)
    os.kill(parent.pid, 9)
    while processes.is_running(parent):
        pass
    (state,) = services.states(stack)
    assert state.name == "serving"
    assert state.problem == "died, 1 of its processes still run"
    assert state.page == f"http://127.0.0.1:{stack.ports['serving']}/docs"


def test_broker_and_consumer_run_only_in_a_stack_with_streaming(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "var", project=tmp_path)
    without = {service.name for service in services.all_services(Stack.open(settings, usual_ports=False))}
    with_stream = {service.name for service in services.all_services(Stack.open(settings, stream=True))}
    assert with_stream - without == {"kafka", "stream"}


def test_a_port_of_streaming_that_is_in_use_concerns_only_a_stack_with_streaming(stack: Stack) -> None:
    lines: list[str] = []
    with socket.create_server(("127.0.0.1", stack.ports["kafka"])):
        assert services.choose_free_ports(stack, lines.append) == stack
        moved = services.choose_free_ports(replace(stack, stream=True), lines.append)
    assert moved.ports["kafka"] != stack.ports["kafka"]
    assert len(lines) == 1
