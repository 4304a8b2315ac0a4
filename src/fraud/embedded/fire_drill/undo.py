"""What a fault breaks is written down before it is broken, so that a drill that was killed leaves nothing broken.

Each entry of `<home>/drill-undo.json` says how to put one thing right. A fault that ends does so itself; after a drill
that could not (SIGKILL, a power cut), the next `drill`, `start` or `down` does.
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


def registry(stack: Stack) -> httpx.Client:
    """MLflow's REST API, as its administrator."""
    url = f"{stack.url('mlflow')}/api/2.0/mlflow/"
    return httpx.Client(base_url=url, auth=("admin", stack.secret["MLFLOW_ADMIN_PASSWORD"]), timeout=30)


def stopped(found: Sequence[Process]) -> Entry:
    """These processes are going to stand still."""
    return {"what": "stopped", "processes": found}


def limited(process: Process, limit: tuple[int, int]) -> Entry:
    """The largest file that this process may write is going to be another than `limit` (soft, hard)."""
    return {"what": "limited", "processes": [process], "limit": limit}


def renamed(good: str, bad: str) -> Entry:
    """`production` is going to name version `bad`, made for the drill, instead of `good`."""
    return {"what": "renamed", "good": good, "bad": bad}


def modelless() -> Entry:
    """Serving is going to run with another environment."""
    return {"what": "modelless"}


class Undo:
    """The list of one stack."""

    def __init__(self, stack: Stack) -> None:
        self._stack, self._path = stack, stack.home / "drill-undo.json"
        self._put_right: Final[Mapping[str, Callable[[Entry], bool]]] = {
            "stopped": self._resume,
            "limited": self._lift,
            "renamed": self._rename,
            "modelless": self._usual_serving,
        }

    @contextmanager
    def after(self, entry: Entry) -> Iterator[None]:
        """Inside, the thing may be broken; behind, it is put right."""
        self._write([*self._read(), entry])
        try:
            yield
        finally:
            self._put_right[entry["what"]](entry)
            self._write(self._read()[:-1])  # entries nest, as faults do

    def everything(self) -> list[str]:
        """Put right what an earlier drill left, newest first, and return what that was.

        What needs a service that is down waits for the next time.
        """
        entries = self._read()
        waiting = [entry for entry in reversed(entries) if not self._put_right[entry["what"]](entry)]
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
        if processes.remembered("mlflow", self._stack.run) is None:
            return False
        with registry(self._stack) as api:
            alias = {"name": MODEL, "alias": "production", "version": entry["good"]}
            api.post("registered-models/alias", json=alias).raise_for_status()
            gone = api.request("DELETE", "model-versions/delete", json={"name": MODEL, "version": entry["bad"]})
            if gone.status_code != httpx.codes.NOT_FOUND:
                gone.raise_for_status()
        return True

    def _usual_serving(self, _entry: Entry) -> bool:
        usual = services.serving(self._stack)
        if processes.remembered(usual.name, self._stack.run) is not None:
            services.restart(self._stack, usual)
        return True


def _running(entry: Entry) -> list[Process]:
    """Of an entry's processes, those that have not ended."""
    return [process for found in entry["processes"] if processes.is_running(process := Process(*found))]
