"""Listening sockets, compared with psutil's."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address

import psutil
import pytest

from fraud.embedded import sockets
from fraud.embedded.sockets import Listener

LISTEN = """
import socket, sys
held = socket.create_server(("127.0.0.1", 0))
print(held.getsockname()[1], flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other() -> Iterator[tuple[int, int]]:
    """Another process that listens: its id and its port."""
    environment = {**os.environ, "FRAUD_HOME": "/srv/second"}
    with subprocess.Popen(
        [sys.executable, "-c", LISTEN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        yield process.pid, int(process.stdout.readline())
        process.communicate()


def test_every_listening_socket_of_a_process_is_found_with_its_address() -> None:
    with ExitStack() as stack:
        for address in ("127.0.0.1", "0.0.0.0", "::1", "::"):  # noqa: S104 - the case that must be recognised
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            held = stack.enter_context(socket.socket(family))
            held.bind((address, 0))
            held.listen()
        bound = stack.enter_context(socket.socket())
        bound.bind(("127.0.0.1", 0))  # does not listen
        mine = psutil.Process().net_connections("tcp")
        expected = {
            Listener(ip_address(c.laddr.ip), c.laddr.port) for c in mine if c.status == psutil.CONN_LISTEN
        }  # fmt: skip
        assert len(expected) >= 4
        assert sockets.listening([os.getpid()]) == expected


def test_the_holder_of_a_port_is_named_with_the_stack_it_belongs_to(other: tuple[int, int]) -> None:
    pid, port = other
    assert sockets.is_free(port) is False
    assert sockets.holder(port) == pid
    text = sockets.describe(pid)
    assert text.startswith(f"process {pid} ({sys.executable} -c")
    assert text.endswith("of the stack in /srv/second")


def test_an_unused_port_is_free() -> None:
    port = sockets.free_port()
    assert sockets.is_free(port) is True
    assert sockets.holder(port) is None


def test_a_process_that_ended_has_no_listening_socket() -> None:
    ended = subprocess.Popen(["/bin/true"])
    ended.wait()
    assert sockets.listening([ended.pid]) == set()
