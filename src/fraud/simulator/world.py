"""The static part of the simulation: cities, merchants, cardholders and their spending habits.

It is drawn once from the seed. `legitimate` and `fraudulent` generate the payments of each day.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fraud.core.geography import great_circle_miles
from fraud.simulator.countries import ABROAD, SITES, TRIPS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Category(NamedTuple):
    """Spending in one merchant category."""

    name: str
    share: float
    """Share of all transactions. The shares sum to 1."""
    median: float
    """USD."""
    spread: float
    """Sigma of the log of one amount around its cardholder's own median."""
    online: float
    """Share of online payments."""
    remote: float
    """Share of a shop's payments that are made in its app or over the telephone, without the card."""


CATEGORIES: Final = (
    Category("grocery", 0.18, 42.0, 0.60, 0.0, 0.02),
    Category("food_dining", 0.15, 21.0, 0.60, 0.0, 0.12),
    Category("gas_transport", 0.13, 36.0, 0.45, 0.0, 0.02),
    Category("shopping_pos", 0.09, 55.0, 0.80, 0.0, 0.02),
    Category("shopping_net", 0.08, 62.0, 0.80, 1.0, 0.02),
    Category("entertainment", 0.07, 32.0, 0.70, 0.3, 0.02),
    Category("health_fitness", 0.06, 44.0, 0.70, 0.0, 0.06),
    Category("home", 0.05, 75.0, 0.80, 0.0, 0.08),
    Category("kids_pets", 0.05, 38.0, 0.60, 0.0, 0.02),
    Category("personal_care", 0.04, 27.0, 0.60, 0.0, 0.02),
    Category("electronics", 0.03, 170.0, 0.80, 0.4, 0.02),
    Category("misc_pos", 0.03, 26.0, 0.80, 0.0, 0.02),
    Category("misc_net", 0.02, 34.0, 0.80, 1.0, 0.02),
    Category("travel", 0.02, 310.0, 0.70, 0.6, 0.25),
)
SHARE: Final = np.array([c.share for c in CATEGORIES])
ONLINE: Final = np.array([c.online for c in CATEGORIES])
REMOTE: Final = np.array([c.remote for c in CATEGORIES])
SPREAD: Final = np.array([c.spread for c in CATEGORIES])
LOG_MEDIAN: Final = np.log(np.array([c.median for c in CATEGORIES]))
BY_NAME: Final = {c.name: i for i, c in enumerate(CATEGORIES)}

_DEGREES_PER_MILE: Final = 1 / 69.0


class Place(NamedTuple):
    """Merchants of payments and their distances from home, in arrays of one length."""

    merchant: Ints
    distance: Floats
    """Miles; NaN for an online payment."""


@dataclass(frozen=True, slots=True)
class World:
    """Arrays by city, merchant and user. All pools of merchants have the same size."""

    cities: int
    """Cities of the home country. City `cities + k` is the one of `countries.ABROAD[k]`."""
    users: int
    city_share: Floats
    """Cumulative."""
    first_shop: Ints
    """Index of the first shop of each city, the cities abroad last."""
    pool: int
    """Shops per city and category."""
    pool_share: Floats
    """Cumulative share of the k-th most popular shop of a pool (Zipf)."""
    online_pool: int
    online_share: Floats
    merchant_latitude: Floats
    """NaN for online merchants."""
    merchant_longitude: Floats
    merchant_kind: Ints
    """Index into `CATEGORIES`."""
    merchant_city: Ints
    """-1 for online merchants."""
    merchant_country: Ints
    """Index into `countries.CODES`, 0 for the home country."""
    home_city: Ints
    home_latitude: Floats
    home_longitude: Floats
    activity: Floats
    """Mean number of payments relative to the average user; the mean is 1."""
    night_owl: Bools
    taste: Floats
    """Cumulative share of each category, float[users, categories]."""
    log_median: Floats
    """Log of the user's median amount in each category, float[users, categories]."""

    @property
    def merchants(self) -> int:
        return len(self.merchant_kind)

    def place(self, rng: np.random.Generator, user: Ints, category: Ints, city: Ints, online: Bools) -> Place:
        """A merchant for each category, in the city or online, drawn by popularity."""
        u = rng.random(len(user))
        shop = self.first_shop[city] + category * self.pool + np.searchsorted(self.pool_share, u)
        site = (self.cities * self.pool + np.searchsorted(self.online_share, u)) * len(CATEGORIES) + category
        merchant = np.where(online, site, shop)
        return Place(merchant, self.distance(user, merchant))

    def foreign_site(self, rng: np.random.Generator, category: Ints) -> Ints:
        """A foreign online shop for each category, all of them equally likely."""
        ranks = _foreign(self.online_pool)
        rank = ranks[rng.integers(0, len(ranks), len(category))]
        merchant: Ints = (self.cities * self.pool + rank) * len(CATEGORIES) + category
        return merchant

    def distance(self, user: Ints, merchant: Ints) -> Floats:
        """Miles from the user's home to the merchant; NaN for online merchants."""
        return great_circle_miles(
            self.home_latitude[user], self.home_longitude[user],
            self.merchant_latitude[merchant], self.merchant_longitude[merchant],
        )  # fmt: skip

    def category(self, rng: np.random.Generator, user: Ints) -> Ints:
        """A category for each user, drawn by the user's taste."""
        chosen: Ints = (rng.random(len(user))[:, None] > self.taste[user]).sum(axis=1)
        return chosen

    def amount(self, rng: np.random.Generator, user: Ints, category: Ints) -> Floats:
        """USD, log-normal around the user's median in the category."""
        noise = rng.standard_normal(len(user)) * SPREAD[category]
        amount: Floats = np.exp(self.log_median[user, category] + noise)
        return amount

    def city(self, rng: np.random.Generator, n: int) -> Ints:
        """n cities, drawn by size."""
        return np.searchsorted(self.city_share, rng.random(n)).astype(np.int64)

    def city_abroad(self, rng: np.random.Generator, n: int) -> Ints:
        """n cities abroad, drawn by trips."""
        city: Ints = self.cities + np.searchsorted(TRIPS, rng.random(n) * TRIPS[-1]).astype(np.int64)
        return city

    def any_city_abroad(self, rng: np.random.Generator, n: int) -> Ints:
        """n cities abroad, all of them equally likely."""
        city: Ints = self.cities + rng.integers(0, len(ABROAD), n)
        return city


