"""The arithmetic of docs/scale.md, against calculations by hand and a queue that is simulated step by step."""

from dataclasses import replace

import numpy as np
import pytest
from tests.bench import growth_model as model

COSTS = model.Costs(
    serving_us=100.0, store_us=50.0, stream_us=40.0, user_bytes=200.0, event_bytes=100.0, merchant_bytes=120.0,
    serving_mb=125.0, build_rows_per_s=400_000.0, score_rows_per_s=400_000.0, training_rows_per_s=25_000.0,
    training_bytes_per_row=700.0, lake_bytes=250.0, message_bytes=600.0,
)  # fmt: skip
GIVEN = model.Assumptions()


def by_component(load: model.Load, given: model.Assumptions = GIVEN) -> dict[str, model.Need]:
    return {need.component: need for need in model.needs(load, COSTS, given)}


def test_the_needs_of_ten_thousand_payments_a_second() -> None:
    need = by_component(model.Load(10_000, 1e8))
    # 10,000 * 100 us = 1 core busy; at half utilisation 2, and one to spare.
    assert need["serving"].processes == 3
    # 10,000 / 3 * 86,400 = 288M payments a day: 86.4 a month and user, of which 60 are kept.
    histories = (1e8 * (200 + 60 * 100) + 1e6 * 120) / 2**30
    assert model.store_gib(model.Load(10_000, 1e8), COSTS, GIVEN) == pytest.approx(histories)
    assert histories == pytest.approx(577.5, abs=0.1)
    assert need["online store"].processes == 2 * 25
    assert need["online store"].memory_gib == pytest.approx(4 * histories)
    # 50 servers have 2 GiB each in the price of their core.
    assert need["online store"].money == pytest.approx(50 * 25 + (4 * histories - 100) * 3)
    assert need["stream consumers"].processes == 2
    assert need["broker"].storage_gib == pytest.approx(288e6 * 7 * 600 * 3 / 2**30)
    # 288M rows * (2 / 400,000 + 2 / 400,000) = 2,880 core seconds.
    assert need["nightly workers"].processes == 1
    # 288M * 120 * 700 bytes are 22,530 GiB; a host has 256.
    assert need["training, 1.14% of the rows"].memory_gib == 256
    assert need["lake"].money == pytest.approx(288e6 * 730 * 250 / 2**30 * 0.023)


def test_rare_users_have_the_payments_of_a_month() -> None:
    # 1,000 / 3 payments/s of 1e9 users: 0.864 a month each.
    expected = (1e9 * (200 + 0.864 * 100) + 1e7 * 120) / 2**30
    assert model.store_gib(model.Load(1_000, 1e9), COSTS, GIVEN) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("what", "us"),
    [("one serving process", 100.0), ("one server of the online store", 50.0), ("one consumer", 40.0)],
)
def test_a_limit_is_the_load_from_which_one_process_is_not_enough(what: str, us: float) -> None:
    limit = {each.what: each.payments_per_s for each in model.limits(COSTS, GIVEN, 1e6)}[what]
    assert model.cores(limit * 0.999, us, GIVEN) == 1
    assert model.cores(limit * 1.001, us, GIVEN) == 2


def test_limits_of_the_night_and_of_training_agree_with_the_needs() -> None:
    limits = {each.what: each.payments_per_s for each in model.limits(COSTS, GIVEN, 1e6)}
    at_night = model.night_core_s(limits["a night on two cores"] / 3 * 86_400, COSTS)
    assert at_night == pytest.approx(2 * 3 * 3_600)
    need = by_component(model.Load(0.999 * limits["training in 256 GiB"], 1e6))
    assert need["training"].memory_gib == pytest.approx(255.7, abs=0.1)


def test_limits_are_in_the_order_in_which_a_growing_load_reaches_them() -> None:
    rates = [limit.payments_per_s for limit in model.limits(COSTS, GIVEN, 1e9)]
    assert rates == sorted(rates)
    assert rates[0] == 0  # a billion users do not fit into the memory of one server


def test_the_queue_is_that_of_a_simulation_step_by_step() -> None:
    rng = np.random.default_rng(3)
    arrivals, service = np.cumsum(rng.exponential(1.2, 500)), rng.exponential(1.0, 500)
    free, expected = 0.0, []
    for arrival, duration in zip(arrivals, service, strict=True):
        free = max(free, arrival) + duration
        expected.append(free - arrival)
    assert model.sojourn(arrivals, service) == pytest.approx(np.array(expected))


@pytest.mark.parametrize("utilisation", [0.3, 0.5, 0.8])
def test_the_mean_wait_is_that_of_an_m_d_1_queue(utilisation: float) -> None:
    """Pollaczek and Khinchine: the mean wait is rho * S / (2 * (1 - rho))."""
    arrivals = np.cumsum(np.random.default_rng(5).exponential(100 / utilisation, 400_000))
    waits = model.sojourn(arrivals, np.full(400_000, 100.0)) - 100
    assert waits.mean() == pytest.approx(utilisation * 100 / (2 * (1 - utilisation)), rel=0.05)


def test_a_stall_lengthens_the_slowest_requests_alone() -> None:
    def p99(share: float, stall_ms: float) -> float:
        rng = np.random.default_rng(7)
        return model.wait_p99_ms(share, 100.0, stall_ms=stall_ms, requests=300_000, rng=rng)

    assert p99(0.5, 0.0) < 1 < p99(0.5, 11.0) < 11
    assert p99(0.5, 11.0) < p99(0.8, 11.0)


def test_assumptions_are_replaced_by_name() -> None:
    assert model.assumed({"core_month": 40.0}) == replace(GIVEN, core_month=40.0)
    with pytest.raises(ValueError, match=r"expected one of .*peak_over_mean.*, got peak$"):
        model.assumed({"peak": 3.0})
