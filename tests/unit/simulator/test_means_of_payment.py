"""Devices, countries and entry modes of legitimate and fraudulent payments."""

from collections.abc import Iterator

import numpy as np
import pytest

from fraud.simulator import devices, legitimate, world
from fraud.simulator.devices import NONE, Devices
from fraud.simulator.fraudulent import Fraudsters
from fraud.simulator.legitimate import Rows
from fraud.simulator.world import World

USERS, DAYS, FIRST = 2_000, 40, 20_089


@pytest.fixture(scope="module")
def place() -> World:
    return world.build(5, USERS)


@pytest.fixture(scope="module")
def owned(place: World) -> Devices:
    return Devices(place, np.random.default_rng(1))


@pytest.fixture(scope="module")
def legit(place: World, owned: Devices) -> Rows:
    rng, extra = np.random.default_rng(2), np.random.default_rng(3)
    travel = legitimate.Travel(place)
    days = range(FIRST, FIRST + DAYS)
    return Rows.join([
        legitimate.payments(rng, extra, place, owned, day, travel.city(rng, extra, day), drifted=False) for day in days
    ])  # fmt: skip


def fraud(place: World, owned: Devices, *, concept_drifted: bool) -> Iterator[Rows]:
    rng, extra = np.random.default_rng(4), np.random.default_rng(5)
    fraudsters = Fraudsters(place, owned, 0.02)
    for day in range(FIRST, FIRST + DAYS):
        yield fraudsters.payments(rng, extra, day, concept_drifted=concept_drifted)


@pytest.fixture(scope="module")
def stolen(place: World, owned: Devices) -> Rows:
    return Rows.join(list(fraud(place, owned, concept_drifted=False)))


def users_of(rows: Rows) -> dict[int, set[int]]:
    found: dict[int, set[int]] = {}
    for device, user in zip(rows.device.tolist(), rows.user.tolist(), strict=True):
        if device != NONE:
            found.setdefault(device, set()).add(user)
    return found


def test_the_card_is_present_in_shops_only(place: World, legit: Rows, stolen: Rows) -> None:
    for rows in (legit, stolen):
        online = place.merchant_city[rows.merchant] < 0
        assert not (rows.present[online] == 1).any()
        assert (rows.present < 0).mean() == pytest.approx(0.015, abs=0.01)
    shop = place.merchant_city[legit.merchant] >= 0
    assert (legit.present[shop] == 0).mean() == pytest.approx(0.05, abs=0.015)
    shop = place.merchant_city[stolen.merchant] >= 0
    assert 0.1 < (stolen.present[shop] == 0).mean() < 0.4


def test_most_online_payments_have_a_device_and_few_in_shops(place: World, legit: Rows) -> None:
    online = place.merchant_city[legit.merchant] < 0
    assert (legit.device[online] != NONE).mean() == pytest.approx(1 - devices.UNKNOWN, abs=0.01)
    assert (legit.device[~online] != NONE).mean() == pytest.approx(0.13, abs=0.03)  # 30% of users x 40%, and apps


def test_a_user_has_few_devices_and_few_devices_have_two_users(owned: Devices) -> None:
    rng, everyone = np.random.default_rng(6), np.arange(USERS)
    used: list[set[int]] = [set() for _ in everyone]
    owners: dict[int, set[int]] = {}
    for _ in range(60):
        for user, device in enumerate(owned.own(rng, everyone, FIRST).tolist()):
            used[user].add(device)
            owners.setdefault(device, set()).add(user)
    counts = np.bincount([len(own) for own in used], minlength=4)[1:] / USERS
    assert counts == pytest.approx([0.45, 0.40, 0.15], abs=0.05)
    assert {len(users) for users in owners.values()} == {1, 2}
    shared = sum(len(users) for users in owners.values() if len(users) == 2)
    assert shared / USERS == pytest.approx(devices.FAMILY, abs=0.03)


def test_a_device_is_replaced_after_months_and_does_not_come_back(owned: Devices) -> None:
    user = np.arange(USERS)
    phones = np.array([owned.phone(user, FIRST + day) for day in range(2_000)])
    changes = (phones[1:] != phones[:-1]).sum(axis=0)
    assert changes.min() >= 2000 // 700
    assert changes.max() <= 2000 // 150 + 1
    assert [len(set(phones[:, u].tolist())) for u in range(50)] == [n + 1 for n in changes[:50].tolist()]


def test_fraudsters_devices_serve_several_victims_within_days(place: World, owned: Devices) -> None:
    served: dict[int, set[int]] = {}
    active: dict[int, set[int]] = {}
    for day, rows in enumerate(fraud(place, owned, concept_drifted=False)):
        for device, users in users_of(rows).items():
            served.setdefault(device, set()).update(users)
            active.setdefault(device, set()).add(day)
    several = [device for device, users in served.items() if len(users) > 2]
    assert len(several) > 20
    assert max(max(active[device]) - min(active[device]) for device in several) <= 14
    assert any(len(users) == 1 for users in served.values())


def test_some_fraud_has_the_victims_own_device(stolen: Rows, legit: Rows) -> None:
    own = {(d, u) for d, users in users_of(legit).items() for u in users}
    known = [pair in own for pair in zip(stolen.device.tolist(), stolen.user.tolist(), strict=True) if pair[0] != NONE]
    assert 0.05 < np.mean(known) < 0.35


def test_more_fraud_than_other_payments_is_abroad(place: World, legit: Rows, stolen: Rows) -> None:
    def abroad(rows: Rows) -> np.ndarray:
        return place.merchant_country[rows.merchant] > 0

    assert 0.01 < abroad(legit).mean() < 0.05
    assert 0.15 < abroad(stolen).mean() < 0.45
    in_shop = place.merchant_city[legit.merchant] >= 0
    far = legit.distance[abroad(legit) & in_shop]
    assert len(far) > 100
    assert far.min() > 50  # from the homes to the nearest foreign city


def test_a_merchant_is_in_the_country_of_its_city(place: World) -> None:
    shop = place.merchant_city >= 0
    home = place.merchant_city[shop] < place.cities
    assert ((place.merchant_country[shop] == 0) == home).all()
    assert place.merchants == len(place.merchant_country) == len(place.merchant_latitude)
    assert 0 < (place.merchant_country[~shop] > 0).mean() < 0.4


def test_with_concept_drift_fraud_is_at_home_and_no_device_serves_many(place: World, owned: Devices) -> None:
    rows = Rows.join(list(fraud(place, owned, concept_drifted=True)))
    assert (place.merchant_city[rows.merchant] < place.cities).all()
    assert max(len(users) for users in users_of(rows).values()) <= 2  # a family's


def test_names_of_devices_are_distinct_and_null_without_one() -> None:
    found = devices.names(np.array([NONE, 0, 1, 1 << 51, 1])).to_pylist()
    assert found[0] is None
    assert found[2] == found[4]
    assert len({*found[1:]}) == 3
    assert all(len(name) == 17 for name in found[1:])
