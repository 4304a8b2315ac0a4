"""The content of the version page: the deployed commit, package versions and service addresses."""

import subprocess
from importlib.metadata import version

from fraud_airflow.job_environment import JobEnvironment


def git_commit() -> str:
    """The commit of the checkout, or of the image's build; "unknown" outside of both."""
    project = JobEnvironment.read().project
    stamp = project / "COMMIT"
    if stamp.is_file():
        return stamp.read_text().strip()
    described = subprocess.run(
        ["git", "-C", str(project), "describe", "--always", "--dirty", "--abbrev=12"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return described.stdout.strip() or "unknown"


def platform_version() -> dict[str, str]:
    """Names and values for the version page."""
    environment = JobEnvironment.read()
    return {
        "commit": git_commit(),
        "Airflow": version("apache-airflow-core"),
        "standard provider": version("apache-airflow-providers-standard"),
        "MLflow": environment.mlflow_url or "not configured",
        "Grafana": environment.grafana_url or "not configured",
        "reports": environment.reports_uri,
    }
