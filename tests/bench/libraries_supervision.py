"""Processes that remain after honcho, supervisord, circus and `fraud.embedded.processes` stop.

A service starts a process in its own session, as Airflow does with its jobs. The figures are the processes that still
run 5 s after the supervisor received SIGTERM, after it was killed (SIGKILL), and after it was started again and
received SIGTERM: `make down` must stop what a killed `make demo` left.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from fraud.embedded import processes

_PATIENCE_S: Final = 5.0
SERVICE: Final = """
import os, pathlib, subprocess, sys, time
if len(sys.argv) == 2:
    subprocess.Popen([sys.executable, __file__, sys.argv[1], "job"], start_new_session=True)
with pathlib.Path(sys.argv[1]).open("a") as pids:
    pids.write(f"{os.getpid()}\\n")
time.sleep(120)
"""
SUPERVISORD: Final = """
[supervisord]
nodaemon=true
logfile={folder}/supervisord.log
pidfile={folder}/supervisord.pid
[program:service]
command={command}
stopasgroup=true
killasgroup=true
"""
CIRCUS: Final = """
[circus]
endpoint = ipc://{folder}/endpoint
pubsub_endpoint = ipc://{folder}/pubsub
[watcher:service]
cmd = {command}
stop_children = True
copy_env = True
"""


def environment(peers: Path, uv: str, *packages: str) -> Path:
    """The Python of an environment with the packages, which is created once."""
    folder = peers / f"env-{packages[0]}"
    if not (folder / ".ready").exists():
        subprocess.run([uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, str(folder)], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", str(folder / "bin/python"), *packages], check=True)
        (folder / ".ready").touch()
    return folder / "bin/python"


def _alive(pids: Path) -> list[int]:
    written = [int(line) for line in pids.read_text().split()] if pids.exists() else []
    return [pid for pid in written if processes.identify(pid) is not None]


def _until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def _measured(command: list[str], folder: Path, pids: Path, env: Mapping[str, str]) -> dict[str, float]:
    def started() -> "subprocess.Popen[bytes]":
        pids.unlink(missing_ok=True)
        with (folder / "log").open("ab") as log:
            run = subprocess.Popen(command, cwd=folder, env=dict(env), stdout=log, stderr=log, start_new_session=True)
        if not _until(lambda: len(_alive(pids)) == 2, 20):
            raise SystemExit(f"{command} did not start the service: {(folder / 'log').read_text()[-500:]}")
        return run

    def stop(supervisor: "subprocess.Popen[bytes]", monitored: Callable[[], list[int]]) -> float:
        supervisor.send_signal(signal.SIGTERM)
        _until(lambda: supervisor.poll() is not None and not monitored(), _PATIENCE_S)
        left = len(monitored())
        for pid in {*monitored(), *_alive(pids)}:
            os.kill(pid, signal.SIGKILL)
        supervisor.kill()
        supervisor.wait()
        return float(left)

    after_stop = stop(started(), lambda: _alive(pids))
    supervisor = started()
    supervisor.kill()
    supervisor.wait()
    time.sleep(1)
    first = _alive(pids)
    again = stop(started(), lambda: [pid for pid in first if processes.identify(pid) is not None])
    return {
        "left_after_stop": after_stop, "left_after_kill": float(len(first)), "left_after_kill_start_and_stop": again
    }  # fmt: skip


def _ours(folder: Path, service: list[str], pids: Path) -> dict[str, float]:
    mark = str(folder)
    env = {**os.environ, processes.MARK: mark}

    def stop() -> float:
        processes.stop("service", folder)
        processes.end_all(lambda: processes.marked(mark), 3.0)
        return float(len(_alive(pids)))

    processes.start("service", service, env, folder, folder / "log")
    _until(lambda: len(_alive(pids)) == 2, 20)
    after_stop = stop()
    # The command that started it has ended: another process stops its services.
    start = (
        "import os, sys; from pathlib import Path; from fraud.embedded import processes; folder = Path(sys.argv[1]);"
        "processes.start('service', sys.argv[2:], dict(os.environ), folder, folder / 'log'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", start, str(folder), *service], env=env, check=False)
    _until(lambda: len(_alive(pids)) == 2, 20)
    after_kill = float(len(_alive(pids)))
    return {
        "left_after_stop": after_stop, "left_after_kill": after_kill, "left_after_kill_start_and_stop": stop()
    }  # fmt: skip


def measure(folder: Path, peers: Path, uv: str) -> dict[str, dict[str, float]]:
    """Remaining processes, by supervisor."""
    found = {}
    script = folder / "service.py"
    script.write_text(SERVICE)
    for name in ("ours", "honcho", "supervisor", "circus"):
        home = folder / name
        home.mkdir()
        pids = home / "pids"
        service = [sys.executable, str(script), str(pids)]
        if name == "ours":
            found[name] = _ours(home, service, pids)
            continue
        python, line = str(environment(peers, uv, name)), " ".join(service)
        (home / "Procfile").write_text(f"service: {line}\n")
        (home / "supervisord.conf").write_text(SUPERVISORD.format(folder=home, command=line))
        (home / "circus.ini").write_text(CIRCUS.format(folder=home, command=line))
        command = {
            "honcho": [python, "-m", "honcho", "start"],
            "supervisor": [python, "-m", "supervisor.supervisord", "-c", "supervisord.conf"],
            "circus": [python, "-m", "circus.circusd", "circus.ini"],
        }[name]
        found[name] = _measured(command, home, pids, os.environ)
    return found
