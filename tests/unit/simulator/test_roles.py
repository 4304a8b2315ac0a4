"""Declared columns: values by role under any name, and random values by type."""

import dataclasses
import datetime as dt

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from fraud.core.declaration_types import CategoryColumn, Column, FlagColumn, IdColumn, NumberColumn
from fraud.errors import BadConfigError
from fraud.simulator import countries, world
from fraud.simulator.bad_rows import spoil
from fraud.simulator.deliveries import Plan, deliveries

CATEGORIES = tuple(c.name for c in world.CATEGORIES)
ROLES: dict[str, Column] = {
    "sells": CategoryColumn(type="category", values=(*CATEGORIES, "other"), simulate="category"),
    "miles": NumberColumn(type="number", unit="miles", min=0, max=12_500, simulate="distance"),
    "terminal": IdColumn(type="id", simulate="device"),
    "land": CategoryColumn(type="category", learn=50, simulate="place"),
    "chip": FlagColumn(type="flag", simulate="in_person"),
}
RANDOM: dict[str, Column] = {
    "age": NumberColumn(type="number", unit="years", min=18, max=99, decimals=0),
    "score": NumberColumn(type="number", unit="points", min=-1.5, max=1.5),
    "token": IdColumn(type="id"),
    "wallet": IdColumn(type="id"),
    "channel": CategoryColumn(type="category", values=("web", "app", "other")),
    "browser": CategoryColumn(type="category", learn=5),
    "recurring": FlagColumn(type="flag"),
}
PLAN = Plan(dt.date(2025, 1, 1), 20, 200, 3, fraud_rate=0.02, bad_rows_per_100k=0.0, columns=ROLES)


def rows(columns: dict[str, Column]) -> pa.Table:
    plan = dataclasses.replace(PLAN, columns=columns)
    return pa.concat_tables([delivery.transactions for delivery in deliveries(plan)])


@pytest.fixture(scope="module")
def simulated() -> pa.Table:
    return rows(ROLES | RANDOM)


def test_a_role_has_the_same_values_under_any_name(simulated: pa.Table) -> None:
    renamed = rows({f"x_{name}": column for name, column in ROLES.items()})
    for name in ROLES:
        assert renamed[f"x_{name}"].equals(simulated[name])


def test_a_declared_column_changes_no_other_one(simulated: pa.Table) -> None:
    without = rows(ROLES | {name: column for name, column in RANDOM.items() if name != "channel"})
    assert without.equals(simulated.drop_columns(["channel"]))
    assert rows({}).equals(simulated.drop_columns([*ROLES, *RANDOM]))


def test_columns_are_sorted_and_have_the_types_of_the_declaration(simulated: pa.Table) -> None:
    types = {"number": pa.float64(), "flag": pa.bool_(), "category": pa.string(), "id": pa.string()}
    declared = ROLES | RANDOM
    assert simulated.column_names[6:] == sorted(declared)
    assert {name: simulated[name].type for name in declared} == {n: types[c.type] for n, c in declared.items()}


def test_random_values_are_in_the_bounds_and_a_few_are_null(simulated: pa.Table) -> None:
    for name in RANDOM:
        assert simulated[name].null_count / simulated.num_rows == pytest.approx(0.02, abs=0.01)
    age, score = simulated["age"].drop_null().to_numpy(), simulated["score"].drop_null().to_numpy()
    assert (age.min(), age.max()) == (18, 99)
    assert (age == np.rint(age)).all()
    assert -1.5 <= score.min() < -1.4
    assert 1.4 < score.max() <= 1.5
    assert set(simulated["channel"].drop_null().to_pylist()) == {"web", "app", "other"}
    assert len(set(simulated["browser"].drop_null().to_pylist())) == 5
    assert set(simulated["recurring"].drop_null().to_pylist()) == {True, False}


def test_random_ids_are_a_few_per_user_and_those_of_two_columns_differ(simulated: pa.Table) -> None:
    pairs = set(zip(simulated["user_id"].to_pylist(), simulated["token"].to_pylist(), strict=True))
    owners: dict[str, set[str]] = {}
    for user, token in pairs:
        if token is not None:
            owners.setdefault(token, set()).add(user)
    assert {len(users) for users in owners.values()} == {1}
    assert len(owners) <= 3 * 200
    assert not set(simulated["wallet"].drop_null().to_pylist()) & owners.keys()


def test_a_role_is_rounded_to_the_declared_decimals() -> None:
    whole = rows({"miles": ROLES["miles"].model_copy(update={"decimals": 0})})["miles"]
    exact = rows(ROLES)["miles"]
    assert whole.equals(pc.round(exact, 0, "half_to_even"))


def test_countries_and_categories_are_those_of_the_world(simulated: pa.Table) -> None:
    assert set(simulated["sells"].to_pylist()) == set(CATEGORIES)
    assert set(simulated["land"].to_pylist()) <= set(countries.CODES)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (FlagColumn(type="flag", simulate="weather"), "expected: one of category, distance, device, place, in_person"),
        (FlagColumn(type="flag", simulate="device"), "expected: a column of type id\n  got: flag"),
        (
            CategoryColumn(type="category", values=(*CATEGORIES[2:], "other"), simulate="category"),
            "got: no grocery, food_dining\n  hint: add them to the column's values",
        ),
        (
            NumberColumn(type="number", unit="kilometres", min=0, max=20_038, simulate="distance"),
            "expected: unit miles, min at most 0, max at least 12451",
        ),
        (
            NumberColumn(type="number", unit="miles", min=0, max=500, simulate="distance"),
            "got: unit miles, min 0, max 500",
        ),
    ],
)
def test_a_column_that_cannot_have_its_role_is_refused(column: Column, message: str) -> None:
    with pytest.raises(BadConfigError, match="column bad, simulate: ") as error:
        rows({"bad": column})
    assert message in str(error.value)


def test_bad_rows_break_each_bound_of_the_declared_columns() -> None:
    table = rows(ROLES | RANDOM)
    bad = spoil(np.random.default_rng(1), table, 10_000, ROLES | RANDOM).slice(table.num_rows)
    assert bad.num_rows == pytest.approx(table.num_rows / 10, rel=0.3)
    for name, largest in (("miles", 12_500), ("age", 99), ("score", 1.5)):
        assert 0 < pc.sum(pc.greater(bad[name], largest)).as_py() < bad.num_rows / 5
    assert "unlisted" in bad["channel"].to_pylist()
    assert "unlisted" not in bad["browser"].to_pylist()
    assert "one\nother" in bad["token"].to_pylist()
    new = pc.sum(pc.match_substring_regex(bad["transaction_id"], "-bad[0-9]+$")).as_py()
    assert 0 < new < bad.num_rows  # the others repeat a row
