"""Kill a service of a running stack, and start it again as `make start` does."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.soak.schedule import Kill

from fraud.embedded import processes, services
from fraud.embedded.stack import Stack
from fraud.errors import FraudError, UnavailableError


@contextmanager
def killing(stack: Stack, kill: Kill | None, log: Callable[[str], None]) -> Iterator[None]:
    """Kill a service during the block and start it again. Returns when it is ready. Raises what the start raises.

    The block may end before the time of the kill: the service is killed all the same.
    """
    if kill is None:
        yield
        return
    failures: list[FraudError] = []
    thread = threading.Thread(target=_kill, args=(stack, kill, log, failures), name="kill")
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if failures:
        raise failures[0]


def _kill(stack: Stack, kill: Kill, log: Callable[[str], None], failures: list[FraudError]) -> None:
    time.sleep(kill.after_s)
    process = processes.running_process(kill.service, stack.run)
    if process is None:
        failures.append(UnavailableError(f"{kill.service} does not run", hint=f"read {stack.log(kill.service)}"))
        return
    log(f"kill -9 {kill.service}")
    os.kill(process.pid, signal.SIGKILL)
    time.sleep(kill.down_s)
    try:
        services.start_all(stack, log, [path.stem for path in stack.run.glob("*.json")])
    except FraudError as error:
        failures.append(error)
