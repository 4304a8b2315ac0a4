"""Countries of the simulation: the one where all cardholders live, destinations of trips, and seats of online shops."""

from typing import Final, NamedTuple

import numpy as np


class Country(NamedTuple):
    """A country with one city."""

    code: str
    """ISO 3166-1 alpha-2."""
    latitude: float
    longitude: float
    trips: float
    """Share of the trips abroad. The shares sum to 1."""
    sites: float
    """Share of the foreign online shops. The shares sum to 1."""


HOME: Final = "US"
ABROAD: Final = (
    Country("CA", 43.65, -79.38, 0.20, 0.12),
    Country("MX", 21.16, -86.85, 0.24, 0.04),
    Country("GB", 51.51, -0.13, 0.12, 0.18),
    Country("FR", 48.86, 2.35, 0.09, 0.06),
    Country("IT", 41.90, 12.50, 0.08, 0.04),
    Country("ES", 41.39, 2.17, 0.07, 0.04),
    Country("DE", 52.52, 13.40, 0.05, 0.10),
    Country("JP", 35.68, 139.69, 0.06, 0.06),
    Country("TH", 13.76, 100.50, 0.03, 0.03),
    Country("BR", -23.55, -46.63, 0.03, 0.05),
    Country("CN", 31.23, 121.47, 0.02, 0.20),
    Country("HK", 22.32, 114.17, 0.01, 0.08),
)
CODES: Final = (HOME, *(one.code for one in ABROAD))
TRIPS: Final = np.cumsum([one.trips for one in ABROAD])
SITES: Final = np.cumsum([one.sites for one in ABROAD])
