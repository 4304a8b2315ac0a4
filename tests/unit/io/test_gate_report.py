"""Figures as a person reads them."""

import pytest

from fraud.io.gate_report import figure


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (5000, "5,000"), (0.12345, "0.123"), (28.74, "28.7"), (8.5e-7, "8.5e-07"), (-17.2, "-17.2"),
     (float("nan"), "none"), (float("inf"), "none"), (1234.56, "1,234.6")],
)  # fmt: skip
def test_a_figure_shows_the_digits_that_count(value: float, text: str) -> None:
    assert figure(value) == text
