"""Simulated legitimate payments: daily and weekly cycles, trips, bursts, and amount spikes that resemble fraud."""

from typing import Final, NamedTuple

import numpy as np

from fraud.core.contract import US_PER_DAY, US_PER_HOUR, US_PER_SECOND
from fraud.simulator.devices import NONE, Devices
from fraud.simulator.world import BY_NAME, ONLINE, REMOTE, Bools, Floats, Ints, World

WEEKDAY: Final = np.array([0.92, 0.92, 0.95, 1.0, 1.12, 1.17, 0.92])
"""Monday first, mean 1."""
BURST: Final = 0.025
"""Share of payments that start a burst of 1 to 4 more, each within 50 minutes."""
SPIKE: Final = 0.015
TRIP_STARTS: Final = 0.0125
TRIP_DAYS: Final = (2, 7)
TRIP_ABROAD: Final = 0.12
"""Share of trips that lead abroad."""
ELSEWHERE: Final = 0.01
"""Share of payments that are made in another city without a trip."""
NO_ENTRY_MODE: Final = 0.015
"""Share of payments, fraudulent or not, of which the acquirer does not report whether the card was present."""
_BURST_MEAN: Final = 2.5

DRIFT_AMOUNT: Final = 1.15
DRIFT_VOLUME: Final = 1.10
DRIFT_TOWARDS: Final = np.array([BY_NAME[name] for name in ("shopping_net", "shopping_pos", "electronics", "travel")])
DRIFT_SWITCH: Final = 0.12
"""Share of payments that move to the categories above: the December mix."""


class Rows(NamedTuple):
    """Payments as columns of one length. Category and merchant are indices into the arrays of `World`."""

    user: Ints
    merchant: Ints
    category: Ints
    amount: Floats
    distance: Floats
    device: Ints
    """`devices.NONE` for none."""
    present: Ints
    """1: the card was present, 0: it was not, -1: not reported."""
    event_us: Ints
    fraud: Bools

    def take(self, chosen: Ints | Bools) -> "Rows":
        return Rows(
            self.user[chosen], self.merchant[chosen], self.category[chosen], self.amount[chosen],
            self.distance[chosen], self.device[chosen], self.present[chosen], self.event_us[chosen],
            self.fraud[chosen],
        )  # fmt: skip

    @classmethod
    def join(cls, parts: list["Rows"]) -> "Rows":
        return cls(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


class Travel:
    """Trips of users. The state carries over from day to day."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._until = np.full(world.users, -1)
        self._where = world.home_city.copy()

    def city(self, rng: np.random.Generator, extra: np.random.Generator, day: int) -> Ints:
        """City of each user on this day. Call once per day, in order."""
        n = self._world.users
        leaves = (rng.random(n) < TRIP_STARTS) & (self._until < day)
        length = rng.integers(TRIP_DAYS[0], TRIP_DAYS[1] + 1, n)
        at_home = self._world.city(rng, n)
        to = np.where(extra.random(n) < TRIP_ABROAD, self._world.city_abroad(extra, n), at_home)
        self._where = np.where(leaves, to, self._where)
        self._until = np.where(leaves, day + length - 1, self._until)
        return np.where(self._until >= day, self._where, self._world.home_city)


def payments(
    rng: np.random.Generator, extra: np.random.Generator, world: World, devices: Devices, day: int, city_today: Ints,
    *, drifted: bool,
) -> Rows:  # fmt: skip
    """Legitimate payments of this day. A burst may continue after midnight. `extra` draws devices and entry modes."""
    weekday = (day + 3) % 7
    level = WEEKDAY[weekday] * (DRIFT_VOLUME if drifted else 1.0) / (1 + BURST * _BURST_MEAN)
    first = np.repeat(np.arange(world.users), rng.poisson(world.activity * level))
    time_us = seconds_of_day(rng, world.night_owl[first]) + day * US_PER_DAY
    more = np.where(rng.random(len(first)) < BURST, rng.integers(1, 5, len(first)), 0)
    user = np.concatenate([first, np.repeat(first, more)])
    follows = np.repeat(time_us, more)
    gaps = (rng.uniform(1, 50, len(follows)) * 60 * US_PER_SECOND).astype(np.int64)
    category = world.category(rng, user)
    if drifted:
        moved = rng.random(len(user)) < DRIFT_SWITCH
        category = np.where(moved, DRIFT_TOWARDS[rng.integers(0, len(DRIFT_TOWARDS), len(user))], category)
    amount = world.amount(rng, user, category)
    amount *= np.where(rng.random(len(user)) < SPIKE, rng.uniform(2, 6, len(user)), 1.0)
    amount *= DRIFT_AMOUNT if drifted else 1.0
    elsewhere = rng.random(len(user)) < ELSEWHERE
    city = np.where(elsewhere, world.city(rng, len(user)), city_today[user])
    online = rng.random(len(user)) < ONLINE[category]
    merchant, distance = world.place(rng, user, category, city, online)
    remote = ~online & (extra.random(len(user)) < REMOTE[category])
    device = np.where(online, devices.online(extra, user, day), devices.in_shop(extra, user, day))
    app = extra.random(len(user)) < 0.5
    device = np.where(remote, np.where(app, devices.phone(user, day), NONE), device)
    return Rows(
        user, merchant, category, amount, distance, device, reported(extra, ~online & ~remote),
        np.concatenate([time_us, follows + gaps]),
        np.zeros(len(user), dtype=np.bool_),
    )  # fmt: skip


def reported(rng: np.random.Generator, present: Bools) -> Ints:
    """Whether the card was present as the acquirer reports it: 1, 0, or -1 for not reported."""
    return np.where(rng.random(len(present)) < NO_ENTRY_MODE, -1, present)


def seconds_of_day(rng: np.random.Generator, night_owl: Bools) -> Ints:
    """Microseconds after midnight, with peaks at noon and in the evening, and after midnight for night owls."""
    n = len(night_owl)
    kind = rng.random(n)
    hour = np.where(kind < 0.38, rng.normal(12.6, 2.0, n), rng.normal(18.4, 2.3, n))
    hour = np.where(kind > 0.88, rng.uniform(7, 23, n), hour)
    late = night_owl & (rng.random(n) < 0.55)
    hour = np.where(late, rng.normal(0.8, 2.4, n), hour) % 24
    hour = np.where(rng.random(n) < 0.03, rng.uniform(0, 24, n), hour)
    return np.minimum((hour * US_PER_HOUR).astype(np.int64), US_PER_DAY - 1)
