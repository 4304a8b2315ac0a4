"""What the demo ends with: figures of every step, as the tasks returned them, and how to get in."""

from collections.abc import Mapping, Sequence
from typing import Any

from fraud.embedded import prometheus
from fraud.embedded.airflow import ADMIN
from fraud.embedded.airflow_api import AirflowApi
from fraud.embedded.stack import Stack

Row = Sequence[object]


def _table(rows: Sequence[Row]) -> list[str]:
    """Columns aligned: text to the left, numbers to the right."""
    texts = [[f"{c:,.4g}" if isinstance(c, float) else f"{c:,}" if _is_int(c) else str(c) for c in r] for r in rows]
    widths = [max(len(row[i]) for row in texts) for i in range(len(texts[0]))] if texts else []
    return [
        "  "
        + "  ".join(
            text.rjust(width) if _is_int(cell) or isinstance(cell, float) else text.ljust(width)
            for cell, text, width in zip(row, texts_of_row, widths, strict=True)
        ).rstrip()
        for row, texts_of_row in zip(rows, texts, strict=True)
    ]


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _facts(title: str, values: Mapping[str, Any] | None) -> list[str]:
    if not values:
        return ["", title, "  did not run"]
    plain = [(name, value) for name, value in values.items() if not isinstance(value, list | dict)]
    return ["", title, *_table(plain)]


def _records(title: str, records: Sequence[Mapping[str, Any]]) -> list[str]:
    if not records:
        return ["", title, "  none"]
    names = list(records[0])
    return ["", title, *_table([names, *[[record[name] for name in names] for record in records]])]


def summary(
    stack: Stack, api: AirflowApi, landed: Mapping[str, Any], traffic: Mapping[str, Any], seconds: float
) -> str:
    """The whole page as text."""
    trained = api.last_result("train_fraud_model", "train") or {}
    lines = [
        "", "=" * 100, f"The main job ran end to end in {seconds:.0f} s",
        *_facts("landed", landed),
        *_facts("transactions", api.last_result("ingest_transactions", "ingest")),
        *_facts("labels", api.last_result("ingest_transactions", "ingest_labels")),
        *_facts("features", api.last_result("build_features", "build_features")),
        *_records("ladder", trained.get("levels", [])),
        *_records("gates", trained.get("gates", [])),
        *_facts("promoted", api.last_result("promote_model", "promote")),
        *_facts("scores", api.last_result("score_nightly", "score")),
        *_facts("checkout traffic", traffic),
        *_facts("drift", api.last_result("monitor_drift", "drift")),
        *_facts("skew", api.last_result("monitor_skew", "skew")),
        "", "where", *_table(_places(stack)),
        f"  fraud on this stack, by hand: set -a; . {stack.home / 'stack.env'}; set +a; .venv/ml/bin/fraud history",
        "=" * 100,
    ]  # fmt: skip
    return "\n".join(lines)


def _places(stack: Stack) -> list[Row]:
    rows: list[Row] = [
        ("Airflow", stack.url("airflow"), f"{ADMIN} / {stack.secret['AIRFLOW_ADMIN_PASSWORD']}"),
        ("MLflow", stack.url("mlflow"), f"admin / {stack.secret['MLFLOW_ADMIN_PASSWORD']}"),
        ("serving", f"{stack.url('serving')}/docs", "open: this stack asks callers for no key"),
        ("reports", f"{stack.url('airflow')}/fraud/reports/", "Airflow's login"),
    ]
    if prometheus.binary():
        rows.append(("Prometheus", stack.url("prometheus"), "open, this machine only"))
    return rows
