"""Customers' devices in the simulation: phones, computers and tablets, a few of them shared, replaced now and then.

A payment has a device when a device of the customer took part in it: online, in an app, or in a shop by a phone with
a wallet. A payment with a card or over the telephone has none: the shop's terminal is no device of the customer.
"""

from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fraud.simulator.world import Ints, World

NONE: Final = -1
"""No device, or an unknown one."""
OWNED: Final = np.array([0.45, 0.85, 1.0])
"""Cumulative shares of users with one, two and three devices."""
USED: Final = np.array([0.70, 0.92, 1.0])
"""Cumulative shares of a user's payments by device, the most used first."""
FAMILY: Final = 0.10
"""Share of users in pairs who share a device."""
REPLACED_DAYS: Final = (150, 700)
WALLET_USERS, WALLET = 0.30, 0.40
"""Share of users with a wallet on their phone, and share of their payments in shops that they make with it."""
ONE_OFF, UNKNOWN, PUBLIC = 0.04, 0.03, 0.01
"""Shares of online payments: with a device that does not appear again (deleted cookies), without a known device, with
a public device of the city."""
PER_PUBLIC: Final = 200
"""Users per public device."""

_GENERATIONS: Final = 1 << 10
_PUBLIC, _ONE_OFF, _FRAUD = 1 << 49, 1 << 50, 1 << 51
_PER_DAY: Final = 1 << 24


class Devices:
    """Which device a payment was made with. A device is an integer; `NONE` stands for null."""

    def __init__(self, world: World, rng: np.random.Generator) -> None:
        n = world.users
        self._home, self._per_city = world.home_city, max(1, n // (PER_PUBLIC * world.cities))
        self._last = np.searchsorted(OWNED, rng.random(n)).astype(np.int8)
        """Number of the least used device of each user, from 0."""
        self._interval = rng.integers(REPLACED_DAYS[0], REPLACED_DAYS[1], (n, 3), dtype=np.int16)
        self._phase = rng.integers(0, REPLACED_DAYS[1], (n, 3), dtype=np.int16)
        self._wallet = rng.random(n) < WALLET_USERS
        self._family = _partners(rng, world.home_city)

    def own(self, rng: np.random.Generator, user: Ints, day: int) -> Ints:
        """A device of each user, drawn by how much it is used."""
        last = self._last[user]
        return self._current(user, np.searchsorted(USED, rng.random(len(user)) * USED[last]), day)

    def phone(self, user: Ints, day: int) -> Ints:
        """The most used device of each user."""
        return self._current(user, np.zeros(len(user), dtype=np.int64), day)

    def _current(self, user: Ints, number: Ints, day: int) -> Ints:
        shared = (self._family[user] >= 0) & (number == self._last[user])
        owner, number = np.where(shared, self._family[user], user), np.where(shared, 0, number)
        generation = (day + self._phase[owner, number].astype(np.int64)) // self._interval[owner, number]
        return (owner * len(OWNED) + number) * _GENERATIONS + generation % _GENERATIONS

    def online(self, rng: np.random.Generator, user: Ints, day: int) -> Ints:
        """Devices of legitimate online payments of one day. Call once per day."""
        n = len(user)
        kind = rng.random(n)
        device = self.own(rng, user, day)
        public = _PUBLIC + self._home[user] * self._per_city + rng.integers(0, self._per_city, n)
        device = np.where(kind < PUBLIC + ONE_OFF + UNKNOWN, NONE, device)
        device = np.where(kind < PUBLIC + ONE_OFF, _ONE_OFF + day * _PER_DAY + np.arange(n), device)
        return np.where(kind < PUBLIC, public, device)

    def in_shop(self, rng: np.random.Generator, user: Ints, day: int) -> Ints:
        """Devices of legitimate payments with the card present: the phone with the wallet, or none."""
        paid = self._wallet[user] & (rng.random(len(user)) < WALLET)
        return np.where(paid, self.phone(user, day), NONE)

    @staticmethod
    def of_fraudsters(number: Ints) -> Ints:
        """The device of each number, owned by no user."""
        return _FRAUD + number


def _partners(rng: np.random.Generator, home_city: Ints) -> Ints:
    """For half of the users who share a device: the user whose device it is, of the same city. -1 for all others."""
    family = np.full(len(home_city), -1)
    order = np.lexsort((rng.random(len(home_city)), home_city))
    first, second = order[0:-1:2], order[1::2]
    shared = (home_city[first] == home_city[second]) & (rng.random(len(first)) < FAMILY)
    family[second[shared]] = first[shared]
    return family


def names(device: Ints, prefix: str = "d") -> pa.Array:
    """Ids of devices, null for `NONE`. An id does not show to whom the device belongs."""
    mixed = _mixed(device.astype(np.uint64)).tolist()
    return pa.array([f"{prefix}{number:016x}" for number in mixed], pa.string(), mask=device == NONE)


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A one-to-one mixing of 64-bit integers (splitmix64; Steele, Lea, Flood, OOPSLA 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
