"""`python -m fraud_serving.stream`: scores the messages of a topic; settings from STREAM_* and SERVING_* variables."""

import asyncio
import logging
import os
import signal
import sys
import time
from typing import Final

import uvloop

from fraud_serving import process
from fraud_serving.http import app
from fraud_serving.metrics import Metrics
from fraud_serving.scoring.messages import MessageScorer
from fraud_serving.service import ScoringService, create_folders
from fraud_serving.settings import BadSettingError
from fraud_serving.stream.consumer import TopicConsumer
from fraud_serving.stream.errors import ClientErrors
from fraud_serving.stream.metrics import StreamMetrics
from fraud_serving.stream.progress import Progress
from fraud_serving.stream.publisher import Publisher
from fraud_serving.stream.settings import StreamScoringSettings, StreamSettings
from fraud_serving.stream.transactions import TransactionalPublisher
from fraud_serving.stream.worker import Worker

_log = logging.getLogger(__name__)
_LOOK_S: Final = 0.05


class Stream:
    """The Kafka side of one process. `start` and `stop` run on the event loop."""

    def __init__(self, settings: StreamSettings, service: ScoringService, scoring: StreamScoringSettings) -> None:
        self._loop = asyncio.get_running_loop()
        self.ended, self.failed = asyncio.Event(), False
        metrics = StreamMetrics()
        service.metrics.add(metrics)
        errors = ClientErrors(metrics, self._fail)
        progress = Progress(service.predictions, settings.max_unacknowledged, metrics)
        self._publisher = (
            TransactionalPublisher(settings, progress, metrics, errors, lambda: self._consumer)
            if settings.transactions
            else Publisher(settings, progress, metrics, errors)
        )
        messages = MessageScorer(service.scorer, service.store, service.predictions)
        worker = Worker(
            service.scorer, messages, self._publisher, progress, errors, scoring.max_body_bytes, traces=scoring.traces
        )
        self._consumer = TopicConsumer(settings, progress, metrics, errors, worker.take)

    def _fail(self) -> None:
        """End the process. Called on a thread of the client of Kafka."""
        self.failed = True
        self._loop.call_soon_threadsafe(self.ended.set)

    def start(self) -> None:
        """Join the group."""
        self._publisher.start()
        self._consumer.start()

    async def stop(self) -> None:
        """Poll nothing more, publish and commit what was polled, and leave the group."""
        self._consumer.stop()
        await asyncio.to_thread(self._consumer.join)
        await self._publisher.close()


async def _wait_for_model(service: ScoringService, seconds: float, ended: asyncio.Event) -> None:
    """Without a model a message would be decided by the level 0 rule and would not reach the histories."""
    deadline_s = time.monotonic() + seconds
    while service.scorer.state.production is None and not ended.is_set():
        if time.monotonic() >= deadline_s:
            _log.warning("no model after %s s: the level 0 rule decides", seconds)
            return
        await asyncio.sleep(_LOOK_S)


async def _run(settings: StreamSettings, scoring: StreamScoringSettings) -> bool:
    """Run until a signal; False after a fatal error."""
    service = ScoringService(scoring, Metrics())
    stream = Stream(settings, service, scoring)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stream.ended.set)
    await service.start()
    internal = process.InternalServer(process.server_config(app.internal(service), scoring.host, scoring.internal_port))
    serving = asyncio.create_task(internal.serve())
    returning = asyncio.create_task(process.return_free_memory())
    await _wait_for_model(service, settings.model_wait_seconds, stream.ended)
    started = not stream.ended.is_set()
    if started:
        stream.start()
        await stream.ended.wait()
    _log.info("ending")
    if started:
        await stream.stop()
    returning.cancel()
    internal.should_exit = True
    await serving
    await service.stop()
    return not stream.failed


def main() -> None:
    """Run until SIGTERM or SIGINT. What was polled is decided, acknowledged and committed before the process ends."""
    process.configure_logging()
    try:
        settings, scoring = StreamSettings.load(os.environ), StreamScoringSettings.load(os.environ)
        create_folders(scoring)
    except BadSettingError as error:
        process.exit_for_setting(error)
    process.configure_garbage_collection()
    if not uvloop.run(_run(settings, scoring)):
        sys.exit(1)


if __name__ == "__main__":
    main()
