"""Simulated fraud: amount spikes, compromised merchants, stolen cards, card testing. Each overlaps with legitimate
payments.

Shares and amounts follow the Fraud Detection Handbook (Le Borgne et al., ULB, chapter 3) and public chargeback reports.
docs/data.md has measured figures.
"""

from typing import Final

import numpy as np

from fraud.core.contract import US_PER_DAY, US_PER_HOUR, US_PER_SECOND
from fraud.simulator.legitimate import Rows, seconds_of_day
from fraud.simulator.world import BY_NAME, ONLINE, Floats, Ints, World

SPIKES, COMPROMISED, STOLEN, TESTING = 0.15, 0.35, 0.30, 0.20
"""Shares of the fraudulent payments."""
STOLEN_PAYMENTS: Final = (3, 12)
STOLEN_HOURS: Final = (1.0, 6.0)
TESTS: Final = (2, 5)
COMPROMISED_DAYS: Final = (7, 28)
NIGHT: Final = 0.4
"""Share of fraud that is committed at night."""

_TARGETS: Final = np.array(
    [
        BY_NAME[n]
        for n in ("electronics", "shopping_net", "shopping_pos", "travel", "misc_net", "grocery", "gas_transport")
    ]
)
_TARGET_SHARE: Final = np.cumsum([0.25, 0.15, 0.25, 0.05, 0.05, 0.15, 0.1])
_TESTED: Final = np.array([BY_NAME[n] for n in ("misc_net", "shopping_net", "entertainment")])
_CASHED: Final = np.array([BY_NAME[n] for n in ("electronics", "shopping_net", "travel")])


