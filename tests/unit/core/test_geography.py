"""Great-circle distance, against published figures."""

import numpy as np
import pytest

from fraud.core.geography import great_circle_miles


@pytest.mark.parametrize(
    ("here", "there", "miles"),
    [
        # One degree of a great circle is 6,371.0088 km * pi / 180 = 111.1951 km = 69.0934 miles.
        ((0.0, 0.0), (0.0, 1.0), 69.0934),
        ((10.0, 25.0), (11.0, 25.0), 69.0934),
        # London to Paris, city centres: 343.5 km = 213.5 miles. New York to Los Angeles: 3,936 km = 2,446 miles.
        ((51.5074, -0.1278), (48.8566, 2.3522), 213.5),
        ((40.7128, -74.0060), (34.0522, -118.2437), 2_445.6),
        # Pole to pole is half of the circumference: pi * 3,958.7613.
        ((90.0, 0.0), (-90.0, 0.0), 12_436.8),
        ((0.0, 179.5), (0.0, -179.5), 69.0934),
        ((40.0, -75.0), (40.0, -75.0), 0.0),
    ],
)
def test_it_agrees_with_what_is_known(here: tuple[float, float], there: tuple[float, float], miles: float) -> None:
    a, b, c, d = (np.array([value]) for value in (*here, *there))
    assert great_circle_miles(a, b, c, d)[0] == pytest.approx(miles, rel=3e-4, abs=1e-9)


def test_an_unknown_coordinate_gives_an_unknown_distance() -> None:
    known, unknown = np.array([40.0]), np.array([np.nan])
    assert np.isnan(great_circle_miles(known, known, unknown, known)[0])
