"""Follows the production alias: a new version is fetched, verified, warmed and tested off the event loop, then handed
over. Whatever goes wrong on the way, the version that is served stays.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fraud_serving.metrics import Metrics
from fraud_serving.model import model_cache
from fraud_serving.model.model import Artefact, ArtefactRefusedError, Model, Registered, load, verify
from fraud_serving.model.registry import Registry, RegistryError

_log = logging.getLogger(__name__)
_LONGEST_BACKOFF_S: Final = 300.0


@dataclass(slots=True)
class _Refusal:
    """A version that was refused, and when to look at it again: a download may have been torn on its way."""

    registered: Registered
    wait_s: float
    until_s: float


class Watcher:
    """One thread. `hand_over` is called in it with each model that may be served from now on."""

    def __init__(
        self,
        registry: Callable[[], Registry],
        name: str,
        alias: str,
        cache: Path,
        poll_s: float,
        metrics: Metrics,
        hand_over: Callable[[Model], None],
    ) -> None:
        self._registry, self._name, self._alias, self._cache = registry, name, alias, cache
        self._poll_s, self._metrics, self._hand_over = poll_s, metrics, hand_over
        self._served: Registered | None = None
        self._refusal: _Refusal | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="model-watcher", daemon=True)

    def start(self) -> None:
        """Load the local copy, if there is one, in the caller's thread; then follow the registry in our own."""
        found = model_cache.served(self._cache)
        if found is not None:
            self._take(*found, fresh=False)
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end; one download may still be under way."""
        self._stop.set()

    def _follow(self) -> None:
        with self._registry() as registry:
            while not self._stop.is_set():
                try:
                    self._look(registry)
                except RegistryError as error:
                    self._metrics.registry_errors += 1
                    _log.warning("the registry does not answer: %s", error)
                self._stop.wait(self._poll_s)

    def _look(self, registry: Registry) -> None:
        registered = registry.aliased(self._name, self._alias)
        self._metrics.registry_seen_s = time.time()
        if registered is None or registered == self._served:
            return
        refusal = self._refusal
        if refusal is not None and refusal.registered == registered and time.monotonic() < refusal.until_s:
            return
        local = model_cache.files_of(self._cache, registered)
        try:
            if local is not None:
                verify(registered, local)
        except ArtefactRefusedError:
            local = None  # only our copy is bad
        try:
            artefact = local or registry.download(registered)
        except ArtefactRefusedError as error:
            self._refuse(registered, error)
            return
        self._take(registered, artefact, fresh=True)

    def _take(self, registered: Registered, artefact: Artefact, *, fresh: bool) -> None:
        try:
            model = load(registered, artefact)
        except ArtefactRefusedError as error:
            self._refuse(registered, error)
            return
        if fresh:
            try:
                model_cache.keep(self._cache, registered, artefact)
            except OSError as error:
                _log.error("no local copy of version %s: %s", registered.version, error)
        self._served, self._refusal = registered, None
        self._hand_over(model)

    def _refuse(self, registered: Registered, error: ArtefactRefusedError) -> None:
        self._metrics.refused[error.kind] += 1
        again = self._refusal is not None and self._refusal.registered == registered
        wait = min(2 * self._refusal.wait_s, _LONGEST_BACKOFF_S) if again and self._refusal else 2 * self._poll_s
        self._refusal = _Refusal(registered, wait, time.monotonic() + wait)
        _log.error("version %s is refused (%s): %s", registered.version, error.kind, error)