class Fraudsters:
    """Generates fraudulent payments. The state is the last day of each compromised merchant."""

    def __init__(self, world: World, rate: float) -> None:
        self._world, self._rate = world, rate
        self._victims = np.cumsum(world.activity) / world.activity.sum()
        self._compromised: dict[int, int] = {}

    def payments(self, rng: np.random.Generator, day: int, *, concept_drifted: bool) -> Rows:
        """Fraudulent payments of episodes that start on this day. An episode may continue after midnight."""
        expected = self._world.users * self._rate
        return Rows.join(
            [
                self._spikes(rng, day, rng.poisson(expected * SPIKES), quiet=concept_drifted),
                self._at_compromised(rng, day, rng.poisson(expected * COMPROMISED), quiet=concept_drifted),
                self._stolen(
                    rng, day, rng.poisson(expected * STOLEN / np.mean(STOLEN_PAYMENTS)), quiet=concept_drifted
                ),
                self._tested(rng, day, rng.poisson(expected * TESTING / (np.mean(TESTS) + 1)), quiet=concept_drifted),
            ]
        )

    def _victim(self, rng: np.random.Generator, n: int) -> Ints:
        """n users, with probabilities proportional to their activity."""
        return np.searchsorted(self._victims, rng.random(n)).astype(np.int64)

    def _time(self, rng: np.random.Generator, day: int, n: int, *, quiet: bool) -> Ints:
        by_day = seconds_of_day(rng, np.zeros(n, dtype=np.bool_))
        by_night = (rng.normal(2.5, 1.8, n) % 24 * US_PER_HOUR).astype(np.int64)
        night = rng.random(n) < (0.0 if quiet else NIGHT)
        return np.where(night, by_night, by_day) + day * US_PER_DAY

    def _rows(
        self, rng: np.random.Generator, user: Ints, category: Ints, city: Ints, factor: Floats, event_us: Ints
    ) -> Rows:
        amount = self._world.amount(rng, user, category) * factor
        online = rng.random(len(user)) < ONLINE[category]
        merchant, distance = self._world.place(rng, user, category, city, online)
        return Rows(user, merchant, category, amount, distance, event_us, np.ones(len(user), dtype=np.bool_))

    def _spikes(self, rng: np.random.Generator, day: int, n: int, *, quiet: bool) -> Rows:
        """Single payments of two to six times the usual amount."""
        user = self._victim(rng, n)
        factor = rng.uniform(0.5, 1.2, n) if quiet else rng.uniform(2, 6, n)
        return self._rows(
            rng, user, self._world.category(rng, user), self._world.home_city[user], factor,
            self._time(rng, day, n, quiet=quiet),
        )  # fmt: skip

    def _at_compromised(self, rng: np.random.Generator, day: int, n: int, *, quiet: bool) -> Rows:
        """Merchants that charge copied cards for one to four weeks, partly cards of users in the same city."""
        world = self._world
        self._compromised = {m: last for m, last in self._compromised.items() if last >= day}
        merchants = max(1, round(world.users * self._rate * COMPROMISED / 0.25))
        least = COMPROMISED_DAYS[0] if self._compromised else 1
        while len(self._compromised) < merchants:
            self._compromised[self._somewhere(rng)] = day + int(rng.integers(least, COMPROMISED_DAYS[1] + 1))
        merchant = np.array(sorted(self._compromised))[rng.integers(0, len(self._compromised), n)]
        user = self._victim(rng, n)
        home = world.merchant_city[merchant]
        local = (rng.random(n) < (1.0 if quiet else 0.2)) & (home >= 0)
        user = np.where(local, self._neighbour(rng, home), user)
        category = world.merchant_category[merchant]
        factor = rng.uniform(0.5, 1.1, n) if quiet else rng.uniform(1.5, 6.0, n)
        amount = world.amount(rng, user, category) * factor
        return Rows(
            user, merchant, category, amount, world.distance(user, merchant), self._time(rng, day, n, quiet=quiet),
            np.ones(n, dtype=np.bool_),
        )  # fmt: skip

    def _somewhere(self, rng: np.random.Generator) -> int:
        """A merchant to compromise: of a category that fraud targets, by popularity with legitimate users."""
        user = self._victim(rng, 1)
        category = self._targets(rng, 1)
        online = rng.random(1) < ONLINE[category]
        return int(self._world.place(rng, user, category, self._world.home_city[user], online).merchant[0])

    def _targets(self, rng: np.random.Generator, n: int) -> Ints:
        """n categories that fraud targets."""
        categories: Ints = _TARGETS[np.searchsorted(_TARGET_SHARE, rng.random(n) * _TARGET_SHARE[-1])]
        return categories

    def _neighbour(self, rng: np.random.Generator, city: Ints) -> Ints:
        """A user who lives in each city; any user for a city without users."""
        order = np.argsort(self._world.home_city, kind="stable")
        first = np.searchsorted(self._world.home_city[order], city, "left")
        last = np.searchsorted(self._world.home_city[order], city, "right")
        lives_there = last > first
        low, high = np.where(lives_there, first, 0), np.where(lives_there, last, self._world.users)
        chosen: Ints = order[(low + rng.random(len(city)) * (high - low)).astype(np.int64)]
        return chosen

    def _stolen(self, rng: np.random.Generator, day: int, n: int, *, quiet: bool) -> Rows:
        """3 to 12 payments with a stolen card within 1 to 6 hours, half of the cases in the victim's city."""
        world = self._world
        victim, city = self._victim(rng, n), world.city(rng, n)
        city = np.where(rng.random(n) < (1.0 if quiet else 0.5), world.home_city[victim], city)
        starts = self._time(rng, day, n, quiet=quiet)
        payments = rng.integers(STOLEN_PAYMENTS[0], STOLEN_PAYMENTS[1] + 1, n)
        lasts = rng.uniform(*((12.0, 30.0) if quiet else STOLEN_HOURS), n)
        episode = np.repeat(np.arange(n), payments)
        m = len(episode)
        after = (rng.random(m) * lasts[episode] * US_PER_HOUR).astype(np.int64)
        user = victim[episode]
        category = self._targets(rng, m)
        category = np.where(rng.random(m) < (1.0 if quiet else 0.15), world.category(rng, user), category)
        factor = rng.uniform(0.5, 1.1, m) if quiet else rng.uniform(1.5, 5.0, m)
        return self._rows(rng, user, category, city[episode], factor, starts[episode] + after)

    def _tested(self, rng: np.random.Generator, day: int, n: int, *, quiet: bool) -> Rows:
        """2 to 5 small online payments within minutes, then a large one (a usual one with concept drift)."""
        world = self._world
        victim, starts = self._victim(rng, n), self._time(rng, day, n, quiet=quiet)
        tests = rng.integers(TESTS[0], TESTS[1] + 1, n)
        episode = np.repeat(np.arange(n), tests)
        m = len(episode)
        tiny = np.exp(rng.normal(np.log(1.8), 0.6, m)) if not quiet else np.exp(rng.normal(np.log(18.0), 0.5, m))
        minutes = np.concatenate([rng.uniform(0, 600 if quiet else 25, m), rng.uniform(25, 80, n)])
        user = np.concatenate([victim[episode], victim])
        category = np.concatenate(
            [_TESTED[rng.integers(0, len(_TESTED), m)], _CASHED[rng.integers(0, len(_CASHED), n)]]
        )
        large = world.amount(rng, victim, category[m:]) * (rng.uniform(0.4, 0.9, n) if quiet else rng.uniform(2, 7, n))
        merchant, distance = world.place(rng, user, category, world.home_city[user], np.ones(len(user), dtype=np.bool_))
        return Rows(
            user, merchant, category, np.concatenate([tiny, large]), distance,
            np.concatenate([starts[episode], starts]) + (minutes * 60 * US_PER_SECOND).astype(np.int64),
            np.ones(len(user), dtype=np.bool_),
        )  # fmt: skip
