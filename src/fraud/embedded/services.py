"""The services of the embedded stack: their commands, readiness checks, and order of start and stop."""

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
from fraud.embedded.servers import airflow, alertmanager, kafka, mlflow_server, prometheus, valkey
from fraud.embedded.stack import STREAM_PORTS, Stack
from fraud.errors import UnavailableError

_POLL_SECONDS: Final = 0.25
_HUNG_SECONDS: Final = 30.0
"""A service that was ready before is restarted after this time without being ready."""
_API: Final = "airflow-api-server"
_DIED: Final = "died"
_PARTITIONS: Final = 4
_TOPICS: Final = {
    "transactions": _PARTITIONS, "decisions": _PARTITIONS, "transactions.rejected": 1,
    "labels": 1, "labels.rejected": 1,
}  # fmt: skip

# The broker of the wheel assigns partitions after half a session, and holds a fetch while one partition has no message.
_SHORT_WAITS: Final = {"STREAM_SESSION_SECONDS": "6", "STREAM_FETCH_WAIT_MS": "10"}


class State(NamedTuple):
    """One service in the output of `status`. `problem` is "" when it is ready."""

    name: str
    problem: str
    page: str


class Launch(NamedTuple):
    """The command and the environment of a process."""

    command: Sequence[str]
    env: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Service:
    """One service. `not_ready` returns why it cannot be used yet, "" when it is ready."""

    name: str
    launch: Callable[[], Launch]
    """Writes the service's configuration and returns its command and environment."""
    not_ready: Callable[[], str]
    deadline_s: float
    port: int | None = None
    """The port that it listens on."""
    page: str = ""
    """Its URL for users and clients."""
    reported_by: str = ""
    """The other service that reports whether this one is ready, if any."""


def _http_not_ready(url: str) -> Callable[[], str]:
    def check() -> str:
        try:
            httpx.get(url, timeout=5).raise_for_status()
        except httpx.HTTPError as error:
            return f"{url}: {error if isinstance(error, httpx.HTTPStatusError) else type(error).__name__}"
        return ""

    return check


def _valkey_not_ready(url: str) -> Callable[[], str]:
    def check() -> str:
        try:
            with redis.Redis.from_url(url, socket_timeout=2) as client:
                client.ping()
        except redis.RedisError as error:
            return str(error)
        return ""

    return check


def _valkey(stack: Stack) -> Service:
    url, port = stack.platform_environment()["FRAUD_REDIS_URL"], stack.ports["valkey"]

    def launch() -> Launch:
        config = valkey.write_config(stack.home / "valkey", port, stack.secret["VALKEY_PASSWORD"], append_only=True)
        return Launch(valkey.command(config), stack.environment("ml"))

    return Service("valkey", launch, _valkey_not_ready(url), 30.0, port, f"redis://127.0.0.1:{port}/0")


def _mlflow(stack: Stack) -> Service:
    url, port = stack.url("mlflow"), stack.ports["mlflow"]

    def launch() -> Launch:
        # The variables of MLflow's client do not apply to the server.
        base = {name: value for name, value in stack.environment("ml").items() if not name.startswith("MLFLOW_")}
        env = base | mlflow_server.environment(
            stack.home / "mlflow", stack.secret["MLFLOW_ADMIN_PASSWORD"], stack.secret["MLFLOW_FLASK_SECRET"]
        )
        return Launch(mlflow_server.command(stack.home / "mlflow", port), env)

    return Service("mlflow", launch, _http_not_ready(f"{url}/health"), 90.0, port, url)


def _scoring_environment(stack: Stack, name: str) -> dict[str, str]:
    """What every scoring process reads. Each has its own copy of the model."""
    platform = stack.platform_environment()
    return stack.environment("serving") | {
        "SERVING_REDIS_URL": platform["FRAUD_REDIS_URL"],
        "SERVING_MLFLOW_URL": platform["FRAUD_MLFLOW_URL"],
        "SERVING_MODEL_CACHE": str(stack.home / name / "model"),
        "SERVING_PREDICTION_LOG": str(stack.home / "predictions"),
        "SERVING_POLL_SECONDS": "2",
    }


def serving(stack: Stack) -> Service:
    """The prediction service."""
    url, port = stack.url("serving"), stack.ports["serving"]

    def launch() -> Launch:
        env = _scoring_environment(stack, "serving") | {"SERVING_PORT": str(port), "SERVING_OPEN": "1"}
        return Launch([stack.program("serving", "python"), "-m", "fraud_serving"], env)

    return Service("serving", launch, _http_not_ready(f"{url}/health"), 60.0, port, f"{url}/docs")


