"""How days are named on the command line."""

import datetime as dt

import pytest
from pydantic import ValidationError

from fraud.jobs.score import Config


def test_one_day_or_a_span_or_neither() -> None:
    assert Config.model_validate({"date": "2026-03-01"}).date == dt.date(2026, 3, 1)
    span = Config.model_validate({"from": "2026-03-01", "to": "2026-03-03"})
    assert (span.first, span.last) == (dt.date(2026, 3, 1), dt.date(2026, 3, 3))
    assert Config().date is None


@pytest.mark.parametrize(
    "flags",
    [
        {"from": "2026-03-01"},
        {"to": "2026-03-01"},
        {"date": "2026-03-01", "from": "2026-03-01", "to": "2026-03-02"},
        {"from": "2026-03-02", "to": "2026-03-01"},
        {"date": "yesterday"},
        {"days": 3},
    ],
)
def test_contradictions_are_refused(flags: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Config.model_validate(flags)
