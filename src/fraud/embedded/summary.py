"""The summary that the demo prints: the results of every step's task, and the addresses and logins of the services."""

from collections.abc import Mapping, Sequence
from typing import Any

from fraud.embedded.servers import alertmanager, prometheus
from fraud.embedded.servers.airflow import ADMIN
from fraud.embedded.servers.airflow_api import AirflowApi
from fraud.embedded.stack import Stack

Row = Sequence[object]


def _text(cell: object) -> str:
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 10_000 else f"{cell:,.4g}"
    text = f"{cell:,}" if _is_int(cell) else str(cell)
    return f"{text[:12]}..." if len(text) == 64 else text


def _table(rows: Sequence[Row]) -> list[str]:
    """Aligned columns: text to the left, numbers to the right."""
    texts = [[_text(cell) for cell in row] for row in rows]
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
    plain = {name: _text(value) for name, value in values.items() if not isinstance(value, list | dict)}
    width = max(len(name) for name in plain)
    return ["", title, *(f"  {name:<{width}}  {text}" for name, text in plain.items())]


def _summed(results: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The sum of each count over several runs."""
    names = [name for name, value in results[0].items() if _is_int(value)] if results else []
    return {name: sum(result[name] for result in results) for name in names}


def _newest(results: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    return results[0] if results else None


def _records(title: str, records: Sequence[Mapping[str, Any]]) -> list[str]:
    if not records:
        return ["", title, "  none"]
    names = list(records[0])
    return ["", title, *_table([names, *[[record[name] for name in names] for record in records]])]


def summary(
    stack: Stack, api: AirflowApi, landed: Mapping[str, Any], traffic: Mapping[str, Any], seconds: float
) -> str:
    """The summary as text. `landed` and `traffic` are the results of those jobs."""
    trained = _newest(api.results("train_fraud_model", "train")) or {}
    lines = [
        "", "=" * 100, f"The main job ran end to end in {seconds:.0f} s",
        *_facts("landed", landed),
        *_facts("transactions, all runs", _summed(api.results("ingest_transactions", "ingest"))),
        *_facts("labels, all runs", _summed(api.results("ingest_transactions", "ingest_labels"))),
        *_facts("features", _newest(api.results("build_features", "build_features"))),
        *_records("ladder", trained.get("levels", [])),
        *_records("gates", trained.get("gates", [])),
        *_facts("promoted", _newest(api.results("promote_model", "promote"))),
        *_facts("scores", _newest(api.results("score_nightly", "score"))),
        *_facts("checkout traffic, through the Kafka topic" if stack.stream else "checkout traffic", traffic),
        *_facts("drift", _newest(api.results("monitor_drift", "drift"))),
        *_facts("skew", _newest(api.results("monitor_skew", "skew"))),
        "", "services", *_table(_addresses(stack)),
        f"  fraud from a shell: set -a; . {stack.home / 'stack.env'}; set +a; .venv/ml/bin/fraud history",
        "=" * 100,
    ]  # fmt: skip
    return "\n".join(lines)


def _addresses(stack: Stack) -> list[Row]:
    rows: list[Row] = [
        ("Airflow", stack.url("airflow"), f"{ADMIN} / {stack.secret['AIRFLOW_ADMIN_PASSWORD']}"),
        ("MLflow", stack.url("mlflow"), f"admin / {stack.secret['MLFLOW_ADMIN_PASSWORD']}"),
        ("serving", f"{stack.url('serving')}/docs", "no key required in this stack"),
        ("reports", f"{stack.url('airflow')}/fraud/reports/", "login of Airflow"),
    ]
    if stack.stream:
        rows.append(("Kafka", f"127.0.0.1:{stack.ports['kafka']}", "no login, this machine only"))
    rows.append(("runbooks", f"{stack.url('airflow')}/fraud/docs/runbooks/README.md", "login of Airflow"))
    monitoring = (("Prometheus", prometheus), ("Alertmanager", alertmanager))
    return rows + [
        (name, server.page(stack), "no login, this machine only") for name, server in monitoring if server.binary()
    ]
