"""Distance on the Earth."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

EARTH_RADIUS_MILES: Final = 3_958.7613
"""Mean radius of the Earth, 6,371.0088 km (IUGG, R1), in international miles."""


def great_circle_miles(
    latitude: NDArray[np.float64],
    longitude: NDArray[np.float64],
    other_latitude: NDArray[np.float64],
    other_longitude: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Great-circle distance in miles between points given in degrees; NaN where a coordinate is NaN.

    The haversine formula: R. W. Sinnott, "Virtues of the Haversine", Sky and Telescope 68 (1984), p. 159.
    """
    phi, other_phi = np.radians(latitude), np.radians(other_latitude)
    half_chord = (
        np.sin((other_phi - phi) / 2) ** 2
        + np.cos(phi) * np.cos(other_phi) * np.sin(np.radians(other_longitude - longitude) / 2) ** 2
    )
    miles: NDArray[np.float64] = 2 * EARTH_RADIUS_MILES * np.arcsin(np.sqrt(np.minimum(half_chord, 1.0)))
    return miles
