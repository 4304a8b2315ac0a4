"""The point function by hand, and the vector by both of its forms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud.core import features, vector, windows
from fraud.core.contract import CATEGORIES, US_PER_DAY, US_PER_HOUR
from fraud.core.history import RECORD
from fraud.core.windows import evaluate

AT = 1_767_268_800_000_000  # 2026-01-01T12:00:00Z


def events(*rows: tuple[int, int, int]) -> np.ndarray:
    return np.array(list(rows), dtype=RECORD)


def test_without_history_counts_are_zero_and_the_mean_is_null() -> None:
    assert evaluate(events(), 0, AT) == (0.0, None, 0)


def test_a_window_holds_its_first_microsecond_and_not_the_event_s_own() -> None:
    inside = events((AT - US_PER_HOUR, 10_000, 1), (AT, 70_000, 2))
    outside = events((AT - US_PER_HOUR - 1, 10_000, 1), (AT + 1, 70_000, 2))
    assert evaluate(inside, AT, AT) == (1.0, 1.0, 1)
    assert evaluate(outside, AT + 1, AT) == (0.0, 1.0, 1)


def test_the_mean_is_over_seven_days_and_merchants_over_thirty() -> None:
    history = events(
        (AT - 31 * US_PER_DAY, 990_000, 4), (AT - 8 * US_PER_DAY, 550_000, 3), (AT - 2 * US_PER_DAY, 10_001, 2),
        (AT - US_PER_DAY, 20_000, 1), (AT - US_PER_DAY, 30_000, 2),
    )  # fmt: skip
    assert evaluate(history, AT, AT) == (0.0, 60_001 / 30_000, 3)


def test_an_event_eight_days_behind_the_newest_sees_a_shorter_month() -> None:
    """newest - 37 days is 29 days before the event: older events may have been dropped."""
    history = events((AT - 29 * US_PER_DAY, 10_000, 1), (AT - 29 * US_PER_DAY - 1, 10_000, 2))
    assert evaluate(history, AT + 7 * US_PER_DAY, AT)[2] == 2
    assert evaluate(history, AT + 8 * US_PER_DAY, AT)[2] == 1


def test_a_sum_beyond_the_doubles_integers_is_still_exact() -> None:
    history = events(*((AT - 1 - i, 10_000_000_000_000 - 1, i) for i in range(1_024)))
    assert evaluate(history, AT, AT)[1] == (10_000_000_000_000 - 1) / 10_000


def test_the_definition_has_one_hash_that_follows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = features.definition_hash()
    assert features.definition_hash() == before
    monkeypatch.setattr(features, "MAX_EVENTS", 1_025)
    assert features.definition_hash() != before


amounts = st.floats(0.0001, 1e9)
optional = st.one_of(st.none(), st.floats(0.0001, 1e9))
distances = st.one_of(st.none(), st.floats(0, 12_500))
counts, categories = st.integers(0, 1_024), st.integers(0, len(CATEGORIES) - 1)
rows = st.tuples(amounts, st.integers(0, 23), st.integers(0, 6), distances, categories, counts, optional, counts)


@settings(max_examples=200, deadline=None)
@given(st.lists(rows, min_size=1, max_size=5))
def test_one_row_and_a_table_give_the_same_vector(
    some: list[tuple[float, int, int, float | None, int, int, float | None, int]],
) -> None:
    single = np.full((len(some), len(features.VECTOR_NAMES)), np.nan, dtype=np.float32)
    for row, (amount, hour, weekday, distance, category, velocity, average, merchants) in zip(
        single, some, strict=True
    ):
        vector.fill_row(row, amount, hour, weekday, distance, category, float(velocity), average, merchants)

    def column(index: int, dtype: type) -> np.ndarray:
        return np.array([np.nan if row[index] is None else row[index] for row in some], dtype=dtype)

    table = vector.fill_table(
        column(0, float), column(1, int), column(2, int), column(3, float), column(4, int), column(5, float),
        column(6, float), column(7, int),
    )  # fmt: skip
    assert table.tobytes() == single.tobytes()


def test_imputation_by_hand() -> None:
    row = np.empty(len(features.VECTOR_NAMES), dtype=np.float32)
    vector.fill_row(row, 50.0, 3, 2, None, CATEGORIES.index("travel"), 1.0, None, 0)
    named = dict(zip(features.VECTOR_NAMES, row.tolist(), strict=True))
    assert {name: value for name, value in named.items() if value} == {
        "amount": 50.0, "hour_of_day": 3.0, "day_of_week": 2.0, "distance_missing": 1.0,
        "transaction_velocity_1h": 1.0, "avg_amount_7d": 50.0, "amount_to_avg_7d": 1.0, "no_history_7d": 1.0,
        "category_travel": 1.0,
    }  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(-40 * US_PER_DAY, US_PER_DAY), st.integers(1, 10**13), st.integers(0, 5)), max_size=150
    )
)
def test_few_events_as_lists_and_many_as_arrays_have_the_same_bits(some: list[tuple[int, int, int]]) -> None:
    """In any order, including ties, later events and dropped ones."""
    history = events(*((AT + after, units, merchant) for after, units, merchant in some))
    newest = max((AT + after for after, _, _ in some), default=0)
    everything = tuple(
        features.WindowFeature(aggregation, aggregation, "amount", days * US_PER_DAY, "float64", None)
        for aggregation in ("count", "sum", "mean", "distinct", "seconds_since_last")
        for days in (1, 7, 30)
    )
    with pytest.MonkeyPatch.context() as patch:
        found = []
        for few in (0, 1_000):
            patch.setattr(windows, "_FEW", few)
            found.append(windows.evaluate(history, newest, AT, everything))
    assert repr(found[0]) == repr(found[1])  # types too: both go through the same vector
