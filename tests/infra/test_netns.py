"""Hosts in network namespaces (tests/netns.py)."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests import netns

ROOT = Path(__file__).resolve().parents[2]
SERVE = """
import socket, sys
server = socket.create_server(("", int(sys.argv[1])))
print("listening", flush=True)
while True:
    client, address = server.accept()
    client.sendall(f"{socket.gethostname()} answers {address[0]}".encode())
    client.close()
"""
ASK = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10) as server:
    print(server.makefile().read(), end="")
"""
IGNORES_SIGTERM = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print(os.getpid(), flush=True)
time.sleep(600)
"""
MAKE_AND_WAIT = """
import sys, time
from tests import netns
with netns.hosts("a") as [a]:
    a.start(sys.executable, "-c", "import time; time.sleep(600)")
    print(a.namespace, flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def _root() -> None:
    if reason := netns.missing():
        pytest.skip(reason)


def serve(host: netns.Host, port: int) -> None:
    """Start a server on the host and wait until it listens."""
    server = host.start(sys.executable, "-c", SERVE, str(port), stdout=subprocess.PIPE)
    with server.stdout as output:
        assert output.readline() == b"listening\n"


def ask(host: netns.Host, server: str, port: int) -> str:
    return host.run(sys.executable, "-c", ASK, server, str(port))


def of(namespace: str) -> list[str]:
    """What exists of the set of hosts that the namespace belongs to."""
    bed = namespace.rpartition("-")[0]
    return [name for name in netns.existing() if name == bed or name.startswith(f"{bed}-")]


def runs(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_hosts_reach_each_other_by_address_and_name_and_this_machine_reaches_them() -> None:
    with netns.hosts("a", "b") as [a, b]:
        serve(b, 8000)
        assert ask(a, b.address, 8000) == f"b answers {a.address}"
        assert ask(a, "b", 8000) == f"b answers {a.address}"
        with socket.create_connection((b.address, 8000), timeout=10) as server:
            assert server.makefile().read().startswith("b answers 10.203.")


def test_a_host_has_only_the_ports_of_its_own_processes() -> None:
    with socket.create_server(("0.0.0.0", 0)) as here, netns.hosts("a", "b") as [a, b]:  # noqa: S104 - every address
        assert a.ports() == b.ports() == set()
        serve(a, 8000)
        serve(b, 8000)
        serve(b, 8001)
        assert a.ports() == {8000}
        assert b.ports() == {8000, 8001}
        assert here.getsockname()[1] not in a.ports() | b.ports()
        assert ask(a, "127.0.0.1", 8000).startswith("a answers")
        with pytest.raises(subprocess.CalledProcessError):
            a.run(sys.executable, "-c", ASK, "127.0.0.1", "8001")


@pytest.mark.parametrize("carrier", [False, True], ids=["link down", "carrier"])
def test_a_disconnected_host_is_not_reached_until_the_end_of_the_block(carrier: bool) -> None:
    with netns.hosts("a") as [a]:
        serve(a, 8000)
        with a.disconnected(carrier=carrier):
            with pytest.raises(OSError, match=r"timed out|No route to host"):
                socket.create_connection((a.address, 8000), timeout=1)
            state = a.run("ip", "-json", "link", "show", "eth0")
            assert ('"operstate":"UP"' in state) == carrier
        with socket.create_connection((a.address, 8000), timeout=10) as server:
            assert server.makefile().read().startswith("a answers")


def test_processes_are_found_by_their_program_and_names_can_be_added_to_a_host() -> None:
    with netns.hosts("a", "b") as [a, b]:
        sleeping = [host.start("sleep", "600") for host in (a, a, b)]
        until_exec(sleeping)
        assert sorted(a.pids("sleep")) == sorted(process.pid for process in sleeping[:2])
        table = netns.table(a)
        table.write_text(table.read_text() + f"{b.address}\tservice\n")
        assert a.run("getent", "hosts", "service").split() == [b.address, "service"]


def until_exec(processes: list[subprocess.Popen[bytes]]) -> None:
    """Wait until each process has become the program: the commands before it end by exec."""
    for process in processes:
        while Path(f"/proc/{process.pid}/comm").read_text() != "sleep\n":
            assert process.poll() is None


def test_two_sets_of_hosts_have_different_networks() -> None:
    with netns.hosts("a") as [first], netns.hosts("a") as [second]:
        assert first.address.rpartition(".")[0] != second.address.rpartition(".")[0]
        assert first.namespace != second.namespace


def test_nothing_is_left_after_the_block() -> None:
    with netns.hosts("a", "b") as [a, b]:
        daemon = a.start(sys.executable, "-c", IGNORES_SIGTERM, stdout=subprocess.PIPE)
        with daemon.stdout as output:
            grandchild = int(output.readline())
        assert runs(grandchild)
        bed = a.namespace.rpartition("-")[0]
        assert of(a.namespace) == [bed, bed, a.namespace, b.namespace]
        assert (Path("/etc/netns") / a.namespace).is_dir()
    assert of(a.namespace) == []
    assert not runs(grandchild)
    assert not (Path("/etc/netns") / a.namespace).exists()
    assert not (Path("/run/fraud-hosts") / bed).exists()
    assert daemon.returncode == -9


def test_nothing_is_left_after_an_exception() -> None:
    failed = None
    try:
        with netns.hosts("a") as [a]:
            process = a.start(sys.executable, "-c", "import time; time.sleep(600)")
            a.run("false")
    except subprocess.CalledProcessError as error:
        failed = error
    assert failed is not None
    assert of(a.namespace) == []
    assert process.returncode == -9


def test_hosts_that_cannot_be_made_completely_are_removed() -> None:
    before = netns.existing()
    with pytest.raises(RuntimeError, match="netns add"), netns.hosts("a", "not/a/name"):
        pass
    assert netns.existing() == before


def test_hosts_of_a_killed_process_are_removed_by_the_next_one() -> None:
    command = [sys.executable, "-c", MAKE_AND_WAIT]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as owner:
        namespace = owner.stdout.readline().strip()
        netns.remove_abandoned()
        assert of(namespace), "the hosts of a running process are kept"
        owner.kill()
    assert of(namespace)
    netns.remove_abandoned()
    assert of(namespace) == []


def test_the_script_makes_hosts_that_stay_and_removes_them() -> None:
    script = [sys.executable, "-m", "tests.netns"]
    made = subprocess.run([*script, "make", "a", "b"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    try:
        lines = [line.split("\t") for line in made.splitlines()]
        assert [name for name, *_ in lines] == ["a", "b"]
        enter = lines[0][2].removesuffix("COMMAND").split()
        shown = subprocess.run([*enter, "ip", "-brief", "-4", "address"], check=True, capture_output=True, text=True)
        assert lines[0][1] in shown.stdout
        netns.remove_abandoned()
        assert of(enter[3]), "hosts made by hand are kept"
    finally:
        subprocess.run([*script, "remove"], cwd=ROOT, check=True)
    assert of(enter[3]) == []
