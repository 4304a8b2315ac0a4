"""Rate limit per client: a token bucket that fills at the configured rate.

A request is accepted while its client's bucket is not empty, and then takes one token per transaction. So a batch of
10,000 is never refused partway. It may leave a negative balance; the client's next request is refused until the rate
has covered it.
"""

import time
from collections.abc import Callable
from math import ceil


class RateLimit:
    """Buckets by client. `rate`: transactions per second, 0 for no limit; a bucket holds `burst_s` seconds of it.

    Clients come from the file of API keys, so their number is bounded.
    """

    def __init__(self, rate: float, burst_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._capacity, self._clock = rate, rate * burst_s, clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def wait_s(self, client: str) -> int:
        """Seconds, rounded up, until a request of `client` is accepted; 0 for now."""
        if not self._rate or not client:
            return 0
        tokens = self._tokens(client)
        return 0 if tokens > 0 else max(1, ceil(-tokens / self._rate))

    def take(self, client: str, transactions: int) -> None:
        """Take one token per transaction from the client's bucket."""
        if self._rate and client:
            self._buckets[client] = (self._tokens(client) - transactions, self._clock())

    def _tokens(self, client: str) -> float:
        tokens, at_s = self._buckets.get(client, (self._capacity, 0.0))
        return min(self._capacity, tokens + (self._clock() - at_s) * self._rate)
