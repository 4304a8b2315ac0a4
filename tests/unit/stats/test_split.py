"""Parts by time: as requested, shortened, refused."""

import pytest

from fraud.core.contract import US_PER_DAY
from fraud.stats.split import MIN_DAYS, split_by_time

ASKED = {"train_days": 60, "gap_days": 7, "validation_days": 14, "holdout_days": 14}


def days(span: int, start: int = 18_000) -> tuple[int, int]:
    """First and last event of a span, neither on the day's edge."""
    return start * US_PER_DAY + 5, (start + span) * US_PER_DAY - 7


def test_a_long_span_keeps_the_newest_days_with_gaps_between() -> None:
    split = split_by_time(*days(150), **ASKED)
    assert (split.train.days, split.validation.days, split.holdout.days, split.shrunk) == (60, 14, 14, False)
    assert split.holdout.end_us == 18_150 * US_PER_DAY
    assert split.holdout.first_us - split.validation.end_us == 7 * US_PER_DAY
    assert split.validation.first_us - split.train.end_us == 7 * US_PER_DAY


@pytest.mark.parametrize("span", [MIN_DAYS, 20, 51, 101])
def test_a_short_span_shrinks_in_proportion_and_is_used_whole(span: int) -> None:
    split = split_by_time(*days(span), **ASKED)
    assert split.shrunk
    assert split.train.first_us == 18_000 * US_PER_DAY
    assert split.train.days + split.validation.days + split.holdout.days + 2 * split.gap_days == span
    assert min(split.gap_days, split.validation.days, split.holdout.days) >= 1
    assert split.train.days > split.validation.days


def test_too_short_a_span_is_refused_with_both_numbers() -> None:
    with pytest.raises(ValueError, match=f"spans 13 days.*{MIN_DAYS}"):
        split_by_time(*days(13), **ASKED)


def test_a_placed_holdout_starts_on_its_day_and_the_parts_before_it_keep_their_lengths() -> None:
    split = split_by_time(*days(150), **ASKED, holdout_first_us=18_120 * US_PER_DAY)
    assert (split.holdout.first_us, split.holdout.end_us) == (18_120 * US_PER_DAY, 18_134 * US_PER_DAY)
    assert split.validation.end_us == 18_113 * US_PER_DAY
    assert (split.train.days, split.validation.days, split.shrunk) == (60, 14, False)


def test_a_placed_holdout_ends_with_the_data_and_stays_when_the_parts_before_it_shrink() -> None:
    split = split_by_time(*days(60), **ASKED, holdout_first_us=18_051 * US_PER_DAY)
    assert (split.holdout.first_us, split.holdout.days) == (18_051 * US_PER_DAY, 9)
    # 51 days for 60 + 7 + 14 + 7: the gap is 7 * 51 // 88 = 4, validation 14 * 51 // 88 = 8, train what is left.
    assert (split.gap_days, split.validation.days, split.train.days, split.shrunk) == (4, 8, 35, True)
    assert split.train.first_us == 18_000 * US_PER_DAY


@pytest.mark.parametrize(
    ("day", "message"),
    [(18_000, "outside the 60 days"), (18_060, "outside the 60 days"), (18_003, "leave none to train on")],
    ids=["first-day", "after-the-data", "too-early"],
)
def test_a_holdout_placed_where_a_part_would_be_empty_is_refused(day: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_by_time(*days(60), **ASKED, holdout_first_us=day * US_PER_DAY)
