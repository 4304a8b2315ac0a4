"""The services of the embedded stack: what each runs, when it is ready, in which order they start and stop."""

import time
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, NamedTuple

import httpx
import redis

from fraud.embedded import processes, sockets
from fraud.embedded.processes import Process, ServiceFailedError
from fraud.embedded.servers import airflow, alertmanager, mlflow_server, prometheus, valkey
from fraud.embedded.stack import Stack
from fraud.errors import UnavailableError

_POLL_SECONDS: Final = 0.25
_HUNG_SECONDS: Final = 30.0
"""A service that was ready before is started again when it is not ready for so long."""
_API: Final = "airflow-api-server"
_DIED: Final = "died"


class State(NamedTuple):
    """One service as `status` shows it. `trouble` is "" when it is ready."""

    name: str
    trouble: str
    page: str


class Launch(NamedTuple):
    """What to run."""

    command: Sequence[str]
    env: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Service:
    """One service. `not_ready` gives the reason why it cannot be used yet, "" when it can."""

    name: str
    launch: Callable[[], Launch]
    """Writes the service's configuration and returns what to run."""
    not_ready: Callable[[], str]
    deadline_s: float
    port: int | None = None
    """Where it listens."""
    page: str = ""
    """The URL for a person or a client."""
    told_by: str = ""
    """The service that reports whether this one is ready, where that is another one."""


def _http_not_ready(url: str) -> Callable[[], str]:
    def ask() -> str:
        try:
            httpx.get(url, timeout=5).raise_for_status()
        except httpx.HTTPError as error:
            return f"{url}: {error if isinstance(error, httpx.HTTPStatusError) else type(error).__name__}"
        return ""

    return ask


def _valkey_not_ready(url: str) -> Callable[[], str]:
    def ask() -> str:
        try:
            with redis.Redis.from_url(url, socket_timeout=2) as client:
                client.ping()
        except redis.RedisError as error:
            return str(error)
        return ""

    return ask


def _valkey(stack: Stack) -> Service:
    url, port = stack.platform_environment()["FRAUD_REDIS_URL"], stack.ports["valkey"]

    def launch() -> Launch:
        config = valkey.write_config(stack.home / "valkey", port, stack.secret["VALKEY_PASSWORD"], append_only=True)
        return Launch(valkey.command(config), stack.environment("ml"))

    return Service("valkey", launch, _valkey_not_ready(url), 30.0, port, f"redis://127.0.0.1:{port}/0")


def _mlflow(stack: Stack) -> Service:
    url, port = stack.url("mlflow"), stack.ports["mlflow"]

    def launch() -> Launch:
        # Without what points a client at a server: this is the server.
        ours = {name: value for name, value in stack.environment("ml").items() if not name.startswith("MLFLOW_")}
        env = ours | mlflow_server.environment(
            stack.home / "mlflow", stack.secret["MLFLOW_ADMIN_PASSWORD"], stack.secret["MLFLOW_FLASK_SECRET"]
        )
        return Launch(mlflow_server.command(stack.home / "mlflow", port), env)

    return Service("mlflow", launch, _http_not_ready(f"{url}/health"), 90.0, port, url)


def serving(stack: Stack) -> Service:
    """The service that answers checkouts."""
    url, port = stack.url("serving"), stack.ports["serving"]

    def launch() -> Launch:
        platform = stack.platform_environment()
        env = stack.environment("serving") | {
            "SERVING_PORT": str(port),
            "SERVING_REDIS_URL": platform["FRAUD_REDIS_URL"],
            "SERVING_MLFLOW_URL": platform["FRAUD_MLFLOW_URL"],
            "SERVING_MODEL_CACHE": str(stack.home / "serving/model"),
            "SERVING_PREDICTION_LOG": str(stack.home / "predictions"),
            "SERVING_POLL_SECONDS": "2",
            "SERVING_OPEN": "1",
        }
        return Launch([stack.program("serving", "python"), "-m", "fraud_serving"], env)

    return Service("serving", launch, _http_not_ready(f"{url}/health"), 60.0, port, f"{url}/docs")


def _prometheus(stack: Stack) -> list[Service]:
    program = prometheus.binary()
    if program is None:
        return []
    port, exporter_port = stack.ports["prometheus"], stack.ports["platform_metrics"]
    metrics = f"{stack.url('platform_metrics')}/metrics"
    exporter = [stack.program("ml", "fraud"), "export-metrics", f"--port={exporter_port}"]
    ready = _http_not_ready(f"{stack.url('prometheus')}/-/ready")
    return [
        Service(
            "prometheus", lambda: Launch(prometheus.command(stack, program), stack.environment("ml")), ready, 60.0,
            port, prometheus.page(stack),
        ),
        Service(
            "platform-metrics", lambda: Launch(exporter, stack.environment("ml")), _http_not_ready(metrics), 90.0,
            exporter_port, metrics,
        ),
    ]  # fmt: skip


