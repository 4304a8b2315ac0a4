"""How results look on a terminal."""

from datetime import timedelta

import pytest

from fraud import printing


def test_counts_are_written_out_and_small_numbers_keep_their_digits() -> None:
    assert printing.figure(20828.0) == "20,828"
    assert printing.figure(20828) == "20,828"
    assert printing.figure(0.93812) == "0.938"
    assert printing.figure(1234.5) == "1,234.5"
    assert printing.figure(0.00002) == "2.0e-05"
    assert printing.interval([0.9, 0.85, 0.95]) == "0.900 (0.850 to 0.950)"


def test_plain_values_are_aligned() -> None:
    assert printing.values({"rows": 20828, "version": "3", "replaced": None, "changed": True}) == (
        "rows      20,828\nversion   3\nreplaced  -\nchanged   yes"
    )


def test_rows_are_a_table_with_numbers_to_the_right() -> None:
    days = [{"day": "2026-01-01", "rows": 9}, {"day": "2026-01-02", "rows": 1200, "note": "late"}]
    assert printing.values({"days": days, "total": 1209}) == (
        "days\n  day          rows  note\n  2026-01-01      9  -\n  2026-01-02  1,200  late\ntotal  1,209"
    )


def test_named_parts_are_lines_or_a_table() -> None:
    assert printing.values({"skipped": {"no label": 3, "late": 12}}) == "skipped\n  no label  3\n  late      12"
    assert printing.values({"by": {"a": {"low": 1, "high": 2}, "b": {"low": 10, "high": 20}}}) == (
        "by\n     low  high\n  a    1     2\n  b   10    20"
    )


def test_a_long_list_shows_its_ends_and_its_length() -> None:
    assert printing.values({"days": [f"2026-01-0{n}" for n in range(1, 8)]}) == "days  2026-01-01 .. 2026-01-07 (7)"
    assert printing.values({"days": ["2026-01-01", "2026-01-02"], "none": []}) == (
        "days  2026-01-01, 2026-01-02\nnone  -"
    )


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (-3, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3_599, "59 min"),
        (3_600, "1 h"),
        (172_799, "47 h"),
        (172_800, "2 d"),
    ],
)
def test_a_duration_has_its_largest_unit(seconds: float, expected: str) -> None:
    assert printing.duration(timedelta(seconds=seconds)) == expected
