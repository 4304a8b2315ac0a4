"""Gates as a task's log shows them."""

from fraud_airflow.gates import figure, gate_lines

PASSED = {
    "name": "holdout_rows", "value": 20828.0, "asked": "at least", "threshold": 5000.0, "passed": True,
    "why": "a small holdout proves nothing", "detail": "",
}  # fmt: skip
FAILED = {
    "name": "auc", "value": 0.5512, "asked": "at least", "threshold": 0.7, "passed": False, "why": "useful by itself",
    "detail": "AUC 0.585, 95% interval 0.551 to 0.618",
}  # fmt: skip


def test_failed_gates_come_first_and_counts_are_written_out() -> None:
    assert list(gate_lines([PASSED, FAILED])) == [
        "FAILED  auc: 0.5512, required at least 0.7. AUC 0.585, 95% interval 0.551 to 0.618",
        "passed  holdout_rows: 20,828, required at least 5,000. a small holdout proves nothing",
    ]


def test_figures() -> None:
    assert [figure(value) for value in (None, 0.0, 2.965e-8, 0.0021330, 12345.6, 4632.8)] == [
        "not measured", "0", "2.965e-08", "0.002133", "12,346", "4,633",
    ]  # fmt: skip
