"""Roles: what the simulated world contains besides the built-in columns. Each becomes a column under any name."""

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import pyarrow as pa

from fraud.simulator import devices
from fraud.simulator.countries import CODES
from fraud.simulator.legitimate import Rows
from fraud.simulator.world import CATEGORIES, World


def _category(_: World, rows: Rows) -> pa.Array:
    """Merchant category, a name of `world.CATEGORIES`."""
    return pa.array([c.name for c in CATEGORIES]).take(pa.array(rows.category))


def _distance(_: World, rows: Rows) -> pa.Array:
    """Miles from the customer's home to the shop, to 1/10,000; null online."""
    distance = np.round(rows.distance, 4)
    return pa.array(distance, mask=np.isnan(distance))


def _device(_: World, rows: Rows) -> pa.Array:
    """Id of the customer's device; null without one."""
    return devices.names(rows.device)


def _place(world: World, rows: Rows) -> pa.Array:
    """Country of the shop, ISO 3166-1 alpha-2."""
    return pa.array(CODES).take(pa.array(world.merchant_country[rows.merchant]))


def _in_person(_: World, rows: Rows) -> pa.Array:
    """Whether the card was present; null when it is not reported."""
    return pa.array(rows.present == 1, mask=rows.present < 0)


VALUES: Final[Mapping[str, Callable[[World, Rows], pa.Array]]] = {
    "category": _category,
    "distance": _distance,
    "device": _device,
    "place": _place,
    "in_person": _in_person,
}
