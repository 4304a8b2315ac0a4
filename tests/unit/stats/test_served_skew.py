"""The history before a transaction, and when two values are equal: cases worked out by hand."""

import numpy as np
from numpy.typing import NDArray

from fraud.core.columns import StoredColumn
from fraud.core.contract import US_PER_DAY
from fraud.core.history import Layout
from fraud.stats import served_skew
from fraud.stats.served_skew import FeatureSkew, Order, Tally, Values, lost, same, values_of

DAY = US_PER_DAY
NOW = 20_000 * DAY
LAYOUT = Layout("card", "card_id", (StoredColumn("amount", "number", 4),), max_events=64, keep_us=37 * DAY)
LONGEST = 30 * DAY


def history_before(
    held: Order, sequence: int, transaction: int, event_us: int, some: Values, layout: Layout = LAYOUT
) -> served_skew.History | None:
    return served_skew.history_before(held, sequence, transaction, event_us, some, layout, LONGEST)


def order(events: list[tuple[int, int]], base: int = 0) -> Order:
    """Events as (id, event time), in order of arrival."""
    times = np.array([at for _, at in events], dtype=np.int64)
    ids = np.array([name for name, _ in events], dtype=np.uint64)
    return Order(base, int(times.max(initial=0)), times, ids)


def values(events: list[tuple[int, int]]) -> Values:
    records = np.array([(at, name * 100) for name, at in events], dtype=LAYOUT.record)
    return values_of(np.array([name for name, _ in events], dtype=np.uint64), records)


def units(before: object) -> list[int]:
    events: NDArray[np.void] = before.events  # type: ignore[attr-defined]
    return sorted(events["amount"].tolist())


def test_a_history_is_ordered_by_arrival_not_by_event_time() -> None:
    arrived = [(1, NOW - DAY), (2, NOW - 2 * DAY), (3, NOW), (4, NOW - 3 * DAY)]
    before = history_before(order(arrived), 2, 3, NOW, values(arrived))
    assert before is not None
    assert units(before) == [100, 200]
    assert before.newest_us == NOW - DAY
    assert before.unexplained == 0


def test_a_sequence_counts_from_the_base() -> None:
    arrived = [(1, NOW - DAY), (2, NOW)]
    before = history_before(order(arrived, base=40), 41, 2, NOW, values(arrived))
    assert before is not None
    assert units(before) == [100]


def test_a_history_has_at_most_the_bound_of_events() -> None:
    arrived = [(i, NOW + i) for i in range(1, LAYOUT.max_events + 3)]
    place = LAYOUT.max_events + 1
    before = history_before(order(arrived), place, place + 1, NOW + place + 1, values(arrived))
    assert before is not None
    assert units(before)[0] == 200
    assert len(before.events) == LAYOUT.max_events


def test_a_store_that_was_lost_and_filled_again_has_no_history_to_compare() -> None:
    arrived = [(1, NOW - DAY), (2, NOW)]
    assert history_before(order(arrived), 0, 2, NOW, values(arrived)) is None
    assert history_before(order(arrived), 7, 2, NOW, values(arrived)) is None
    assert history_before(order(arrived, base=5), 1, 2, NOW, values(arrived)) is None


def test_a_store_that_dropped_events_of_a_window_has_no_history_to_compare() -> None:
    arrived = [(1, NOW), (2, NOW + 8 * DAY)]
    assert history_before(order(arrived, base=3), 3, 1, NOW, values(arrived)) is None
    soon_enough = [(1, NOW), (2, NOW + 6 * DAY)]
    assert history_before(order(soon_enough, base=3), 3, 1, NOW, values(soon_enough)) is not None


def test_an_event_too_late_to_be_appended_is_compared_with_all_before_it() -> None:
    arrived = [(1, NOW), (2, NOW + 1)]
    before = history_before(order(arrived), 2, 9, NOW - 40 * DAY, values(arrived))
    assert before is not None
    assert units(before) == [100, 200]


