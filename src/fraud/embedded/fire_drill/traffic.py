"""Checkout traffic whose composition is known: short requests, sorted beforehand by what serving decides about them.

Short requests carry no user, so no user's history changes. The share of stops and the amounts of the stream can then be
set at will: the usual ones by default, others as a fault.
"""

import itertools
import random
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from fraud.errors import UnavailableError

Request = dict[str, Any]
CANDIDATES: Final = 3_000
RATE: Final = 30.0
"""Requests a second: above the 100 an hour, ten seconds here, from which burn rates count."""
_SENDERS: Final = 16
_TIMEOUT_S: Final = 2.0


def candidates(seed: int) -> Iterator[Request]:
    """Short requests of every kind, without end. Amounts log-normal (median 40 USD), some large, some at night."""
    rng = random.Random(seed)  # noqa: S311 - traffic, not a secret
    categories = ("grocery", "travel", "electronics", "gas_transport", "home", "shopping_net", "misc_net")
    for number in itertools.count():
        wild = number % 3 == 0
        yield {
            "amount": round(min(rng.lognormvariate(3.7, 0.9) * (20 if wild else 1), 9_000.0), 2),
            "merchant_category": rng.choice(categories),
            "hour_of_day": rng.randrange(6) if wild else rng.randrange(7, 23),
            "day_of_week": rng.randrange(7),
            "transaction_velocity": float(rng.randrange(12) if wild else rng.randrange(3)),
            "distance_from_home": round(rng.expovariate(1 / (400 if wild else 8)), 1),
        }


@dataclass(slots=True)
class Pool:
    """Requests by what serving decided."""

    fraud: list[Request] = field(default_factory=list)
    legitimate: list[Request] = field(default_factory=list)
    doubtful: list[Request] = field(default_factory=list)
    """Stops with the lowest probabilities."""


def sort_candidates(url: str, count: int = CANDIDATES) -> Pool:
    """Ask serving about `count` candidates. Raises UnavailableError when it does not answer."""
    pool, stops = Pool(), []
    with httpx.Client(base_url=url, timeout=10) as client:
        for request in itertools.islice(candidates(1), count):
            try:
                answer = client.post("/predict", json=request).raise_for_status().json()
            except httpx.HTTPError as error:
                raise UnavailableError(
                    f"{url} does not answer", got=str(error), hint="make demo, then make drill"
                ) from error
            if answer["is_fraud"]:
                stops.append((float(answer["fraud_probability"]), request))
            else:
                pool.legitimate.append(request)
    stops.sort(key=lambda pair: pair[0])
    pool.fraud = [request for _, request in stops]
    pool.doubtful = pool.fraud[: max(len(stops) // 20, 1)]
    return pool


class Traffic:
    """Threads that send RATE requests a second together until closed. Set the attributes to change what they send.

    Several, so that a serving which takes half a second for each is still sent as many.
    """

    def __init__(self, url: str, pool: Pool, fraud_share: float, mean_amount: float | None) -> None:
        self.fraud_share, self.stops, self.amount_factor = fraud_share, pool.fraud, 1.0
        # Without the model's own mean the amounts stay as they are.
        self.usual = _near(pool.legitimate, mean_amount) if mean_amount else pool.legitimate
        self.mean_amount = round(statistics.fmean(request["amount"] for request in self.usual), 2)
        self._url = url
        self._closed = threading.Event()
        self._threads = [
            threading.Thread(target=self._send, args=(number,), name=f"drill-traffic-{number}", daemon=True)
            for number in range(_SENDERS)
        ]
        for thread in self._threads:
            thread.start()

    def _send(self, number: int) -> None:
        rng = random.Random(number)  # noqa: S311 - traffic, not a secret
        with httpx.Client(base_url=self._url, timeout=_TIMEOUT_S) as client:
            due = time.monotonic() + number / RATE
            while not self._closed.wait(due - time.monotonic()):
                stop = bool(self.stops) and rng.random() < self.fraud_share
                request = dict(rng.choice(self.stops if stop else self.usual))
                if not stop:
                    request["amount"] = round(request["amount"] * self.amount_factor, 2)
                with suppress(httpx.HTTPError):  # failures are what the drill is about; Prometheus counts them
                    client.post("/predict", json=request)
                due = max(due + _SENDERS / RATE, time.monotonic() - 1)

    def close(self) -> None:
        """Stop sending."""
        self._closed.set()
        for thread in self._threads:
            thread.join()


def _near(requests: list[Request], mean: float) -> list[Request]:
    """As many of the requests, smallest amounts first, as have about this mean amount."""
    by_amount = sorted(requests, key=lambda request: float(request["amount"]))
    total, kept = 0.0, 0
    for count, request in enumerate(by_amount, start=1):
        total += float(request["amount"])
        if total / count > mean:
            break
        kept = count
    return by_amount[: max(kept, 1)]
