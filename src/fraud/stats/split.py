"""Split by time into train, gap, validation, gap, holdout. A gap is a label delay."""

from typing import Final, NamedTuple

from fraud.core.contract import US_PER_DAY

MIN_DAYS: Final = 14
"""Least number of days for a split. With fewer, a part would be shorter than the daily cycle of fraud."""


class Part(NamedTuple):
    """[first_us, end_us), whole days UTC."""

    first_us: int
    end_us: int

    @property
    def days(self) -> int:
        return (self.end_us - self.first_us) // US_PER_DAY


class Split(NamedTuple):
    """The three parts. `shrunk`: the data was shorter than the requested split."""

    train: Part
    validation: Part
    holdout: Part
    gap_days: int
    shrunk: bool


def split_by_time(
    first_us: int,
    last_us: int,
    *,
    train_days: int,
    gap_days: int,
    validation_days: int,
    holdout_days: int,
    holdout_first_us: int | None = None,
) -> Split:
    """Parts that end with the day of `last_us`, never earlier than the day of `first_us` (event times, us).

    With `holdout_first_us` the holdout starts on that day and ends `holdout_days` later, or with the data. When the
    span is shorter than requested, validation, gap and a holdout that was not placed shrink in proportion, and train
    takes the rest. Raises ValueError below MIN_DAYS, and for a holdout placed where it or train would be empty.
    """
    first_day, end_day = first_us // US_PER_DAY, last_us // US_PER_DAY + 1
    placed = holdout_first_us is not None
    if holdout_first_us is not None:
        holdout_day = holdout_first_us // US_PER_DAY
        if not first_day < holdout_day < end_day:
            raise ValueError(f"the holdout would begin outside the {end_day - first_day} days of the data")
        end_day = min(end_day, holdout_day + holdout_days)
        holdout_days = end_day - holdout_day
    span, requested = end_day - first_day, train_days + validation_days + holdout_days + 2 * gap_days
    if span < MIN_DAYS:
        raise ValueError(f"the data spans {span} days, a split by time needs at least {MIN_DAYS}")
    shrunk = span < requested
    if shrunk:
        fixed = holdout_days if placed else 0
        available, flexible = span - fixed, requested - fixed
        gap_days, validation_days = (
            max(least, days * available // flexible)
            for days, least in ((gap_days, min(1, gap_days)), (validation_days, 1))
        )
        holdout_days = holdout_days if placed else max(1, holdout_days * available // flexible)
        train_days = span - validation_days - holdout_days - 2 * gap_days
        if train_days < 1:
            raise ValueError(f"{available} days before the holdout leave none to train on")
    ends = [end_day]
    for days in (holdout_days, gap_days, validation_days, gap_days, train_days):
        ends.append(ends[-1] - days)
    holdout, validation, train = (Part(ends[i + 1] * US_PER_DAY, ends[i] * US_PER_DAY) for i in (0, 2, 4))
    return Split(train, validation, holdout, gap_days, shrunk)
