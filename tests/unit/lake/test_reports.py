"""A report's two files."""

from pathlib import Path

from fraud.lake import reports
from fraud.monitoring import skew_report


def test_a_record_is_read_back_and_is_the_same_bytes_whatever_the_order_of_its_keys(tmp_path: Path) -> None:
    folder = f"file://{tmp_path}/skew/2026-03-09"
    assert reports.read(folder, "skew") is None
    reports.write(folder, "skew", "<p>page</p>", {"b": 1, "a": [0.1, None]})
    first = (tmp_path / "skew/2026-03-09/skew.json").read_bytes()
    assert reports.read(folder, "skew") == {"a": [0.1, None], "b": 1}
    assert (tmp_path / "skew/2026-03-09/skew.html").read_text() == "<p>page</p>"
    reports.write(folder, "skew", "<p>page</p>", {"a": [0.1, None], "b": 1})
    assert (tmp_path / "skew/2026-03-09/skew.json").read_bytes() == first


def test_what_callers_sent_is_text_on_the_page_not_markup() -> None:
    feature = {"equal": 1, "mismatch": 1, "missing": 0, "extra": 0, "worst": 0.0, "examples": ["p1: <script>"]}
    page = skew_report.page(
        {
            "day": "2026-03-09", "verdict": "skew", "records": 2, "compared": 2, "not_landed": 0, "contradicted": 0,
            "events_lost": 0,
            "features": {"merchant_category": feature}, "skipped": {},
            "probabilities": {"checked": 2, "wrong": 0, "unchecked": 0, "worst": 0.0},
        }
    )  # fmt: skip
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_reports_much_older_than_the_newest_are_removed(tmp_path: Path) -> None:
    for day in ("2024-12-31", "2025-01-01", "2025-01-02", "2025-01-31"):
        reports.write(f"file://{tmp_path}/drift/{day}", "drift", "<p>page</p>", {"day": day})
    assert reports.expire(f"file://{tmp_path}/drift", 30) == ["2024-12-31"]
    assert sorted(path.name for path in (tmp_path / "drift").iterdir()) == ["2025-01-01", "2025-01-02", "2025-01-31"]
    assert reports.expire(f"file://{tmp_path}/drift", 30) == []
