"""Configuration of the plugin: the `fraud` command, the reports, the other services. Read from the environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

# Variables that are passed to a job. Airflow's own hold its database address and signing keys and are not passed.
PASSED_NAMES = frozenset({"PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR", "JAVA_HOME", "SSL_CERT_FILE"})
PASSED_PREFIXES = ("FRAUD_", "MLFLOW_", "AWS_", "LC_", "SPARK_", "WANDB_")


def _uri_of(path: Path) -> str:
    """Same as `fraud.uris.uri_of`, not installed here. Not percent-encoded, because fsspec does not decode."""
    return f"file://{path}"


@dataclass(frozen=True, slots=True)
class JobEnvironment:
    """`command` is the ML environment's `fraud`. URLs are those a browser uses, "" for a service that is absent.

    `variables` are the environment variables that a job gets.
    """

    project: Path
    command: Path
    reports_uri: str
    mlflow_url: str
    grafana_url: str
    approval: bool
    retraining_cool_down_hours: float
    variables: Mapping[str, str]

    @classmethod
    def read(cls) -> Self:
        """Read the environment of the Airflow component. The defaults fit a checkout."""
        env = os.environ
        project = Path(env.get("FRAUD_PROJECT") or Path(__file__).resolve().parents[2]).resolve()
        home = Path(env.get("FRAUD_HOME") or project / "var").resolve()
        return cls(
            project=project,
            command=Path(env.get("FRAUD_COMMAND") or project / ".venv/ml/bin/fraud"),
            reports_uri=env.get("FRAUD_REPORTS_URI") or _uri_of(home / "reports"),
            mlflow_url=env.get("FRAUD_MLFLOW_PUBLIC_URL") or env.get("FRAUD_MLFLOW_URL", ""),
            grafana_url=env.get("FRAUD_GRAFANA_URL", ""),
            approval=env.get("FRAUD_APPROVAL", "") == "required",
            retraining_cool_down_hours=float(env.get("FRAUD_RETRAINING_COOL_DOWN_HOURS") or 24),
            variables={
                name: value for name, value in env.items() if name in PASSED_NAMES or name.startswith(PASSED_PREFIXES)
            },
        )