def _alertmanager(stack: Stack) -> list[Service]:
    program = alertmanager.binary()
    if program is None:
        return []

    def launch() -> Launch:
        return Launch(alertmanager.command(stack, program), stack.environment("ml"))

    ready = _http_not_ready(f"{stack.url('alertmanager')}/-/ready")
    port, page = stack.ports["alertmanager"], alertmanager.page(stack)
    return [Service("alertmanager", launch, ready, 60.0, port, page)]


def _airflow(stack: Stack) -> list[Service]:
    def service(part: str, port: int | None, url: str = "", told_by: str = _API) -> Service:
        name = f"airflow-{part}"

        def not_ready() -> str:
            process = processes.remembered(name, stack.run)
            return airflow.not_ready(stack, part, processes.started_at(process)) if process else "it does not run"

        return Service(
            name, lambda: Launch(airflow.command(stack, part), airflow.environment(stack)), not_ready, 180.0, port, url,
            told_by,
        )  # fmt: skip

    return [
        service("api-server", stack.ports["airflow"], stack.url("airflow"), ""),
        service("task-logs", stack.ports["airflow_task_logs"], told_by=""),
        *(service(part, None) for part in airflow.REPORTED),
    ]


def every(stack: Stack) -> list[Service]:
    """The services that this machine can run, in the order of their start."""
    return [
        _valkey(stack),
        _mlflow(stack),
        serving(stack),
        *_prometheus(stack),
        *_alertmanager(stack),
        *_airflow(stack),
    ]


def end_leftovers(stack: Stack, say: Callable[[str], None]) -> None:
    """End what a command or a service that was killed left running: steps, children, a drill's own servers.

    Only one command works on a stack at a time, so a process that belongs to no running service is nobody's.
    """
    known = {service.name for service in every(stack)}
    for path in stack.run.glob("*.json"):
        runs = path.stem in known and processes.remembered(path.stem, stack.run) is not None
        if not runs and processes.stop(path.stem, stack.run):
            say(f"ended what was left of {path.stem}")

    def left() -> list[Process]:
        running = [processes.remembered(path.stem, stack.run) for path in stack.run.glob("*.json")]
        return processes.apart(processes.marked(stack.mark), {process.pid for process in running if process})

    for process in left():
        say(f"ending what a killed command left: {sockets.describe(process.pid)}")
    processes.end_all(left, 5.0)


def settle_ports(stack: Stack, say: Callable[[str], None]) -> Stack:
    """The stack with a port of its own for each service, others where a foreign process holds one.

    Raises UnavailableError when services of the stack run already: they are told the addresses at their start.
    """
    running = [m for path in stack.run.glob("*.json") for m in processes.members(path.stem, stack.run)]
    ours = {listener.port for listener in sockets.listening(process.pid for process in running)}
    taken = [name for name, port in stack.ports.items() if port not in ours and not sockets.is_free(port)]
    for name in taken:
        found = f"port {stack.ports[name]} of {name} is held by {sockets.describe(sockets.holder(stack.ports[name]))}"
        if running:
            raise UnavailableError(found, hint=f"end it; or make down, after which {name} takes another port")
        say(f"{found}; taking another port")
    return stack.moved(taken) if taken else stack


def start_all(stack: Stack, say: Callable[[str], None], only: Sequence[str] = ()) -> None:
    """Start what does not run yet, all at once, and return when everything is ready; `only` narrows it by name.

    Raises ServiceFailedError naming the service and its log.
    """
    if prometheus.binary() is None:
        say("prometheus is not on this machine: install the system's package to have it in the stack")
    services = [service for service in every(stack) if not only or service.name in only]
    ran = {service.name for service in services if processes.remembered(service.name, stack.run)}
    missing = [service for service in services if service.name not in ran]
    airflows = [service for service in missing if service.name.startswith("airflow-")]
    for service in missing:
        if service not in airflows:
            _start(stack, service)
    if airflows and not any(name.startswith("airflow-") for name in ran):
        say("preparing Airflow's database")
        migrate(stack, airflow.environment(stack))
    for service in airflows:
        _start(stack, service)
    _wait(stack, services, ran, say)


