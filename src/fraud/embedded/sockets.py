"""Listening sockets and their processes, read from /proc."""

import socket
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Final, NamedTuple

_LISTEN: Final = "0A"
_LONGEST: Final = 120


class Listener(NamedTuple):
    """A listening TCP socket."""

    address: IPv4Address | IPv6Address
    port: int


def is_free(port: int) -> bool:
    """Whether a server can bind the port on the loopback interface now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_port() -> int:
    """A free port, which no other process gets by chance before the server that it is for has started.

    The port had a connection. For a minute after it (TIME_WAIT) the kernel gives the port to no other socket, and a
    server that sets SO_REUSEADDR, as servers do, can bind it.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()):
        listener.accept()[0].close()  # the side that closes first keeps the port
        port: int = listener.getsockname()[1]
        return port


def listening(pids: Iterable[int]) -> set[Listener]:
    """The sockets on which these processes listen. A process whose files are not readable has none."""
    listeners = _listeners()
    return {listeners[inode] for pid in pids for inode in _socket_inodes(pid) if inode in listeners}


def holder(port: int) -> int | None:
    """The process that listens on a port; None when there is none, or none whose files we may read."""
    inodes = {inode for inode, listener in _listeners().items() if listener.port == port}
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return next((pid for pid in pids if inodes and not inodes.isdisjoint(_socket_inodes(pid))), None)


def describe(pid: int | None) -> str:
    """A process as text: its id, its command, and the folder of the embedded stack that it belongs to."""
    if pid is None:
        return "a process of another user"
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        environment = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return f"process {pid}"
    home = next((v.removeprefix("FRAUD_HOME=") for v in environment if v.startswith("FRAUD_HOME=")), "")
    return f"process {pid} ({command[:_LONGEST]})" + (f" of the stack in {home}" if home else "")


def _listeners() -> dict[str, Listener]:
    """Inode -> listening TCP socket."""
    found = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(FileNotFoundError):  # a kernel without IPv6
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN:
                    address, _, port = fields[1].partition(":")
                    found[fields[9]] = Listener(_address(address), int(port, 16))
    return found


def _address(text: str) -> IPv4Address | IPv6Address:
    """From hexadecimal words of four bytes, each little-endian."""
    words = [bytes.fromhex(text[i : i + 8])[::-1] for i in range(0, len(text), 8)]
    return ip_address(b"".join(words))


def _socket_inodes(pid: int) -> set[str]:
    inodes = set()
    with suppress(OSError):  # the process ended or belongs to another user
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                target = str(descriptor.readlink())
                if target.startswith("socket:["):
                    inodes.add(target[8:-1])
    return inodes
