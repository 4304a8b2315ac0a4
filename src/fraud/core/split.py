"""Train, gap, validation, gap, holdout, by time. A gap is a label delay: nothing leaks from part to part."""

from typing import Final, NamedTuple

from fraud.core.contract import US_PER_DAY

MIN_DAYS: Final = 14
"""Below this many days no split says anything: a part would be shorter than the day's own cycle of fraud."""


class Part(NamedTuple):
    """[first_us, end_us), whole days UTC."""

    first_us: int
    end_us: int

    @property
    def days(self) -> int:
        return (self.end_us - self.first_us) // US_PER_DAY


class Split(NamedTuple):
    """The three parts; `shrunk` when the data was shorter than what was asked for."""

    train: Part
    validation: Part
    holdout: Part
    gap_days: int
    shrunk: bool


def split_by_time(
    first_us: int, last_us: int, *, train_days: int, gap_days: int, validation_days: int, holdout_days: int
) -> Split:
    """Parts that end with the day of `last_us`, never earlier than the day of `first_us` (event times, us).

    When the span is shorter than asked for, validation, holdout and gap shrink in proportion and train takes the rest.
    Raises ValueError below MIN_DAYS.
    """
    first_day, end_day = first_us // US_PER_DAY, last_us // US_PER_DAY + 1
    span, asked = end_day - first_day, train_days + validation_days + holdout_days + 2 * gap_days
    if span < MIN_DAYS:
        raise ValueError(f"the data spans {span} days, a split by time needs at least {MIN_DAYS}")
    shrunk = span < asked
    if shrunk:
        gap_days, validation_days, holdout_days = (
            max(least, days * span // asked)
            for days, least in ((gap_days, min(1, gap_days)), (validation_days, 1), (holdout_days, 1))
        )
        train_days = span - validation_days - holdout_days - 2 * gap_days
    ends = [end_day]
    for days in (holdout_days, gap_days, validation_days, gap_days, train_days):
        ends.append(ends[-1] - days)
    holdout, validation, train = (Part(ends[i + 1] * US_PER_DAY, ends[i] * US_PER_DAY) for i in (0, 2, 4))
    return Split(train, validation, holdout, gap_days, shrunk)