def test_an_event_of_a_window_that_no_source_delivered_is_counted() -> None:
    arrived = [(1, NOW - DAY), (2, NOW - 40 * DAY), (3, NOW)]
    before = history_before(order(arrived), 2, 3, NOW, values([(3, NOW)]))
    assert before is not None
    assert before.unexplained == 1  # event 2 lies behind every window


def test_a_delivered_event_that_the_store_does_not_hold_is_lost() -> None:
    held = order([(1, NOW), (3, NOW - DAY)])
    ids = np.array([1, 2, 3, 4], dtype=np.uint64)
    times = np.array([NOW, NOW - DAY, NOW - DAY, NOW - 38 * DAY])
    assert lost(held, ids, times, LAYOUT) == 1  # 2; 4 lies behind the retention


def test_bound_and_retention_are_those_of_the_entity_s_layout() -> None:
    """Another entity keeps eight events for a day: a history that one layout still has is gone in the other."""
    short = Layout("device", "device_id", (), max_events=8, keep_us=DAY)
    arrived = [(i, NOW + i) for i in range(1, 21)]
    before = history_before(order(arrived), 19, 20, NOW + 20, values(arrived), short)
    assert before is not None
    assert units(before) == [100 * i for i in range(12, 20)]
    dropped = order([(1, NOW), (2, NOW + 2 * DAY)], base=3)
    assert history_before(dropped, 3, 1, NOW, values([]), short) is None
    assert history_before(dropped, 3, 1, NOW, values([])) is not None
    ids = np.arange(1, 30, dtype=np.uint64)
    assert lost(order(arrived), ids, np.full(29, NOW + 20), short) == 0  # more than two bounds: not counted
    assert lost(order(arrived), ids, np.full(29, NOW + 20), LAYOUT) == 9


def test_values_of_no_events_are_empty() -> None:
    none = values_of(np.zeros(0, np.uint64), np.zeros(0, LAYOUT.record))
    before = history_before(order([(1, NOW - DAY), (2, NOW)]), 1, 2, NOW, none)
    assert before is not None
    assert (len(before.events), before.unexplained) == (0, 1)


def test_equality_is_of_bits() -> None:
    assert same(0.1 + 0.2, 0.1 + 0.2)
    assert not same(0.1 + 0.2, 0.3)
    assert not same(0.0, -0.0)
    assert same(3, 3.0)
    assert same(None, None)
    assert same("travel", "travel")


def test_each_kind_of_difference_is_counted_by_its_name() -> None:
    counted = FeatureSkew()
    counted.add(1.0, 1.0, "p1")
    counted.add(1.0, 1.5, "p2")
    counted.add(None, 1.0, "p3")
    counted.add(1.0, None, "p4")
    assert (counted.equal, counted.mismatch, counted.missing, counted.extra, counted.wrong) == (1, 1, 1, 1, 3)
    assert counted.worst == 0.5
    assert counted.examples[0] == "p2: served 1.0, recomputed 1.5"


def test_the_verdict_is_skew_for_any_wrong_value_probability_or_lost_event() -> None:
    assert Tally({}).report()["verdict"] == "nothing"
    assert Tally({}, records=3).report()["verdict"] == "nothing"  # nothing of them could be compared
    assert Tally({}, records=3, compared=1).report()["verdict"] == "ok"
    assert Tally({}, records=3, probabilities=1).report()["verdict"] == "ok"
    assert Tally({"amount": FeatureSkew(equal=1)}, records=3).report()["verdict"] == "ok"
    assert Tally({}, records=3, events_lost=1).report()["verdict"] == "skew"
    wrong = Tally({"f": FeatureSkew(mismatch=1)}, records=3)
    assert wrong.report()["verdict"] == "skew"
    far = Tally({}, records=2)
    far.add_probabilities(np.array([1e-7, 2e-6]), 1e-6)
    assert far.report()["verdict"] == "skew"
    assert far.report()["probabilities"] == {"checked": 2, "wrong": 1, "unchecked": 0, "worst": 2e-6}
