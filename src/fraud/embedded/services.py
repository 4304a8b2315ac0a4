"""The services of the embedded stack: what each runs, when it is ready, in which order they start and stop."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import httpx
import redis

from fraud.embedded import airflow, alertmanager, mlflow_server, processes, prometheus, valkey
from fraud.embedded.processes import ServiceFailedError
from fraud.embedded.stack import Stack
from fraud.uris import browser_url

_POLL_SECONDS: Final = 0.25


@dataclass(frozen=True, slots=True)
class Service:
    """One process. `not_ready` says why it cannot be used yet, "" when it can."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    not_ready: Callable[[], str]
    deadline_s: float = 120.0


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
    config = valkey.write_config(
        stack.home / "valkey", stack.ports["valkey"], stack.secret["VALKEY_PASSWORD"], append_only=True
    )
    url = stack.platform_environment()["FRAUD_REDIS_URL"]
    return Service("valkey", valkey.command(config), stack.environment("ml"), _valkey_not_ready(url), 30.0)


def _mlflow(stack: Stack) -> Service:
    url = stack.url("mlflow")
    command = mlflow_server.command(stack.home / "mlflow", stack.ports["mlflow"])
    # Without what points a client at a server: this is the server.
    ours = {name: value for name, value in stack.environment("ml").items() if not name.startswith("MLFLOW_")}
    env = ours | mlflow_server.environment(
        stack.home / "mlflow", stack.secret["MLFLOW_ADMIN_PASSWORD"], stack.secret["MLFLOW_FLASK_SECRET"]
    )
    return Service("mlflow", command, env, _http_not_ready(f"{url}/health"), 90.0)


def serving(stack: Stack) -> Service:
    """The service that answers checkouts."""
    platform = stack.platform_environment()
    env = stack.environment("serving") | {
        "SERVING_PORT": str(stack.ports["serving"]),
        "SERVING_REDIS_URL": platform["FRAUD_REDIS_URL"],
        "SERVING_MLFLOW_URL": platform["FRAUD_MLFLOW_URL"],
        "SERVING_MODEL_CACHE": str(stack.home / "serving/model"),
        "SERVING_PREDICTION_LOG": str(stack.home / "predictions"),
        "SERVING_POLL_SECONDS": "2",
        "SERVING_OPEN": "1",
    }
    command = [stack.program("serving", "python"), "-m", "fraud_serving"]
    return Service("serving", command, env, _http_not_ready(f"{stack.url('serving')}/health"), 60.0)


def _prometheus(stack: Stack) -> list[Service]:
    program = prometheus.binary()
    if program is None:
        return []
    env = stack.environment("ml") | {"FRAUD_DOCS_URL": browser_url(stack.project / "docs")}
    ready = _http_not_ready(f"{stack.url('prometheus')}/-/ready")
    port = stack.ports["platform_metrics"]
    exporter = [stack.program("ml", "fraud"), "export-metrics", f"--port={port}"]
    exporter_ready = _http_not_ready(f"{stack.url('platform_metrics')}/metrics")
    return [
        Service("prometheus", prometheus.command(stack, program), env, ready, 60.0),
        Service("platform-metrics", exporter, env, exporter_ready, 90.0),
    ]


def _alertmanager(stack: Stack) -> list[Service]:
    program = alertmanager.binary()
    if program is None:
        return []
    ready = _http_not_ready(f"{stack.url('alertmanager')}/-/ready")
    return [Service("alertmanager", alertmanager.command(stack, program), stack.environment("ml"), ready, 60.0)]


def _airflow(stack: Stack) -> list[Service]:
    env = airflow.environment(stack)
    program = stack.program("airflow", "airflow")
    return [
        Service(f"airflow-{part}", [program, part], env, lambda: airflow.not_ready(stack), 180.0)
        for part in airflow.COMPONENTS
    ]


def start_all(stack: Stack, say: Callable[[str], None], only: Sequence[str] = ()) -> None:
    """Start what does not run yet, all at once, and return when everything is ready; `only` narrows it by name.

    Raises ServiceFailedError naming the service and its log.
    """
    if prometheus.binary() is None:
        say("prometheus is not on this machine: install the system's package to have it in the stack")
    every = [
        _valkey(stack),
        _mlflow(stack),
        serving(stack),
        *_prometheus(stack),
        *_alertmanager(stack),
        *_airflow(stack),
    ]
    services = [service for service in every if not only or service.name in only]
    at_once = [service for service in services if not service.name.startswith("airflow-")]
    after_migration = [service for service in services if service not in at_once]
    for service in at_once:
        _start(stack, service, say)
    if not all(processes.remembered(service.name, stack.run) for service in after_migration):
        migrate(stack, after_migration[0].env)
    for service in after_migration:
        _start(stack, service, say)
    _wait(stack, services, say)


def migrate(stack: Stack, env: Mapping[str, str]) -> None:
    """Bring Airflow's database to this version, with the pools of one slot that scoring and monitoring take."""
    airflow, log = stack.program("airflow", "airflow"), stack.log("airflow-migrate")
    processes.run_step("airflow-migrate", [airflow, "db", "migrate"], env, log, stack.project)
    for pool, why in (("scoring", "one run of batch scoring"), ("retraining", "one request for retraining")):
        command = [airflow, "pools", "set", pool, "1", f"{why} at a time"]
        processes.run_step("airflow-pools", command, env, log, stack.project)


def _start(stack: Stack, service: Service, say: Callable[[str], None]) -> None:
    if processes.remembered(service.name, stack.run):
        say(f"{service.name} runs already")
        return
    processes.start(service.name, service.command, service.env, stack.run, stack.log(service.name))


def _wait(stack: Stack, services: Sequence[Service], say: Callable[[str], None]) -> None:
    began = time.monotonic()
    waiting = list(services)
    while waiting:
        for service in list(waiting):
            if processes.remembered(service.name, stack.run) is None:
                raise ServiceFailedError(service.name, "it ended while starting", stack.log(service.name))
            reason = service.not_ready()
            if not reason:
                say(f"{service.name} is ready after {time.monotonic() - began:.0f} s")
                waiting.remove(service)
            elif time.monotonic() - began > service.deadline_s:
                why = f"not ready after {service.deadline_s:.0f} s ({reason})"
                raise ServiceFailedError(service.name, why, stack.log(service.name))
        time.sleep(_POLL_SECONDS)


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


def states(stack: Stack) -> dict[str, str]:
    """Service -> what `status` prints about it."""
    names = sorted(path.stem for path in stack.run.glob("*.json"))
    found = {name: processes.remembered(name, stack.run) for name in names}
    return {name: f"runs, process {process.pid}" if process else "died" for name, process in found.items()}
