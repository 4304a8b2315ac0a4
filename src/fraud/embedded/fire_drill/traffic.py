"""Checkout traffic of a chosen composition: short requests that are sorted in advance by serving's decision.

Short requests have no user, so no user's history changes. A fault changes the share of flagged requests or the amounts.
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

from fraud.core import short_request
from fraud.errors import UnavailableError

Request = dict[str, Any]
CANDIDATES: Final = 3_000
RATE: Final = 30.0
"""Requests a second: above the 100 an hour, ten seconds here, from which burn rates count."""
_SENDERS: Final = 16
_TIMEOUT_S: Final = 2.0


def candidates(seed: int) -> Iterator[Request]:
    """An endless stream of short requests. Amounts are log-normal (median 40 USD); a third are large and at night."""
    rng = random.Random(seed)  # noqa: S311 - traffic, not a secret
    categories = ("grocery", "travel", "electronics", "gas_transport", "home", "shopping_net", "misc_net")
    for number in itertools.count():
        wild = number % 3 == 0
        yield {
            "amount": round(min(rng.lognormvariate(3.7, 0.9) * (20 if wild else 1), 9_000.0), 2),
            short_request.CATEGORY: rng.choice(categories),
            "hour_of_day": rng.randrange(6) if wild else rng.randrange(7, 23),
            "day_of_week": rng.randrange(7),
            short_request.VELOCITY: float(rng.randrange(12) if wild else rng.randrange(3)),
            short_request.DISTANCE: round(rng.expovariate(1 / (400 if wild else 8)), 1),
        }


@dataclass(slots=True)
class Pool:
    """Requests by serving's decision."""

    fraud: list[Request] = field(default_factory=list)
    legitimate: list[Request] = field(default_factory=list)
    uncertain: list[Request] = field(default_factory=list)
    """Flagged requests with the lowest probabilities."""


def sort_candidates(url: str, count: int = CANDIDATES) -> Pool:
    """Send `count` candidates to serving and sort them by its answers. Raises UnavailableError without an answer."""
    pool, flagged = Pool(), []
    with httpx.Client(base_url=url, timeout=10) as client:
        for request in itertools.islice(candidates(1), count):
            try:
                answer = client.post("/predict", json=request).raise_for_status().json()
            except httpx.HTTPError as error:
                raise UnavailableError(
                    f"{url} does not answer", got=str(error), hint="make demo, then make drill"
                ) from error
            if answer["is_fraud"]:
                flagged.append((float(answer["fraud_probability"]), request))
            else:
                pool.legitimate.append(request)
    flagged.sort(key=lambda pair: pair[0])
    pool.fraud = [request for _, request in flagged]
    pool.uncertain = pool.fraud[: max(len(flagged) // 20, 1)]
    return pool


class Traffic:
    """Threads that together send RATE requests a second until closed. Its attributes change the requests.

    The number of threads keeps the rate when serving takes half a second for each request.
    """

    def __init__(self, url: str, pool: Pool, fraud_share: float, mean_amount: float | None) -> None:
        self.fraud_share, self.flagged, self.amount_factor = fraud_share, pool.fraud, 1.0
        # Without the mean of the model's training data, the amounts are not changed.
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
                is_flagged = bool(self.flagged) and rng.random() < self.fraud_share
                request = dict(rng.choice(self.flagged if is_flagged else self.usual))
                if not is_flagged:
                    request["amount"] = round(request["amount"] * self.amount_factor, 2)
                with suppress(httpx.HTTPError):  # expected during faults; Prometheus counts them
                    client.post("/predict", json=request)
                due = max(due + _SENDERS / RATE, time.monotonic() - 1)

    def close(self) -> None:
        """Stop sending."""
        self._closed.set()
        for thread in self._threads:
            thread.join()


def _near(requests: list[Request], mean: float) -> list[Request]:
    """The requests with the smallest amounts, as many as keep their mean amount at or below `mean`; at least one."""
    by_amount = sorted(requests, key=lambda request: float(request["amount"]))
    total, kept = 0.0, 0
    for count, request in enumerate(by_amount, start=1):
        total += float(request["amount"])
        if total / count > mean:
            break
        kept = count
    return by_amount[: max(kept, 1)]
