"""What is deployed here, for people who ask."""

import subprocess
from importlib.metadata import version

from fraud_airflow.job_environment import JobEnvironment


def git_commit() -> str:
    """Commit of the checkout, or of the image it was built from; "unknown" where neither can be told."""
    project = JobEnvironment.read().project
    stamp = project / "COMMIT"
    if stamp.is_file():
        return stamp.read_text().strip()
    requested = subprocess.run(
        ["git", "-C", str(project), "describe", "--always", "--dirty", "--abbrev=12"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return requested.stdout.strip() or "unknown"


def platform_version() -> dict[str, str]:
    """Names and values, for the version page."""
    places = JobEnvironment.read()
    return {
        "commit": git_commit(),
        "Airflow": version("apache-airflow-core"),
        "standard provider": version("apache-airflow-providers-standard"),
        "MLflow": places.mlflow_url or "not configured",
        "Grafana": places.grafana_url or "not configured",
        "reports": places.reports_uri,
    }
