"""Simulated fraud: amount spikes, compromised merchants, stolen cards, card testing. Each overlaps with legitimate
payments.

Shares and amounts follow the Fraud Detection Handbook (Le Borgne et al., ULB, chapter 3) and public chargeback reports.
docs/data.md has measured figures.
"""

from typing import Final, NamedTuple

import numpy as np

from fraud.core.contract import US_PER_DAY, US_PER_HOUR, US_PER_SECOND
from fraud.simulator.devices import NONE, Devices
from fraud.simulator.legitimate import Rows, reported, seconds_of_day
from fraud.simulator.world import BY_NAME, ONLINE, Ints, World

SPIKES, COMPROMISED, STOLEN, TESTING = 0.15, 0.35, 0.30, 0.20
"""Shares of the fraudulent payments."""
STOLEN_PAYMENTS: Final = (3, 12)
STOLEN_HOURS: Final = (1.0, 6.0)
TESTS: Final = (2, 5)
PER_COMPROMISED: Final = 0.8
"""Fraudulent payments per day and compromised merchant."""
COMPROMISED_DAYS: Final = (7, 28)
NIGHT: Final = 0.4
"""Share of fraud that is committed at night."""

STOLEN_ABROAD: Final = 0.5
"""Share of the stolen cards outside the victim's city that are used abroad."""
COMPROMISED_ABROAD: Final = 0.25
FOREIGN_SITES: Final = 0.6
"""Share of stolen and tested cards whose online payments are at foreign shops."""
DEVICE_DAYS: Final = (3, 10)
"""Days for which fraudsters keep a device."""
DEVICES_IN_USE: Final = 0.2
"""Devices in use per fraudulent payment of a day."""


class Means(NamedTuple):
    """How one type of fraud pays. The first three are shares of payments, the others of episodes."""

    present: float
    """Card, or a copy of it, present, of the payments in shops. The others are over the telephone."""
    wallet: float
    """A phone with the card in its wallet, of the payments with the card present."""
    telephone: float
    """No device, of the payments without the card. The others are made with the device of their episode."""
    own: float
    """The victim's own device."""
    kept: float
    """A device that the fraudsters keep for some days, for several victims. The others are new devices."""


