"""The verdicts on what a stack uses over the nights."""

from collections.abc import Callable

import pytest
from tests.soak import growth
from tests.soak.resources import Service, Usage

NIGHTS = 20


def nights(
    disk: Callable[[int], float] = lambda n: 100 + 10.0 * n,
    rows: Callable[[int], int] = lambda n: 1000 + 50 * n,
    memory: Callable[[int], float] = lambda n: 200 + (n % 3),
    files: Callable[[int], int] = lambda n: 30 + n % 2,
    started: Callable[[int], int] = lambda _: 1,
    count: int = NIGHTS,
) -> list[Usage]:
    return [
        Usage({"lake": disk(n)}, {"airflow": rows(n)}, {"serving": Service(started(n), memory(n), files(n), 1)})
        for n in range(count)
    ]


def unbounded(usage: list[Usage]) -> set[str]:
    return {each.quantity for each in growth.judge(usage) if each.broken}


def test_what_grows_with_each_night_alike_is_bounded() -> None:
    assert growth.bounded_growth(nights()) == ""
    found = {each.quantity: each for each in growth.judge(nights())}
    assert found["disk, MB"].per_night == 10.0
    assert found["database airflow, rows"].per_night == 50.0
    assert found["database airflow, rows"].limit == 50 * growth.FACTOR + growth.SLACK["rows"]


@pytest.mark.parametrize(
    ("leaking", "quantities"),
    [
        (nights(memory=lambda n: 200 + 4.0 * n), {"memory of serving, MB"}),
        (nights(files=lambda n: 30 + n), {"files of serving"}),
        (nights(disk=lambda n: 100 + 1.0 * n**2), {"disk, MB", "disk of lake, MB"}),
        (nights(rows=lambda n: 1000 + 40 * n**2), {"database airflow, rows"}),
    ],
)
def test_what_grows_without_bound_is_found(leaking: list[Usage], quantities: set[str]) -> None:
    assert unbounded(leaking) == quantities
    assert all(f"{name}: " in growth.bounded_growth(leaking) for name in quantities)


def test_a_leak_is_found_across_restarts() -> None:
    # A restart every seventh night: the memory of each process starts again at 200 MB.
    leaking = nights(memory=lambda n: 200 + 4.0 * (n % 7), started=lambda n: n // 7)
    assert unbounded(leaking) == {"memory of serving, MB"}


def test_the_first_night_of_a_process_does_not_count() -> None:
    warming_up = nights(memory=lambda n: 300.0 if n % 10 else 120.0, started=lambda n: n // 10)
    assert growth.bounded_growth(warming_up) == ""


@pytest.mark.parametrize("night", range(2, 11))
def test_one_step_is_no_growth_whenever_it_is_judged(night: int) -> None:
    """Memory of the triggerer in a soak of 30 nights: 188 MB for eight nights, then 249 MB."""
    for count in range(night, NIGHTS + 1):
        assert growth.bounded_growth(nights(memory=lambda n: 188 + 61.0 * (n >= night) + n % 2, count=count)) == ""


def test_a_leak_in_steps_is_found() -> None:
    assert unbounded(nights(memory=lambda n: 200 + 30.0 * (n // 5))) == {"memory of serving, MB"}


def test_a_leak_is_found_beside_a_high_value_of_one_night() -> None:
    assert unbounded(nights(memory=lambda n: 200 + 6.0 * n + 300 * (n == 9))) == {"memory of serving, MB"}


def test_few_nights_are_not_judged() -> None:
    few = nights(disk=lambda n: 100.0 * n**3, memory=lambda n: 200 + 90.0 * n, count=4)
    assert growth.bounded_growth(few) == ""
    assert {each.limit for each in growth.judge(few)} == {None}


def test_without_a_night_there_is_nothing_to_judge() -> None:
    assert growth.judge([]) == []
