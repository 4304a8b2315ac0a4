"""Follows an alias of the registry.

A thread downloads a new version, verifies it, warms it up and tests it, and then passes it on. If any of this fails,
the version that is served stays.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fraud_serving.metrics import Metrics
from fraud_serving.model import cache
from fraud_serving.model.model import Artefact, ArtefactRefusedError, Model, Registered, load, verify
from fraud_serving.model.registry import Registry, RegistryError

_log = logging.getLogger(__name__)
_MAX_BACKOFF_S: Final = 300.0


@dataclass(slots=True)
class _Refusal:
    """A refused version and when to try it again: the download may have been incomplete."""

    registered: Registered
    wait_s: float
    retry_at_s: float


class AliasWatcher:
    """One thread. It calls `on_load` with each model that is to be served from now on."""

    def __init__(
        self,
        registry: Callable[[], Registry],
        name: str,
        alias: str,
        folder: Path,
        poll_s: float,
        metrics: Metrics,
        on_load: Callable[[Model], None],
    ) -> None:
        self._registry, self._name, self._alias, self._folder = registry, name, alias, folder
        self._poll_s, self._metrics, self._on_load = poll_s, metrics, on_load
        self._served: Registered | None = None
        self._refusal: _Refusal | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="alias-watcher", daemon=True)

    def start(self) -> None:
        """Load the local copy, if there is one, in the caller's thread. Then start the thread."""
        copy = cache.served(self._folder)
        if copy is not None:
            self._load(*copy, keep=False)
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its current poll. Does not wait for it: it may be downloading."""
        self._stop.set()

    def _follow(self) -> None:
        with self._registry() as registry:
            while not self._stop.is_set():
                try:
                    self._poll(registry)
                except RegistryError as error:
                    self._metrics.registry_errors += 1
                    _log.warning("registry not available: %s", error)
                self._stop.wait(self._poll_s)

    def _poll(self, registry: Registry) -> None:
        registered = registry.aliased(self._name, self._alias)
        self._metrics.registry_seen_s = time.time()
        if registered is None or registered == self._served:
            return
        refusal = self._refusal
        if refusal is not None and refusal.registered == registered and time.monotonic() < refusal.retry_at_s:
            return
        copy = cache.files_of(self._folder, registered)
        try:
            if copy is not None:
                verify(registered, copy)
        except ArtefactRefusedError:
            copy = None  # the local copy is damaged
        try:
            artefact = copy or registry.download(registered)
        except ArtefactRefusedError as error:
            self._refuse(registered, error)
            return
        self._load(registered, artefact, keep=True)

    def _load(self, registered: Registered, artefact: Artefact, *, keep: bool) -> None:
        try:
            model = load(registered, artefact)
        except ArtefactRefusedError as error:
            self._refuse(registered, error)
            return
        if keep:
            try:
                cache.keep(self._folder, registered, artefact)
            except OSError as error:
                _log.error("local copy of version %s not written: %s", registered.version, error)
        self._served, self._refusal = registered, None
        self._on_load(model)

    def _refuse(self, registered: Registered, error: ArtefactRefusedError) -> None:
        self._metrics.refused[error.kind] += 1
        again = self._refusal is not None and self._refusal.registered == registered
        wait_s = min(2 * self._refusal.wait_s, _MAX_BACKOFF_S) if again and self._refusal else 2 * self._poll_s
        self._refusal = _Refusal(registered, wait_s, time.monotonic() + wait_s)
        _log.error("version %s refused (%s): %s", registered.version, error.kind, error)