MEANS_SPIKES: Final = Means(present=0.94, wallet=0.1, telephone=0.05, own=0.5, kept=0.0)
MEANS_COMPROMISED: Final = Means(present=0.7, wallet=0.0, telephone=0.3, own=0.1, kept=0.6)
MEANS_STOLEN: Final = Means(present=0.9, wallet=0.1, telephone=0.1, own=0.2, kept=0.5)
MEANS_TESTED: Final = Means(present=0.0, wallet=0.0, telephone=0.05, own=0.1, kept=0.65)
MEANS_QUIET: Final = Means(present=0.94, wallet=0.1, telephone=0.05, own=0.7, kept=0.0)
"""Of each type with concept drift."""

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
    """Generates fraudulent payments. The state is the last day of each compromised merchant and fraudsters' device."""

    def __init__(self, world: World, devices: Devices, rate: float) -> None:
        self._world, self._devices, self._rate = world, devices, rate
        self._victims = np.cumsum(world.activity) / world.activity.sum()
        self._compromised: dict[int, int] = {}
        self._kept: dict[int, int] = {}
        self._bought = 0
        """Number of fraudsters' devices so far."""

    def payments(
        self, rng: np.random.Generator, extra: np.random.Generator, day: int, *, concept_drifted: bool
    ) -> Rows:  # fmt: skip
        """Fraudulent payments of episodes that start on this day. An episode may continue after midnight.

        `extra` draws devices, entry modes and what is abroad.
        """
        expected = self._world.users * self._rate
        quiet = concept_drifted
        self._keep_devices(extra, day, expected)
        return Rows.join(
            [
                self._spikes(rng, extra, day, rng.poisson(expected * SPIKES), quiet=quiet),
                self._at_compromised(rng, extra, day, rng.poisson(expected * COMPROMISED), quiet=quiet),
                self._stolen(rng, extra, day, rng.poisson(expected * STOLEN / np.mean(STOLEN_PAYMENTS)), quiet=quiet),
                self._tested(rng, extra, day, rng.poisson(expected * TESTING / (np.mean(TESTS) + 1)), quiet=quiet),
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

    def _keep_devices(self, extra: np.random.Generator, day: int, expected: float) -> None:
        self._kept = {device: last for device, last in self._kept.items() if last >= day}
        while len(self._kept) < max(1, round(expected * DEVICES_IN_USE)):
            self._kept[self._bought] = day + int(extra.integers(DEVICE_DAYS[0], DEVICE_DAYS[1] + 1))
            self._bought += 1

    def _means(
        self, extra: np.random.Generator, day: int, user: Ints, merchant: Ints, episode: Ints, means: Means
    ) -> tuple[Ints, Ints]:
        """Device of each payment, and whether the card was present. An episode has one device and one victim."""
        n, episodes = len(user), int(episode.max(initial=-1)) + 1
        victim = np.zeros(episodes, dtype=np.int64)
        victim[episode] = user
        kind = extra.random(episodes)
        kept = np.array(sorted(self._kept))[extra.integers(0, len(self._kept), episodes)]
        new = self._bought + np.arange(episodes)
        self._bought += episodes
        device = self._devices.of_fraudsters(np.where(kind < means.own + means.kept, kept, new))
        device = np.where(kind < means.own, self._devices.own(extra, victim, day), device)[episode]
        present = (self._world.merchant_city[merchant] >= 0) & (extra.random(n) < means.present)
        none = extra.random(n) < np.where(present, 1 - means.wallet, means.telephone)
        return np.where(none, NONE, device), reported(extra, present)

    def _spikes(self, rng: np.random.Generator, extra: np.random.Generator, day: int, n: int, *, quiet: bool) -> Rows:
        """Single payments of two to six times the usual amount."""
        world, user = self._world, self._victim(rng, n)
        factor = rng.uniform(0.5, 1.2, n) if quiet else rng.uniform(2, 6, n)
        category, event_us = world.category(rng, user), self._time(rng, day, n, quiet=quiet)
        amount = world.amount(rng, user, category) * factor
        merchant, distance = world.place(rng, user, category, world.home_city[user], rng.random(n) < ONLINE[category])
        means = self._means(extra, day, user, merchant, np.arange(n), MEANS_QUIET if quiet else MEANS_SPIKES)
        return Rows(user, merchant, category, amount, distance, *means, event_us, np.ones(n, dtype=np.bool_))

    def _at_compromised(
        self, rng: np.random.Generator, extra: np.random.Generator, day: int, n: int, *, quiet: bool
    ) -> Rows:  # fmt: skip
        """Merchants that charge copied cards for one to four weeks, partly cards of users in the same city."""
        world = self._world
        self._compromised = {m: last for m, last in self._compromised.items() if last >= day}
        merchants = max(1, round(world.users * self._rate * COMPROMISED / PER_COMPROMISED))
        least = COMPROMISED_DAYS[0] if self._compromised else 1
        while len(self._compromised) < merchants:
            self._compromised[self._somewhere(rng, extra, quiet=quiet)] = day + int(
                rng.integers(least, COMPROMISED_DAYS[1] + 1)
            )
        active = np.array(sorted(self._compromised))
        near = world.merchant_city[active] < world.cities
        active = active[near] if quiet and near.any() else active
        merchant = active[rng.integers(0, len(active), n)]
        user = self._victim(rng, n)
        home = world.merchant_city[merchant]
        local = (rng.random(n) < (1.0 if quiet else 0.2)) & (home >= 0)
        user = np.where(local, self._neighbour(rng, home), user)
        category = world.merchant_kind[merchant]
        factor = rng.uniform(0.5, 1.1, n) if quiet else rng.uniform(1.5, 6.0, n)
        amount = world.amount(rng, user, category) * factor
        means = self._means(extra, day, user, merchant, np.arange(n), MEANS_QUIET if quiet else MEANS_COMPROMISED)
        return Rows(
            user, merchant, category, amount, world.distance(user, merchant), *means,
            self._time(rng, day, n, quiet=quiet), np.ones(n, dtype=np.bool_),
        )  # fmt: skip

    def _somewhere(self, rng: np.random.Generator, extra: np.random.Generator, *, quiet: bool) -> int:
        """A merchant to compromise: of a category that fraud targets, by popularity with legitimate users."""
        user = self._victim(rng, 1)
        category = self._targets(rng, 1)
        online = rng.random(1) < ONLINE[category]
        merchant = self._world.place(rng, user, category, self._world.home_city[user], online).merchant
        if extra.random() < (0.0 if quiet else COMPROMISED_ABROAD):
            city = self._world.any_city_abroad(extra, 1)
            merchant = self._world.place(extra, user, category, city, online).merchant
        return int(merchant[0])

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

    def _stolen(self, rng: np.random.Generator, extra: np.random.Generator, day: int, n: int, *, quiet: bool) -> Rows:
        """3 to 12 payments with a stolen card within 1 to 6 hours, half of the cases in the victim's city."""
        world = self._world
        victim, city = self._victim(rng, n), world.city(rng, n)
        local = rng.random(n) < (1.0 if quiet else 0.5)
        abroad = ~local & (extra.random(n) < STOLEN_ABROAD)
        city = np.where(abroad, world.any_city_abroad(extra, n), np.where(local, world.home_city[victim], city))
        at_foreign_sites = extra.random(n) < (0.0 if quiet else FOREIGN_SITES)
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
        amount = world.amount(rng, user, category) * factor
        online = rng.random(m) < ONLINE[category]
        merchant, distance = world.place(rng, user, category, city[episode], online)
        merchant = np.where(at_foreign_sites[episode] & online, world.foreign_site(extra, category), merchant)
        means = self._means(extra, day, user, merchant, episode, MEANS_QUIET if quiet else MEANS_STOLEN)
        return Rows(
            user, merchant, category, amount, distance, *means, starts[episode] + after, np.ones(m, dtype=np.bool_)
        )  # fmt: skip

    def _tested(self, rng: np.random.Generator, extra: np.random.Generator, day: int, n: int, *, quiet: bool) -> Rows:
        """2 to 5 small online payments within minutes, then a large one (a usual one with concept drift)."""
        world = self._world
        victim, starts = self._victim(rng, n), self._time(rng, day, n, quiet=quiet)
        tests = rng.integers(TESTS[0], TESTS[1] + 1, n)
        episode = np.concatenate([np.repeat(np.arange(n), tests), np.arange(n)])
        m = len(episode) - n
        tiny = np.exp(rng.normal(np.log(1.8), 0.6, m)) if not quiet else np.exp(rng.normal(np.log(18.0), 0.5, m))
        minutes = np.concatenate([rng.uniform(0, 600 if quiet else 25, m), rng.uniform(25, 80, n)])
        user = victim[episode]
        category = np.concatenate(
            [_TESTED[rng.integers(0, len(_TESTED), m)], _CASHED[rng.integers(0, len(_CASHED), n)]]
        )
        large = world.amount(rng, victim, category[m:]) * (rng.uniform(0.4, 0.9, n) if quiet else rng.uniform(2, 7, n))
        merchant, distance = world.place(rng, user, category, world.home_city[user], np.ones(len(user), dtype=np.bool_))
        at_foreign_sites = extra.random(n) < (0.0 if quiet else FOREIGN_SITES)
        merchant = np.where(at_foreign_sites[episode], world.foreign_site(extra, category), merchant)
        means = self._means(extra, day, user, merchant, episode, MEANS_QUIET if quiet else MEANS_TESTED)
        return Rows(
            user, merchant, category, np.concatenate([tiny, large]), distance, *means,
            starts[episode] + (minutes * 60 * US_PER_SECOND).astype(np.int64), np.ones(len(user), dtype=np.bool_),
        )  # fmt: skip