def migrate(stack: Stack, env: Mapping[str, str]) -> None:
    """Bring Airflow's database to this version, with the pools of one slot that scoring and monitoring take."""
    airflow, log = stack.program("airflow", "airflow"), stack.log("airflow-migrate")
    processes.run_step("airflow-migrate", [airflow, "db", "migrate"], env, log, stack.project)
    for pool, why in (("scoring", "one run of batch scoring"), ("retraining", "one request for retraining")):
        command = [airflow, "pools", "set", pool, "1", f"{why} at a time"]
        processes.run_step("airflow-pools", command, env, log, stack.project)


def _start(stack: Stack, service: Service, more: Mapping[str, str] | None = None) -> None:
    command, env = service.launch()
    processes.start(service.name, command, {**env, **(more or {})}, stack.run, stack.log(service.name))


def restart(stack: Stack, service: Service, more: Mapping[str, str] | None = None) -> None:
    """Stop a service and start it, with `more` in its environment.

    Raises ServiceFailedError when it does not get ready.
    """
    processes.stop(service.name, stack.run)
    _start(stack, service, more)
    _wait(stack, [service], set(), lambda _line: None)


def not_ready(stack: Stack, service: Service) -> str:
    """Why a service cannot be used; "" when its own process answers. Another one on its port does not count."""
    pids = [process.pid for process in processes.members(service.name, stack.run)]
    if service.port and service.port not in {listener.port for listener in sockets.listening(pids)}:
        return f"it does not listen on port {service.port}"
    return service.not_ready()


def _wait(stack: Stack, services: Sequence[Service], ran: AbstractSet[str], say: Callable[[str], None]) -> None:
    """Until each is ready. One that ran before (`ran`), and ends or does not answer, is started again once."""
    began = time.monotonic()
    since: dict[str, float] = {}
    earlier = set(ran)
    waiting = list(services)
    while waiting:
        for service in list(waiting):
            name = service.name
            if service.told_by in {other.name for other in waiting}:
                continue
            waited = time.monotonic() - since.setdefault(name, time.monotonic())
            runs = processes.remembered(name, stack.run) is not None
            reason = not_ready(stack, service) if runs else "it ended"
            hung = waited > _HUNG_SECONDS and processes.was_ready(name, stack.run)
            if not reason:
                say(
                    f"{name} runs already"
                    if name in earlier
                    else f"{name} is ready after {time.monotonic() - began:.0f} s"
                )
                processes.note_ready(name, stack.run)
                waiting.remove(service)
            elif name in earlier and (hung or not runs):
                say(f"{name} ran but is not ready ({reason}): starting it again")
                processes.stop(name, stack.run, grace=5.0)
                _start(stack, service)
                earlier.remove(name)
                del since[name]
            elif not runs:
                raise ServiceFailedError(name, _why_it_ended(service), stack.log(name))
            elif waited > service.deadline_s:
                why = f"not ready after {service.deadline_s:.0f} s ({reason})"
                raise ServiceFailedError(name, why, stack.log(name))
        time.sleep(_POLL_SECONDS)


def _why_it_ended(service: Service) -> str:
    if service.port and not sockets.is_free(service.port):
        return (
            f"it ended while starting; port {service.port} is held by {sockets.describe(sockets.holder(service.port))}"
        )
    return "it ended while starting"


def stop_all(stack: Stack, say: Callable[[str], None]) -> None:
    """End every process of the stack, those of Airflow's tasks included. Safe when nothing runs."""
    stores = ["mlflow", "valkey"]
    others = sorted({path.stem for path in stack.run.glob("*.json")} - set(stores))

    def stop(name: str) -> None:
        if processes.stop(name, stack.run):
            say(f"{name} stopped")

    for together in (others, stores):  # the stores last, so that everybody can still write
        with ThreadPoolExecutor(max(len(together), 1)) as pool:
            list(pool.map(stop, together))
    processes.end_all(lambda: processes.marked(stack.mark), 5.0)


def states(stack: Stack) -> list[State]:
    """Every service that was started and not stopped, in the order of their start; a drill's own come last."""
    names = {path.stem for path in stack.run.glob("*.json")}
    found = [_state(stack, service) for service in every(stack) if service.name in names]
    others = sorted(names - {state.name for state in found})
    return found + [State(n, "" if processes.remembered(n, stack.run) else _DIED, "") for n in others]


def _state(stack: Stack, service: Service) -> State:
    if processes.remembered(service.name, stack.run) is None:
        left = len(processes.members(service.name, stack.run))
        return State(service.name, _DIED + (f", {left} of its processes still run" if left else ""), service.page)
    reason = not_ready(stack, service)
    return State(service.name, f"not ready: {reason}" if reason else "", service.page)
