"""A server that a bench starts, on a core of its own, and the CPU time and memory of its processes."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx


@dataclass(frozen=True)
class Server:
    """A process under load."""

    pid: int
    port: int
    ready_s: float

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Run the process only inside the block: timers of an idle server take up to a quarter of the shared core."""
        os.killpg(self.pid, signal.SIGCONT)
        try:
            yield
        finally:
            os.killpg(self.pid, signal.SIGSTOP)


@contextmanager
def process(
    command: list[str], env: Mapping[str, str], port: int, log: Path, ready: str = "/ready", core: int | None = None
) -> Iterator[Server]:
    """A server pinned to `core`, by default the last. Raises SystemExit when it does not answer within a minute."""
    pinned = ["taskset", "-c", str((os.cpu_count() or 1) - 1 if core is None else core), *command]
    began = time.perf_counter()
    with (
        log.open("ab") as out,
        subprocess.Popen(pinned, env=dict(env), stdout=out, stderr=out, start_new_session=True) as server,
    ):
        try:
            while not answers(port, ready):
                if server.poll() is not None or time.perf_counter() - began > 60:
                    raise SystemExit(f"{command[0]} did not start: {log.read_text()[-500:]}")
                time.sleep(0.01)
            started = Server(server.pid, port, time.perf_counter() - began)
            os.killpg(server.pid, signal.SIGSTOP)
            yield started
        finally:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGTERM)
                os.killpg(server.pid, signal.SIGCONT)


def answers(port: int, path: str) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}{path}", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def family_cpu_s(pid: int) -> float:
    """CPU time of a process and of those it started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return cpu_s(pid) + sum(family_cpu_s(int(child)) for child in children)
