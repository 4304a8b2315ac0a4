"""The drift page through the real Evidently: every kind of column that can be compared, alone and together."""

import re
from typing import Any

import numpy as np
import pytest

from fraud.monitoring.drift_report import Columns, page
from fraud.stats.psi import column_drift

RNG = np.random.default_rng(5)
KINDS = RNG.choice(["grocery", "travel"], 1_500).astype(object)
REFERENCE: Columns = {
    "amount": RNG.lognormal(3, 1, 1_500), "constant": np.full(1_500, 5.0), "moved": np.full(1_500, 5.0),
    "half_null": np.where(np.arange(1_500) % 3 == 0, np.nan, RNG.normal(size=1_500)),
    "flag": (RNG.random(1_500) < 0.01) * 1.0, "category": KINDS, "one_category": np.full(1_500, "travel", dtype=object),
}  # fmt: skip
CURRENT: Columns = {
    "amount": RNG.lognormal(3, 1, 1_100), "constant": np.full(1_100, 5.0), "moved": np.full(1_100, 4.0),
    "half_null": np.where(np.arange(1_100) % 20 == 0, np.nan, RNG.normal(size=1_100)), "flag": np.zeros(1_100),
    "category": np.where(np.arange(1_100) % 4 == 0, "crypto", KINDS[:1_100]), "one_category": KINDS[:1_100],
}  # fmt: skip
CATEGORICAL = ("category", "one_category")


def record(**changed: object) -> dict[str, Any]:
    unmeasured = {
        "kind": "number", "entity": "transaction", "unknown": None, "psi": None, "drifted": False,
        "missing": {"reference": None, "current": 1.0, "psi": None},
        "newest_day_psi": None, "notes": ["no values in the reference", "not in the reference: <b>"],
    }  # fmt: skip
    return {
        "day": "2026-03-09", "days": ["2026-03-03", "2026-03-09"], "model_version": "4", "rows": 12,
        "reference_rows": 0, "features": {"distance_from_home": unmeasured}, "jumped_features": [],
        "drifted_features": [], "prediction": {"psi": None, "drifted": False, "notes": []}, "retrain": False,
        "verdict": "unknown", "reason": "12 rows in the current window, fewer than 1,000",
        "thresholds": {"psi": 0.05, "newest_day_psi": 0.1, "drifted_share": 0.3, "rows": 1_000}, **changed,
    }  # fmt: skip


@pytest.mark.parametrize("columns", [tuple(REFERENCE), *((name,) for name in REFERENCE)], ids="+".join)
def test_evidently_shows_the_statistic_that_the_record_has(columns: tuple[str, ...]) -> None:
    found = {name: column_drift(REFERENCE[name], CURRENT[name]).psi for name in columns}
    html = page(record(), *({name: c[name] for name in columns} for c in (REFERENCE, CURRENT)), CATEGORICAL)
    scores = [float(score) for score in re.findall(r'"drift_score": ([-0-9.e]+)', html)]
    assert len(scores) == len(columns)
    assert sorted(scores) == pytest.approx(sorted(value for value in found.values() if value is not None), abs=1e-6)


def test_without_any_column_to_compare_the_page_is_the_table_alone() -> None:
    html = page(record(), {}, {}, CATEGORICAL)
    assert len(html) < 10_000
    assert "12 rows in the current window, fewer than 1,000." in html
    assert "no values in the reference; not in the reference: &lt;b&gt;" in html
    assert "<script" not in html
