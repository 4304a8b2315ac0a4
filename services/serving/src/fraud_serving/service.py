"""Builds the parts of one serving process from the settings, starts and stops them."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from fraud_serving import exported
from fraud_serving.api_keys import ApiKeys
from fraud_serving.log.access_log import AccessLog
from fraud_serving.log.prediction_log import PredictionLog
from fraud_serving.metrics import Metrics
from fraud_serving.model.alias_watcher import AliasWatcher
from fraud_serving.model.model import Model
from fraud_serving.model.registry import Registry
from fraud_serving.scoring.challenger import Challenger
from fraud_serving.scoring.scorer import Scorer
from fraud_serving.scoring.state import State
from fraud_serving.settings import BadSettingError, ScoringSettings, Settings
from fraud_serving.store.address import StoreAddress
from fraud_serving.store.cluster import ClusterStore
from fraud_serving.store.store import ServerStore, Store
from fraud_serving.tracing.traced_scoring import TracedClusterStore, TracedScorer, TracedServerStore

if TYPE_CHECKING:
    from fraud_serving.tracing.spans import Spans

_log = logging.getLogger(__name__)


class ScoringService:
    """What scores transactions, wherever they come from. `start` and `stop` run on the event loop of the process."""

    def __init__(self, settings: ScoringSettings, metrics: Metrics) -> None:
        self.metrics = metrics
        self._scoring = settings
        address = StoreAddress.of(settings.redis_url.get_secret_value())
        server, cluster, scorer = (
            (TracedServerStore, TracedClusterStore, TracedScorer)
            if settings.traces
            else (ServerStore, ClusterStore, Scorer)
        )
        self.store: Final[Store] = (cluster if address.cluster else server)(
            address, settings.store_deadline_ms / 1e3, settings.answer_ttl_seconds, metrics
        )
        self._challenger = Challenger(metrics)
        self.predictions = PredictionLog(
            settings.prediction_log,
            settings.log_queue_records,
            settings.log_segment_bytes,
            metrics,
            self._challenger.score,
        )
        self.scorer = scorer(self.store, self.predictions, metrics)
        metrics.daily_ages = self.scorer.snapshots.ages_s
        self._swapping = asyncio.Lock()
        self._swaps: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watchers = [self._watcher(settings.model_alias, settings.model_cache, self._swap)]
        if settings.challenger_alias:
            folder = settings.model_cache / "challenger"
            self._watchers.append(self._watcher(settings.challenger_alias, folder, self._swap_challenger))

    @property
    def store_connected(self) -> bool:
        return self.store.connected

    async def start(self) -> None:
        """Start every part. Raises OSError if the prediction log's folder is not writable."""
        self._loop = asyncio.get_running_loop()
        self.predictions.start()
        await self.store.start()
        self.scorer.snapshots.start()
        for watcher in self._watchers:
            watcher.start()
        await asyncio.sleep(0)
        if self._swaps:  # of the local copies
            await asyncio.wait(self._swaps)

    async def stop(self) -> None:
        """Stop every part, after the last request. When this returns, every record is on disk."""
        for watcher in self._watchers:
            watcher.stop()
        await self.scorer.snapshots.stop()
        await self.store.close()
        await asyncio.to_thread(self.predictions.close)

    def _registry(self) -> Registry:
        settings = self._scoring
        return Registry(settings.mlflow_url, settings.mlflow_username, settings.mlflow_password.get_secret_value())

    def _watcher(self, alias: str, folder: Path, swap: Callable[[Model], Coroutine[Any, Any, None]]) -> AliasWatcher:
        """`swap` runs on the event loop."""

        def on_load(model: Model) -> None:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._start_swap, swap, model)

        settings = self._scoring
        return AliasWatcher(
            self._registry, settings.model_name, alias, folder, settings.poll_seconds, self.metrics, on_load
        )

    def _start_swap(self, swap: Callable[[Model], Coroutine[Any, Any, None]], model: Model) -> None:
        task = asyncio.get_running_loop().create_task(swap(model))
        self._swaps.add(task)
        task.add_done_callback(self._swaps.discard)

    async def _swap(self, model: Model) -> None:
        async with self._swapping:
            await self._put_into_service(State(model, self.scorer.state.challenger))
            metrics = self.metrics
            metrics.swaps += 1
            metrics.model_loaded_s = time.time()
            metrics.model_info = _info(model)
        _log.info("version %s swapped in, sha256 %s, threshold %s", model.version, model.model_sha256, model.threshold)

    async def _swap_challenger(self, model: Model) -> None:
        async with self._swapping:
            await self._put_into_service(State(self.scorer.state.production, model))
            self.metrics.challenger_info = _info(model)
        _log.info("version %s swapped in as challenger, sha256 %s", model.version, model.model_sha256)

    async def _put_into_service(self, state: State) -> None:
        """Read the daily snapshots of the state's tables, then make it the current one in a single step."""
        tables, snapshots = state.reads.tables, self.scorer.snapshots
        await snapshots.read(tables)
        self.metrics.count_daily_tables(table.entity for table in tables)
        self.scorer.state = state
        snapshots.forget_others(tables)


class Service(ScoringService):
    """The parts of a process that serves over HTTP. Create it with `of`."""

    def __init__(
        self, settings: Settings, metrics: Metrics, keys: ApiKeys | None, page: Mapping[str, bytes] | None = None
    ) -> None:
        super().__init__(settings, metrics)
        self.settings, self.keys = settings, keys
        self.what_if: Final = page
        """The files of the what-if page by name; None without one."""
        self.access = AccessLog(settings.access_log)
        self.spans = _spans(settings.otlp_endpoint) if settings.otlp_endpoint else None

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Raises BadSettingError if the file of keys, a folder or the export of the what-if page cannot be used."""
        create_folders(settings)
        try:
            keys = None if settings.api_keys is None else ApiKeys(settings.api_keys)
        except (OSError, ValueError) as error:
            raise BadSettingError(f"SERVING_API_KEYS: {error}") from None
        try:
            page = None if settings.what_if is None else exported.read(settings.what_if)
        except exported.BadExportError as error:
            raise BadSettingError(f"SERVING_WHAT_IF: {error}") from None
        if keys is None:
            _log.warning("SERVING_OPEN=1: no API key is required")
        if page is not None:
            _log.warning("SERVING_WHAT_IF: the model in %s can be downloaded without an API key", settings.what_if)
        return cls(settings, Metrics(), keys, page)

    async def start(self) -> None:
        if self.keys is not None:
            self.keys.start()
        self.access.start()
        await super().start()

    async def stop(self) -> None:
        if self.keys is not None:
            self.keys.stop()
        await super().stop()
        await asyncio.to_thread(self.access.close)
        if self.spans is not None:
            await asyncio.to_thread(self.spans.close)


def _spans(endpoint: str) -> "Spans":
    from fraud_serving.tracing.spans import Spans  # noqa: PLC0415 - the SDK is imported only where it is used

    return Spans(endpoint, "fraud-serving")


def create_folders(settings: ScoringSettings) -> None:
    """Create the folders of the model cache and the prediction log. Raises BadSettingError."""
    for name, folder in (("MODEL_CACHE", settings.model_cache), ("PREDICTION_LOG", settings.prediction_log)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadSettingError(f"SERVING_{name}: expected a folder that can be created: {error}") from None


def _info(model: Model) -> dict[str, str]:
    return {"version": model.version, "sha256": model.model_sha256, "level": model.level}
