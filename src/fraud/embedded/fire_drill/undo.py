"""A record of injected faults, written before each injection, so that the faults of a killed drill can be undone.

Each entry of `<home>/drill-undo.json` describes how to undo one fault. A fault undoes itself at its end. After a drill
that was killed (SIGKILL, power loss), the next `drill`, `start` or `down` undoes its faults.
"""

import json
import os
import resource
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import httpx

from fraud.embedded import processes, services
from fraud.embedded.processes import Process
from fraud.embedded.stack import Stack
from fraud.secret_file import write_private

MODEL: Final = "fraud-detector"
Entry = dict[str, Any]


def registry_client(stack: Stack) -> httpx.Client:
    """A client of MLflow's REST API with the administrator's login."""
    url = f"{stack.url('mlflow')}/api/2.0/mlflow/"
    return httpx.Client(base_url=url, auth=("admin", stack.secret["MLFLOW_ADMIN_PASSWORD"]), timeout=30)


def stopped(found: Sequence[Process]) -> Entry:
    """Entry: these processes will be stopped by SIGSTOP."""
    return {"what": "stopped", "processes": found}


def limited(process: Process, limit: tuple[int, int]) -> Entry:
    """Entry: the file size limit of this process will change from `limit` (soft, hard)."""
    return {"what": "limited", "processes": [process], "limit": limit}


def renamed(good: str, bad: str) -> Entry:
    """Entry: the alias `production` will move from version `good` to `bad`, which the drill creates."""
    return {"what": "renamed", "good": good, "bad": bad}


def modelless() -> Entry:
    """Entry: serving will run with another environment."""
    return {"what": "modelless"}


class Undo:
    """The entries of one stack."""

    def __init__(self, stack: Stack) -> None:
        self._stack, self._path = stack, stack.home / "drill-undo.json"
        self._repairs: Final[Mapping[str, Callable[[Entry], bool]]] = {
            "stopped": self._resume,
            "limited": self._lift,
            "renamed": self._rename,
            "modelless": self._usual_serving,
        }

    @contextmanager
    def after(self, entry: Entry) -> Iterator[None]:
        """Record the entry, and undo its fault at the end of the `with` block."""
        self._write([*self._read(), entry])
        try:
            yield
        finally:
            self._repairs[entry["what"]](entry)
            self._write(self._read()[:-1])  # entries are nested like faults

    def repair_all(self) -> list[str]:
        """Undo the faults of an earlier drill, newest first. Returns the kinds of the undone entries.

        An entry that needs a service that is down is kept.
        """
        entries = self._read()
        waiting = [entry for entry in reversed(entries) if not self._repairs[entry["what"]](entry)]
        self._write(waiting[::-1])
        return [entry["what"] for entry in entries if entry not in waiting]

    def _read(self) -> list[Entry]:
        found: list[Entry] = json.loads(self._path.read_text()) if self._path.is_file() else []
        return found

    def _write(self, entries: list[Entry]) -> None:
        if entries:
            write_private(self._path, json.dumps(entries))
        else:
            self._path.unlink(missing_ok=True)

    def _resume(self, entry: Entry) -> bool:
        for process in _running(entry):
            os.kill(process.pid, signal.SIGCONT)
        return True

    def _lift(self, entry: Entry) -> bool:
        soft, hard = entry["limit"]
        for process in _running(entry):
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (soft, hard))
        return True

    def _rename(self, entry: Entry) -> bool:
        if processes.running_process("mlflow", self._stack.run) is None:
            return False
        with registry_client(self._stack) as api:
            alias = {"name": MODEL, "alias": "production", "version": entry["good"]}
            api.post("registered-models/alias", json=alias).raise_for_status()
            gone = api.request("DELETE", "model-versions/delete", json={"name": MODEL, "version": entry["bad"]})
            if gone.status_code != httpx.codes.NOT_FOUND:
                gone.raise_for_status()
        return True

    def _usual_serving(self, _entry: Entry) -> bool:
        usual = services.serving(self._stack)
        if processes.running_process(usual.name, self._stack.run) is not None:
            services.restart(self._stack, usual)
        return True


def _running(entry: Entry) -> list[Process]:
    """The processes of an entry that have not ended."""
    return [process for found in entry["processes"] if processes.is_running(process := Process(*found))]
