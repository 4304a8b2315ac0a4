"""Extensions of Airflow's user interface: menu entries for pages at /fraud, the registry and Grafana."""

from typing import Any, ClassVar

from airflow.plugins_manager import AirflowPlugin

from fraud_airflow.job_environment import JobEnvironment
from fraud_airflow.pages import app

_ENVIRONMENT = JobEnvironment.read()


def _view(name: str, href: str, route: str) -> dict[str, Any]:
    return {"name": name, "href": href, "url_route": route, "destination": "nav", "category": "browse"}


def _link(name: str, href: str) -> dict[str, Any]:
    """A menu entry that leaves Airflow: these services do not allow framing."""
    return {"name": name, "href": href, "destination": "nav", "category": "browse"}


class FraudPlugin(AirflowPlugin):
    """The plugin that Airflow loads."""

    name = "fraud"
    fastapi_apps: ClassVar[list[Any]] = [{"app": app, "url_prefix": "/fraud", "name": "fraud"}]
    external_views: ClassVar[list[Any]] = [
        _view("Status", "/fraud/status", "fraud-status"),
        _view("Reports", "/fraud/reports/", "fraud-reports"),
        _view("Runbooks", "/fraud/docs/runbooks/README.md", "fraud-runbooks"),
        _view("Platform version", "/fraud/version", "fraud-version"),
        *(
            [_link("Model registry", f"{_ENVIRONMENT.mlflow_url}/#/models/fraud-detector")]
            if _ENVIRONMENT.mlflow_url
            else []
        ),
        *([_link("Grafana", _ENVIRONMENT.grafana_url)] if _ENVIRONMENT.grafana_url else []),
    ]
