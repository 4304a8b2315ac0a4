"""The schedule of a soak."""

import pytest
from tests.soak.schedule import FAULTS, KILLED, nights


def test_thirty_nights_have_every_event_fault_and_killed_service() -> None:
    found = nights(30, 1)
    assert [n.number for n in found] == list(range(1, 31))
    assert {event: n.number for n in found for event in n.events} == {
        "bad candidate": 6, "data drift": 10, "concept drift": 18, "rollback": 24,
    }  # fmt: skip
    assert {n.delivery for n in found} == {"on time", *FAULTS}
    assert {n.kill.service for n in found if n.kill} == set(KILLED)
    assert {n.kill.phase for n in found if n.kill} == {"day", "night"}


def test_the_same_seed_gives_the_same_schedule() -> None:
    assert nights(30, 5) == nights(30, 5)
    assert nights(30, 5) != nights(30, 6)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 30])
@pytest.mark.parametrize("seed", range(20))
def test_a_soak_of_any_length_has_every_event_once_and_delivers_what_it_needs(count: int, seed: int) -> None:
    found = nights(count, seed)
    assert len(found) == count
    assert sorted(event for n in found for event in n.events) == [
        "bad candidate", "concept drift", "data drift", "rollback",
    ]  # fmt: skip
    for night in found:
        needs_a_candidate = {"bad candidate", "rollback"} & set(night.events)
        if needs_a_candidate or night.number in (1, count):
            assert night.delivery != "late"