def _streaming(stack: Stack) -> list[Service]:
    """The broker with its topics, and a consumer that scores the transactions."""
    if not stack.stream:
        return []
    brokers, port, url = stack.platform_environment()["FRAUD_KAFKA_BROKERS"], stack.ports["stream"], stack.url("stream")

    def no_topics() -> str:
        try:
            kafka.create_topics(brokers, _TOPICS, seconds=2.0)
        except UnavailableError as error:
            return error.got or error.message
        return ""

    def broker() -> Launch:
        return Launch(kafka.command(stack.ports["kafka"]), stack.environment("ml") | {"RUST_LOG": "warn"})

    def consumer() -> Launch:
        # A model may take longer than the first message: until a Production version exists, nothing is decided.
        own = {
            "SERVING_INTERNAL_PORT": str(port), "STREAM_BROKERS": brokers, "STREAM_MODEL_WAIT_SECONDS": "86400",
            **_SHORT_WAITS,
        }  # fmt: skip
        program = [stack.program("serving", "python"), "-m", "fraud_serving.stream"]
        return Launch(program, _scoring_environment(stack, "stream") | own)

    return [
        Service("kafka", broker, no_topics, 30.0, stack.ports["kafka"], brokers),
        Service("stream", consumer, _http_not_ready(f"{url}/health"), 60.0, port, f"{url}/metrics"),
    ]


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
    def service(part: str, port: int | None, url: str = "", reported_by: str = _API) -> Service:
        name = f"airflow-{part}"

        def not_ready() -> str:
            process = processes.running_process(name, stack.run)
            return airflow.not_ready(stack, part, processes.started_at(process)) if process else "not running"

        return Service(
            name, lambda: Launch(airflow.command(stack, part), airflow.environment(stack)), not_ready, 180.0, port, url,
            reported_by,
        )  # fmt: skip

    return [
        service("api-server", stack.ports["airflow"], stack.url("airflow"), ""),
        service("task-logs", stack.ports["airflow_task_logs"], reported_by=""),
        *(service(part, None) for part in airflow.REPORTED),
    ]


def all_services(stack: Stack) -> list[Service]:
    """The services that can run on this machine, in the order of their start."""
    return [
        _valkey(stack),
        _mlflow(stack),
        serving(stack),
        *_streaming(stack),
        *_prometheus(stack),
        *_alertmanager(stack),
        *_airflow(stack),
    ]


def end_leftover_processes(stack: Stack, progress: Callable[[str], None]) -> None:
    """End the processes that a killed command or service left running: steps, children, servers of a drill.

    One command at a time uses a stack, so a process that belongs to no running service is a leftover.
    """
    names = {service.name for service in all_services(stack)}
    for path in stack.run.glob("*.json"):
        runs = path.stem in names and processes.running_process(path.stem, stack.run) is not None
        if not runs and processes.stop(path.stem, stack.run):
            progress(f"ended leftover processes of {path.stem}")

    def leftover() -> list[Process]:
        running = [processes.running_process(path.stem, stack.run) for path in stack.run.glob("*.json")]
        return processes.apart(processes.marked(stack.mark), {process.pid for process in running if process})

    for process in leftover():
        progress(f"ending a leftover of a killed command: {sockets.describe(process.pid)}")
    processes.end_all(leftover, 5.0)


def choose_free_ports(stack: Stack, progress: Callable[[str], None]) -> Stack:
    """The stack, with another port for each service whose port a foreign process uses.

    Raises UnavailableError when services of the stack run already, because they got the addresses at their start.
    """
    running = [m for path in stack.run.glob("*.json") for m in processes.members(path.stem, stack.run)]
    own = {listener.port for listener in sockets.listening(process.pid for process in running)}
    used = {name: port for name, port in stack.ports.items() if stack.stream or name not in STREAM_PORTS}
    taken = [name for name, port in used.items() if port not in own and not sockets.is_free(port)]
    for name in taken:
        conflict = (
            f"port {stack.ports[name]} of {name} is used by {sockets.describe(sockets.holder(stack.ports[name]))}"
        )
        if running:
            raise UnavailableError(conflict, hint=f"end it, or run make down: {name} then starts on another port")
        progress(f"{conflict}; using another port")
    return stack.with_new_ports(taken) if taken else stack


def start_all(stack: Stack, progress: Callable[[str], None], only: Sequence[str] = ()) -> None:
    """Start all services that do not run, concurrently, and return when all are ready. `only`: names of services.

    Raises ServiceFailedError with the service and its log.
    """
    if prometheus.binary() is None:
        progress("prometheus is not installed; the stack starts without it")
    services = [service for service in all_services(stack) if not only or service.name in only]
    ran = {service.name for service in services if processes.running_process(service.name, stack.run)}
    missing = [service for service in services if service.name not in ran]
    airflows = [service for service in missing if service.name.startswith("airflow-")]
    for service in missing:
        if service not in airflows:
            _start(stack, service)
    if airflows and not any(name.startswith("airflow-") for name in ran):
        progress("preparing Airflow's database")
        migrate(stack, airflow.environment(stack))
    for service in airflows:
        _start(stack, service)
    _wait(stack, services, ran, progress)


