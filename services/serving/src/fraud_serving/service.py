"""One serving process, put together: what it holds, how it starts, how it stops."""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from fraud_serving.http.api_keys import ApiKeys
from fraud_serving.log.access_log import AccessLog
from fraud_serving.log.prediction_log import PredictionLog
from fraud_serving.metrics import Metrics
from fraud_serving.model.challenger import Challenger
from fraud_serving.model.model import Model
from fraud_serving.model.registry import Registry
from fraud_serving.model.watcher import Watcher
from fraud_serving.scoring.scorer import Scorer
from fraud_serving.scoring.store import Store
from fraud_serving.settings import BadSettingError, Settings

_log = logging.getLogger(__name__)


class Service:
    """Everything with a life of its own. Make it with `of`; `start` and `stop` run on the serving event loop."""

    def __init__(self, settings: Settings, metrics: Metrics, keys: ApiKeys | None) -> None:
        self.settings, self.metrics, self.keys = settings, metrics, keys
        self._store = Store(
            settings.redis_url.get_secret_value(),
            settings.store_deadline_ms / 1e3,
            settings.answer_ttl_seconds,
            metrics,
        )
        self._challenger = Challenger(metrics)
        self._predictions = PredictionLog(
            settings.prediction_log, settings.log_queue_records, settings.log_segment_bytes, metrics, self._challenger
        )
        self.access = AccessLog(settings.access_log)
        self.scorer = Scorer(self._store, self._predictions, metrics)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watchers = [self._watcher(settings.model_alias, settings.model_cache, self._swap)]
        if settings.challenger_alias:
            folder = settings.model_cache / "challenger"
            self._watchers.append(self._watcher(settings.challenger_alias, folder, self._challenge))

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Raises BadSettingError when the file of keys or a folder cannot be used."""
        for name, folder in (("MODEL_CACHE", settings.model_cache), ("PREDICTION_LOG", settings.prediction_log)):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise BadSettingError(f"SERVING_{name}: expected a folder that can be made: {error}") from None
        try:
            keys = None if settings.api_keys is None else ApiKeys(settings.api_keys)
        except (OSError, ValueError) as error:
            raise BadSettingError(f"SERVING_API_KEYS: {error}") from None
        if keys is None:
            _log.warning("SERVING_OPEN=1: callers are asked for no key")
        return cls(settings, Metrics(), keys)

    @property
    def store_connected(self) -> bool:
        return self._store.connected

    async def start(self) -> None:
        """Raises OSError when the prediction log's folder cannot be written."""
        self._loop = asyncio.get_running_loop()
        if self.keys is not None:
            self.keys.start()
        self._predictions.start()
        self.access.start()
        for watcher in self._watchers:
            watcher.start()
        await self._store.start()

    async def stop(self) -> None:
        """Called when the last request was answered: every record reaches the disk before this returns."""
        for watcher in self._watchers:
            watcher.stop()
        if self.keys is not None:
            self.keys.stop()
        await self._store.close()
        await asyncio.to_thread(self._predictions.close)
        await asyncio.to_thread(self.access.close)

    def _registry(self) -> Registry:
        settings = self.settings
        return Registry(settings.mlflow_url, settings.mlflow_username, settings.mlflow_password.get_secret_value())

    def _watcher(self, alias: str, cache: Path, take: Callable[[Model], None]) -> Watcher:
        """`take` is called on the event loop: a swap happens between two of its events."""

        def hand_over(model: Model) -> None:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(take, model)

        settings = self.settings
        return Watcher(
            self._registry, settings.model_name, alias, cache, settings.poll_seconds, self.metrics, hand_over
        )

    def _swap(self, model: Model) -> None:
        metrics = self.metrics
        metrics.swaps += 1
        metrics.model_loaded_s = time.time()
        metrics.model_info = _info(model)
        self.scorer.model = model
        _log.info("version %s is served, sha256 %s, threshold %s", model.version, model.model_sha256, model.threshold)

    def _challenge(self, model: Model) -> None:
        self.metrics.challenger_info = _info(model)
        self._challenger.model = model
        _log.info("version %s is scored in shadow, sha256 %s", model.version, model.model_sha256)


def _info(model: Model) -> dict[str, str]:
    return {"version": model.version, "sha256": model.model_sha256, "level": model.level}
