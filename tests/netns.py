"""Several hosts on one machine, for tests and benches: network namespaces with their own addresses, joined by a bridge.

`hosts("a", "b")` makes hosts for a block and removes them after it, with every process that runs on them. By hand:
`python -m tests.netns make a b`, `ip netns exec NAMESPACE COMMAND`, `python -m tests.netns remove`. Needs root and
iproute2; `missing()` gives the reason where hosts cannot be made.

A host has its own interfaces, addresses, ports, routes, host name and /etc/hosts. Files, processors and memory are
those of the machine. The machine itself has an address in the network of the hosts; no other network can be reached.
"""

import argparse
import fcntl
import ipaddress
import json
import os
import select
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

NETWORK: Final = ipaddress.ip_network("10.203.0.0/16")
"""Every set of hosts has a /24 of it: .1 is this machine, .11 the first host."""
_MOST: Final = 200
_LOCKS: Final = Path("/run/fraud-hosts")
_PER_NAMESPACE: Final = Path("/etc/netns")
"""`ip netns exec` mounts the files of a namespace's folder here over those of /etc."""
_KEPT: Final = "kept"
_ENTER: Final = 'echo "$0" >/proc/sys/kernel/hostname && exec "$@"'


@dataclass(frozen=True)
class Host:
    """One host. `address` is its IPv4 address; other hosts also find it by `name`."""

    name: str
    namespace: str
    address: str
    switch: str
    port: str
    started: list[subprocess.Popen[Any]] = field(default_factory=list)

    def command(self, *command: str | Path) -> list[str]:
        """The command that runs `command` on this host. Its process becomes the program: a signal reaches it."""
        enter = ["ip", "netns", "exec", self.namespace, "unshare", "--uts", "sh", "-c", _ENTER, self.name]
        return [*enter, *map(str, command)]

    def run(self, *command: str | Path) -> str:
        """Run a program on this host and return its standard output. Raises CalledProcessError."""
        return subprocess.run(self.command(*command), check=True, capture_output=True, text=True).stdout

    def start(self, *command: str | Path, **options: Any) -> subprocess.Popen[Any]:  # noqa: ANN401 - those of Popen
        """Start a program on this host. It is killed at the end of the block, if it still runs."""
        process = subprocess.Popen(self.command(*command), **options)
        self.started.append(process)
        return process

    def ports(self) -> set[int]:
        """TCP ports on which processes of this host listen."""
        lines = _ip_output("ss", "--no-header", "--listening", "--tcp", "--numeric", namespace=self.namespace)
        return {int(line.split()[3].rpartition(":")[2]) for line in lines.splitlines()}

    def pids(self, program: str) -> list[int]:
        """Process ids of a program, by the name of its file, on this host. Zombies are left out."""
        found = []
        for pid in _ip_output("ip", "netns", "pids", self.namespace).split():
            with suppress(FileNotFoundError, ProcessLookupError):
                name, _, rest = Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rpartition(")")
                if name == program and rest.split()[0] != "Z":
                    found.append(int(pid))
        return found

    @contextmanager
    def disconnected(self, *, carrier: bool = False) -> Iterator[None]:
        """Take the host off the network during the block. Its processes continue, and their connections stay open.

        With `carrier` its interface stays up, as behind a failed switch: the host cannot see that it is alone.
        """
        off, on = (("nomaster",), ("master", "bridge")) if carrier else (("down",), ("up",))
        _ip("link", "set", self.port, *off, namespace=self.switch)
        try:
            yield
        finally:
            _ip("link", "set", self.port, *on, namespace=self.switch)


def table(host: Host) -> Path:
    """The file that programs on the host read as /etc/hosts, for a test that adds names."""
    return _PER_NAMESPACE / host.namespace / "hosts"


def missing() -> str:
    """Why no hosts can be made here; "" if they can."""
    for program, package in (("ip", "iproute2"), ("ss", "iproute2"), ("unshare", "util-linux")):
        if shutil.which(program) is None:
            return f"NOT TESTED: {program} is not installed; install the package {package}"
    if os.geteuid():
        return "NOT TESTED: network namespaces need root"
    probe = f"fraud-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", probe], check=False, capture_output=True, text=True)
    if made.returncode:
        return f"NOT TESTED: the kernel permits no network namespaces: {made.stderr.strip()}"
    _ip("netns", "delete", probe)
    return ""


@contextmanager
def hosts(*names: str) -> Iterator[list[Host]]:
    """Make hosts that reach each other, in the order of their names, and remove them and their processes after it."""
    remove_abandoned()
    with _claimed() as (bed, _):
        made: list[Host] = []
        try:
            made = _make(bed, names)
            yield made
        finally:
            _remove(bed)
            for process in (process for host in made for process in host.started):
                process.wait()


def remove_abandoned(*, kept: bool = False) -> None:
    """Remove the hosts of processes that were killed; with `kept`, also those that were made by hand."""
    for path in sorted(_LOCKS.glob("*")) if _LOCKS.is_dir() else []:
        with _locked(path) as file:
            if file is not None and (kept or file.read() != _KEPT):
                _remove(path.name)
                path.unlink()


def existing() -> list[str]:
    """Namespaces and interfaces of all sets of hosts, of any process."""
    namespaces = [entry["name"] for entry in json.loads(_ip_output("ip", "-json", "netns", "list") or "[]")]
    links = [entry["ifname"] for entry in json.loads(_ip_output("ip", "-json", "link"))]
    return sorted(name for name in (*namespaces, *links) if name.startswith("fraud-bed"))


