"""Where this Airflow finds the jobs, the reports and the other services. Read from the environment, here alone."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

# What a job may see. Airflow's own variables carry its database and its signing keys: no job needs them.
PASSED_NAMES = frozenset({"PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR", "JAVA_HOME", "SSL_CERT_FILE"})
PASSED_PREFIXES = ("FRAUD_", "MLFLOW_", "AWS_", "LC_", "SPARK_", "WANDB_")


def _uri_of(path: Path) -> str:
    """As `fraud.uris.uri_of`, which this environment does not have: not percent-encoded, fsspec does not decode it."""
    return f"file://{path}"


@dataclass(frozen=True, slots=True)
class JobEnvironment:
    """`command` is the ML environment's `fraud`; URLs are as a browser reaches them, "" where there is none."""

    project: Path
    command: Path
    reports_uri: str
    mlflow_url: str
    grafana_url: str
    approval: bool
    retraining_cool_down_hours: float
    job_environment: Mapping[str, str]

    @classmethod
    def read(cls) -> Self:
        """From the environment of the Airflow component. Defaults suit a checkout."""
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
            job_environment={
                name: value for name, value in env.items() if name in PASSED_NAMES or name.startswith(PASSED_PREFIXES)
            },
        )
