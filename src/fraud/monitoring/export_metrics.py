"""Serve `GET /metrics` for the parts of the platform that have no metrics of their own, until stopped."""

import signal
import threading
from types import FrameType

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from pydantic import Field

from fraud.errors import UnavailableError
from fraud.job import Context, JobConfig, JobResult
from fraud.job_list import MONITORED
from fraud.monitoring.platform_metrics import PlatformMetrics


class Config(JobConfig):
    """Address and port."""

    host: str = Field(default="127.0.0.1", description="address; 0.0.0.0 inside a container")
    port: int = Field(default=9108, ge=1, le=65535)


class Result(JobResult):
    """Signal that stopped the job."""

    signal: str


def run(config: Config, context: Context) -> Result:
    """Serve until SIGTERM or SIGINT. Raises UnavailableError when the port is taken."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    platform = PlatformMetrics(context, MONITORED)
    platform.collect()  # imports MLflow's client, which takes longer than a scrape may take
    registry.register(platform)
    stopping = threading.Event()
    signals: list[str] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        signals.append(signal.Signals(number).name)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    try:
        server, thread = start_http_server(config.port, config.host, registry)
    except OSError as error:
        raise UnavailableError(f"cannot listen on {config.host}:{config.port}", got=str(error)) from error
    context.log.info("metrics server started", url=f"http://{config.host}:{config.port}/metrics")
    stopping.wait()
    server.shutdown()
    thread.join()
    return Result(signal=signals[0])