@contextmanager
def _claimed() -> Iterator[tuple[str, IO[str]]]:
    """A free name. Its lock is held by this process; the kernel releases it when the process ends for any reason."""
    _LOCKS.mkdir(exist_ok=True)
    for number in range(_MOST):
        path = _LOCKS / f"fraud-bed{number}"
        if not _is_free(number):
            continue
        with _locked(path, create=True) as file:
            if file is None or file.read():
                continue
            try:
                yield path.name, file
            finally:
                file.seek(0)
                if file.read() != _KEPT:
                    path.unlink()
            return
    raise RuntimeError(f"every network of {NETWORK} is in use: python -m tests.netns remove")


@contextmanager
def _locked(path: Path, *, create: bool = False) -> Iterator[IO[str] | None]:
    """The locked file; None when another process holds its lock or has removed it."""
    try:
        file = path.open("a+" if create else "r+")
    except FileNotFoundError:
        yield None
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another process may have removed the file between the two calls.
            current = os.path.samestat(os.fstat(file.fileno()), path.stat())
        except (BlockingIOError, FileNotFoundError):
            current = False
        file.seek(0)
        yield file if current else None


def _network(number: int) -> ipaddress.IPv4Network:
    first = int(NETWORK.network_address) + number * 256
    return ipaddress.IPv4Network((first, 24))


def _is_free(number: int) -> bool:
    """Whether no route of this machine leads into the network."""
    routes = json.loads(_ip_output("ip", "-json", "-4", "route"))
    used = [ipaddress.ip_network(route["dst"]) for route in routes if route["dst"] != "default"]
    return not any(network.overlaps(_network(number)) for network in used)


def _make(bed: str, names: tuple[str, ...]) -> list[Host]:
    """The bridge is in a namespace of its own, where no packet filter of this machine applies to it."""
    network = _network(int(bed.removeprefix("fraud-bed")))
    _ip("netns", "add", bed)
    _ip("link", "add", "bridge", "type", "bridge", namespace=bed)
    _ip("link", "set", "bridge", "up", namespace=bed)
    _ip("link", "add", bed, "type", "veth", "peer", "name", "uplink", "netns", bed)
    _ip("address", "add", f"{network[1]}/24", "dev", bed)
    _ip("link", "set", bed, "up")
    _ip("link", "set", "uplink", "master", "bridge", "up", namespace=bed)
    made = [
        Host(name, f"{bed}-{name}", str(network[11 + place]), bed, f"port{place}") for place, name in enumerate(names)
    ]
    table = "".join(f"{host.address}\t{host.name}\n" for host in made)
    for host in made:
        folder = _PER_NAMESPACE / host.namespace
        folder.mkdir(parents=True)
        (folder / "hosts").write_text(f"127.0.0.1\tlocalhost\n{network[1]}\tmachine\n{table}")
        _ip("netns", "add", host.namespace)
        peer = ("peer", "name", "eth0", "netns", host.namespace)
        _ip("link", "add", host.port, "type", "veth", *peer, namespace=bed)
        _ip("link", "set", host.port, "master", "bridge", "up", namespace=bed)
        _ip("address", "add", f"{host.address}/24", "dev", "eth0", namespace=host.namespace)
        for link in ("lo", "eth0"):
            _ip("link", "set", link, "up", namespace=host.namespace)
    return made


def _remove(bed: str) -> None:
    """Remove what exists of a set of hosts, complete or not."""
    names = [name for name in existing() if name == bed or name.startswith(f"{bed}-")]
    namespaces = json.loads(_ip_output("ip", "-json", "netns", "list") or "[]")
    for namespace in sorted({entry["name"] for entry in namespaces} & set(names), reverse=True):
        kill_processes(namespace)
        _ip("netns", "delete", namespace)
        shutil.rmtree(_PER_NAMESPACE / namespace, ignore_errors=True)
    for folder in _PER_NAMESPACE.glob(f"{bed}-*"):
        shutil.rmtree(folder)
    with suppress(OSError):
        _PER_NAMESPACE.rmdir()
    # The kernel removes an interface some time after the namespace of its peer, or has removed it already.
    subprocess.run(["ip", "link", "delete", bed], check=False, capture_output=True)


def kill_processes(namespace: str) -> None:
    """Kill every process of the namespace, children of children included, and wait for their end."""
    while running := _ip_output("ip", "netns", "pids", namespace).split():
        for pid in running:
            with suppress(ProcessLookupError):
                process = os.pidfd_open(int(pid))
                try:
                    signal.pidfd_send_signal(process, signal.SIGKILL)
                    select.select([process], [], [])
                finally:
                    os.close(process)


def _ip(*arguments: str, namespace: str = "") -> None:
    _ip_output("ip", *arguments, namespace=namespace)


def _ip_output(*command: str, namespace: str = "") -> str:
    """Run a program in a namespace. Raises RuntimeError with its message."""
    inside = ["ip", "netns", "exec", namespace] if namespace else []
    done = subprocess.run([*inside, *command], check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join([*inside, *command])}: {done.stderr.strip()}")
    return done.stdout


def main() -> None:
    """Make hosts that stay until `remove`, and print how to use them."""
    parser = argparse.ArgumentParser(prog="python -m tests.netns", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("make", help="make hosts").add_argument("names", nargs="+")
    commands.add_parser("remove", help="remove all hosts that no running process uses")
    arguments = parser.parse_args()
    if reason := missing():
        parser.exit(2, f"{reason}\n")
    if arguments.command == "remove":
        remove_abandoned(kept=True)
        return
    with _claimed() as (bed, file):
        for host in _make(bed, tuple(arguments.names)):
            print(f"{host.name}\t{host.address}\tip netns exec {host.namespace} COMMAND")
        file.write(_KEPT)
        file.flush()


if __name__ == "__main__":
    main()