def build(seed: int, users: int) -> World:
    """The world of this seed and size: 4 to 25 cities, about one shop per two users between 100 and 4,000.

    Merchants are numbered in this order: shops of the home country, online shops, shops abroad.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    cities = int(np.clip(users // 60, 4, 25))
    pool = int(np.clip(users // (2 * cities * len(CATEGORIES)), 2, 12))
    online_pool = 4 * pool
    latitude, longitude = rng.uniform(30, 47, cities), rng.uniform(-121, -75, cities)
    city_share = _zipf(cities, 0.8)
    shops = cities * len(CATEGORIES) * pool
    shop_city = np.repeat(np.arange(cities), len(CATEGORIES) * pool)
    sites = len(CATEGORIES) * online_pool
    nowhere = np.full(sites, np.nan)
    per_city = len(CATEGORIES) * pool
    shop_abroad = np.repeat(np.arange(len(ABROAD)), per_city)
    abroad_latitude, abroad_longitude = (np.array([(c.latitude, c.longitude) for c in ABROAD])[shop_abroad]).T
    home_city = np.searchsorted(city_share, rng.random(users)).astype(np.int64)
    taste = rng.dirichlet(SHARE * 12, users).cumsum(axis=1)
    taste[:, -1] = 1.0
    return World(
        cities=cities, users=users, city_share=city_share,
        first_shop=np.arange(cities + len(ABROAD)) * per_city + np.repeat([0, sites], [cities, len(ABROAD)]),
        pool=pool, pool_share=_zipf(pool, 1.0), online_pool=online_pool, online_share=_zipf(online_pool, 1.0),
        merchant_latitude=np.concatenate([latitude[shop_city] + _miles(rng, 6, shops), nowhere, abroad_latitude]),
        merchant_longitude=np.concatenate([longitude[shop_city] + _miles(rng, 7, shops), nowhere, abroad_longitude]),
        merchant_kind=np.concatenate([
            np.tile(np.repeat(np.arange(len(CATEGORIES)), pool), cities),
            np.tile(np.arange(len(CATEGORIES)), online_pool),
            np.tile(np.repeat(np.arange(len(CATEGORIES)), pool), len(ABROAD)),
        ]),
        merchant_city=np.concatenate([shop_city, np.full(sites, -1), cities + shop_abroad]),
        merchant_country=np.concatenate([np.zeros(shops, np.int64), _seats(seed, online_pool), 1 + shop_abroad]),
        home_city=home_city,
        home_latitude=latitude[home_city] + _miles(rng, 6, users),
        home_longitude=longitude[home_city] + _miles(rng, 7, users),
        activity=_mean_one(np.clip(rng.gamma(2.0, 0.5, users), 0.1, 5.0)),
        night_owl=rng.random(users) < 0.08,
        taste=taste,
        log_median=LOG_MEDIAN + rng.normal(0, 0.35, (users, 1)) + rng.normal(0, 0.3, (users, len(CATEGORIES))),
    )  # fmt: skip


def _seats(seed: int, online_pool: int) -> Ints:
    """Country of each online shop."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(3,)))
    foreign = 1 + np.searchsorted(SITES, rng.random(len(CATEGORIES) * online_pool) * SITES[-1])
    rank = np.repeat(np.arange(online_pool), len(CATEGORIES))
    return np.where(np.isin(rank, _foreign(online_pool)), foreign, 0)


def _foreign(online_pool: int) -> Ints:
    """Ranks of the foreign online shops of a category, from 0: every second of the less popular half."""
    return np.arange(online_pool // 2 + 1, online_pool, 2)


def _zipf(n: int, exponent: float) -> Floats:
    """Cumulative shares of n ranks."""
    weights = np.arange(1, n + 1) ** -exponent
    shares: Floats = weights.cumsum() / weights.sum()
    shares[-1] = 1.0
    return shares


def _miles(rng: np.random.Generator, sigma: float, n: int) -> Floats:
    return rng.normal(0, sigma * _DEGREES_PER_MILE, n)


def _mean_one(values: Floats) -> Floats:
    scaled: Floats = values / values.mean()
    return scaled