def migrate(stack: Stack, env: Mapping[str, str]) -> None:
    """Migrate Airflow's database and create the pools of services/airflow/pools.json."""
    airflow, log = stack.program("airflow", "airflow"), stack.log("airflow-migrate")
    pools = str(stack.project / "services/airflow/pools.json")
    processes.run_step("airflow-migrate", [airflow, "db", "migrate"], env, log, stack.project)
    processes.run_step("airflow-pools", [airflow, "pools", "import", pools], env, log, stack.project)


def _start(stack: Stack, service: Service, more: Mapping[str, str] | None = None) -> None:
    command, env = service.launch()
    processes.start(service.name, command, {**env, **(more or {})}, stack.run, stack.log(service.name))


def restart(stack: Stack, service: Service, more: Mapping[str, str] | None = None) -> None:
    """Stop a service and start it with the variables `more` added to its environment.

    Raises ServiceFailedError when it does not become ready.
    """
    processes.stop(service.name, stack.run)
    _start(stack, service, more)
    _wait(stack, [service], set(), lambda _line: None)


def not_ready(stack: Stack, service: Service) -> str:
    """Why a service cannot be used; "" when it is ready. An answer of another process on its port does not count."""
    pids = [process.pid for process in processes.members(service.name, stack.run)]
    if service.port and service.port not in {listener.port for listener in sockets.listening(pids)}:
        return f"no listener on port {service.port}"
    return service.not_ready()


def _wait(stack: Stack, services: Sequence[Service], ran: AbstractSet[str], progress: Callable[[str], None]) -> None:
    """Wait until each service is ready. A service of `ran` that has ended or does not answer is restarted once."""
    started = time.monotonic()
    since: dict[str, float] = {}
    earlier = set(ran)
    waiting = list(services)
    while waiting:
        for service in list(waiting):
            name = service.name
            if service.reported_by in {other.name for other in waiting}:
                continue
            waited = time.monotonic() - since.setdefault(name, time.monotonic())
            runs = processes.running_process(name, stack.run) is not None
            reason = not_ready(stack, service) if runs else "ended"
            hung = waited > _HUNG_SECONDS and processes.was_ready(name, stack.run)
            if not reason:
                progress(
                    f"{name} is running already"
                    if name in earlier
                    else f"{name} is ready after {time.monotonic() - started:.0f} s"
                )
                processes.record_ready(name, stack.run)
                waiting.remove(service)
            elif name in earlier and (hung or not runs):
                progress(f"{name} was running but is not ready ({reason}); restarting it")
                processes.stop(name, stack.run, grace=5.0)
                _start(stack, service)
                earlier.remove(name)
                del since[name]
            elif not runs:
                raise ServiceFailedError(name, _why_it_ended(service), stack.log(name))
            elif waited > service.deadline_s:
                why = f"not ready after {service.deadline_s:.0f} s: {reason}"
                raise ServiceFailedError(name, why, stack.log(name))
        time.sleep(_POLL_SECONDS)


def _why_it_ended(service: Service) -> str:
    if service.port and not sockets.is_free(service.port):
        return (
            f"ended during its start; port {service.port} is used by {sockets.describe(sockets.holder(service.port))}"
        )
    return "ended during its start"


def stop_all(stack: Stack, progress: Callable[[str], None]) -> None:
    """End every process of the stack, Airflow's tasks included. Safe to call when no process runs."""
    stores = ["mlflow", "valkey", "kafka"]
    others = sorted({path.stem for path in stack.run.glob("*.json")} - set(stores))

    def stop(name: str) -> None:
        if processes.stop(name, stack.run):
            progress(f"{name} stopped")

    for group in (others, stores):  # the stores last, so that the other services can still write
        with ThreadPoolExecutor(max(len(group), 1)) as pool:
            list(pool.map(stop, group))
    processes.end_all(lambda: processes.marked(stack.mark), 5.0)


def states(stack: Stack) -> list[State]:
    """Every service that was started and not stopped, in the order of start. Services of a drill come last."""
    names = {path.stem for path in stack.run.glob("*.json")}
    found = [_state(stack, service) for service in all_services(stack) if service.name in names]
    others = sorted(names - {state.name for state in found})
    return found + [State(n, "" if processes.running_process(n, stack.run) else _DIED, "") for n in others]


def _state(stack: Stack, service: Service) -> State:
    if processes.running_process(service.name, stack.run) is None:
        left = len(processes.members(service.name, stack.run))
        return State(service.name, _DIED + (f", {left} of its processes still run" if left else ""), service.page)
    reason = not_ready(stack, service)
    return State(service.name, f"not ready: {reason}" if reason else "", service.page)
