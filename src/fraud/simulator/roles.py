"""Columns of simulated transactions besides the built-in ones, under the names and with the types of a declaration.

A column with `simulate: <role>` gets values of the simulated world. Any other column gets random values of its type,
from a random stream of its own: declaring a column does not change the others.
"""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa

from fraud.core.columns import numbers
from fraud.core.contract import id_hash
from fraud.core.declaration_types import CategoryColumn, Column, FlagColumn, NumberColumn
from fraud.errors import BadConfigError
from fraud.simulator import devices
from fraud.simulator.countries import CODES
from fraud.simulator.legitimate import Rows
from fraud.simulator.world import CATEGORIES, Ints, World

FARTHEST: Final = 12_451.0
"""Miles: half of the Earth's circumference. No simulated distance is larger."""
NULL: Final = 0.02
"""Share of nulls of a column without a role."""
IDS_PER_USER: Final = 3
LEARNT: Final = 12
"""Number of categories of a column without a role and without a closed list, at most."""


class Role(NamedTuple):
    """What the world has for a column."""

    type: str
    values: Callable[[World, Rows], pa.Array]
    texts: tuple[str, ...] = ()
    """The categories that occur."""


def _category(_: World, rows: Rows) -> pa.Array:
    """What the merchant sells, a name of `world.CATEGORIES`."""
    return pa.array([c.name for c in CATEGORIES]).take(pa.array(rows.category))


def _distance(_: World, rows: Rows) -> pa.Array:
    """Miles from the customer's home to the shop, to 1/10,000; null online."""
    distance = np.round(rows.distance, 4)
    return pa.array(distance, mask=np.isnan(distance))


def _device(_: World, rows: Rows) -> pa.Array:
    """Id of the customer's device; null without one."""
    return devices.names(rows.device)


def _place(world: World, rows: Rows) -> pa.Array:
    """Country of the merchant, ISO 3166-1 alpha-2."""
    return pa.array(CODES).take(pa.array(world.merchant_country[rows.merchant]))


def _in_person(_: World, rows: Rows) -> pa.Array:
    """Whether the card was present; null when the acquirer does not report it."""
    return pa.array(rows.present == 1, mask=rows.present < 0)


ROLES: Final[Mapping[str, Role]] = {
    "category": Role("category", _category, tuple(c.name for c in CATEGORIES)),
    "distance": Role("number", _distance),
    "device": Role("id", _device),
    "place": Role("category", _place, CODES),
    "in_person": Role("flag", _in_person),
}


def check(columns: Mapping[str, Column]) -> None:
    """Raises BadConfigError for a column that cannot have the values of its role."""
    for name, column in columns.items():
        if column.simulate is None:
            continue
        where = f"column {name}, simulate: {column.simulate}"
        role = ROLES.get(column.simulate)
        if role is None:
            raise BadConfigError(where, expected=f"one of {', '.join(ROLES)}", got=column.simulate)
        if column.type != role.type:
            raise BadConfigError(where, expected=f"a column of type {role.type}", got=column.type)
        if isinstance(column, CategoryColumn) and column.learn is None:
            missing = [text for text in role.texts if text not in (column.values or ())]
            if missing:
                raise BadConfigError(
                    where, expected="values with all categories of the simulation", got=f"no {', '.join(missing)}",
                    hint="add them to the column's values, replace values by learn, or remove simulate",
                )  # fmt: skip
        if isinstance(column, NumberColumn) and (column.unit != "miles" or column.min > 0 or column.max < FARTHEST):
            raise BadConfigError(
                where, expected=f"unit miles, min at most 0, max at least {FARTHEST:.0f}",
                got=f"unit {column.unit}, min {column.min:g}, max {column.max:g}",
            )  # fmt: skip


def values(
    stream: Callable[..., np.random.Generator], world: World, rows: Rows, day: int, columns: Mapping[str, Column]
) -> dict[str, pa.Array]:
    """The declared columns of the rows delivered on a day, sorted by name. `stream` is a random stream by its key."""
    found = {}
    for name, column in sorted(columns.items()):
        if column.simulate is not None:
            found[name] = _rounded(column, ROLES[column.simulate].values(world, rows))
        else:
            found[name] = _random(stream(id_hash(name), day), id_hash(name), column, rows.user)
    return found


def _rounded(column: Column, given: pa.Array) -> pa.Array:
    if not isinstance(column, NumberColumn):
        return given
    rounded = numbers(column, given.to_numpy(zero_copy_only=False))
    return pa.array(rounded, mask=np.isnan(rounded))


def _random(rng: np.random.Generator, key: int, column: Column, user: Ints) -> pa.Array:
    """Random values of a type. An id is one of a few of its user's; `key` keeps the ids of two columns apart."""
    n, null = len(user), rng.random(len(user)) < NULL
    if isinstance(column, NumberColumn):
        drawn = np.clip(numbers(column, rng.uniform(column.min, column.max, n)), column.min, column.max)
        return pa.array(drawn, pa.float64(), mask=null)
    if isinstance(column, FlagColumn):
        return pa.array(rng.random(n) < 0.5, mask=null)
    if isinstance(column, CategoryColumn):
        texts = column.values or tuple(f"c{i + 1}" for i in range(min(column.learn or LEARNT, LEARNT)))
        return pa.array(texts).take(pa.array(rng.integers(0, len(texts), n), mask=null))
    code = (user * IDS_PER_USER + rng.integers(0, IDS_PER_USER, n)) ^ (key >> 1)
    return devices.names(np.where(null, devices.NONE, code), prefix="x")
