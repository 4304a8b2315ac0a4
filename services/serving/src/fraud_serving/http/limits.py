"""How much one client may ask for: a bucket per client that fills at the agreed rate.

A request is let in while its client's bucket is not empty, and then takes out one token per transaction. So a batch
of 10,000 is never refused halfway; it leaves a debt, and its client waits until that is paid.
"""

import time
from collections.abc import Callable
from math import ceil


class RateLimit:
    """Tokens per client. `rate` is transactions per second, 0 for no limit; `burst_s` seconds of it may be saved up.

    Clients are those of the keys' file, so their number is bounded.
    """

    def __init__(self, rate: float, burst_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._most, self._clock = rate, rate * burst_s, clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def wait_s(self, client: str) -> int:
        """0 when `client` may ask now, else the seconds, rounded up, until it may."""
        if not self._rate or not client:
            return 0
        level = self._level(client)
        return 0 if level > 0 else max(1, ceil(-level / self._rate))

    def take(self, client: str, transactions: int) -> None:
        """Charge what was asked for."""
        if self._rate and client:
            self._buckets[client] = (self._level(client) - transactions, self._clock())

    def _level(self, client: str) -> float:
        level, at = self._buckets.get(client, (self._most, 0.0))
        return min(self._most, level + (self._clock() - at) * self._rate)
