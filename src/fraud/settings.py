"""Where things are: read once from `FRAUD_*` environment variables into a frozen model.

What the model should be is in params.yaml (`fraud.params`); this is only what differs between a laptop, the embedded
stack and a deployment. MLflow's and boto3's own variables (MLFLOW_TRACKING_USERNAME, AWS_...) stay theirs.
"""

import getpass
import os
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from fraud.errors import BadConfigError
from fraud.uris import sqlite_url, uri_of


class Settings(BaseSettings):
    """All of it. URIs are `file://` and the absolute path as it is (`fraud.uris`), or `s3://bucket/prefix`."""

    model_config = SettingsConfigDict(env_prefix="FRAUD_", frozen=True, extra="forbid")

    home: Path = Field(default=Path("var"), description="where the embedded stack keeps everything it writes")
    project: Path = Field(default=Path(), description="the checkout: params.yaml, feature_repo/, mappings/")
    landing_uri: str = Field(default="", description="contract-shaped files that wait for ingest; <home>/landing")
    lake_uri: str = Field(default="", description="partitions with manifests; default <home>/lake")
    reports_uri: str = Field(default="", description="HTML reports; default <home>/reports")
    report_days: int = Field(
        default=400, ge=1, description="drift, concept and skew reports this much older than the newest are removed"
    )
    job_runs_uri: str = Field(default="", description="what each job's last run did; default <home>/job_runs")
    prediction_log: Path = Field(default=Path(), description="serving's segments, before shipping; <home>/predictions")
    prediction_retention_days: int = Field(
        default=400, ge=1, description="answers older than this leave the lake and serving's segments"
    )
    transaction_days: int = Field(
        default=800, ge=1, description="features and labels this much older than the newest day leave the lake"
    )
    version_days: int = Field(
        default=180,
        ge=1,
        description="versions that never were Production, and their runs and data, are kept this long",
    )
    landing_days: int = Field(
        default=180, ge=1, description="landed files that were taken in, and quarantined rows, are kept this long"
    )
    redis_url: SecretStr = Field(default=SecretStr("redis://127.0.0.1:6379/0"), description="online store")
    dvc_remote: str = Field(default="", description="snapshots and models by hash, for DVC; default <home>/dvc")
    wandb_project: str = Field(default="", description="Weights & Biases project that mirrors trainings; empty: none")
    repository: str = Field(default="", description="Git repository that holds every commit; default the project")
    git_tags: bool = Field(default=False, description="tag a promoted version's commit model-v<N> in the project")
    mlflow_url: str = Field(
        default="http://127.0.0.1:5000", description="tracking server and registry; sqlite:///FILE needs no server"
    )
    control_db: SecretStr = Field(default=SecretStr(""), description="SQLAlchemy URL of the promotion history")
    feast_registry: SecretStr = Field(default=SecretStr(""), description="SQLAlchemy URL of Feast's registry")
    airflow_url: str = Field(default="", description="whose health is watched; empty: nobody asks")
    docs_url: str = Field(
        default="", description="where docs/ is read in a browser, AIRFLOW/fraud/docs; alerts link to its runbooks"
    )
    spark_master: str = Field(default="local[*]", description="cluster or local threads for Spark jobs")
    feature_engine: Literal["one-machine", "spark"] = Field(
        default="one-machine", description="what build-features runs on: this machine, or spark (FRAUD_SPARK_MASTER)"
    )
    actor: str = Field(default="", description="who is recorded for approvals; default the login name")

    @model_validator(mode="before")
    @classmethod
    def _defaults_below_home(cls, values: dict[str, object]) -> dict[str, object]:
        home = Path(str(values.get("home") or "var")).resolve()
        project = Path(str(values.get("project") or ".")).resolve()
        defaults: dict[str, object] = {
            "landing_uri": uri_of(home / "landing"),
            "lake_uri": uri_of(home / "lake"),
            "reports_uri": uri_of(home / "reports"),
            "job_runs_uri": uri_of(home / "job_runs"),
            "dvc_remote": uri_of(home / "dvc"),
            "prediction_log": home / "predictions",
            "control_db": sqlite_url(home / "control.db"),
            "feast_registry": sqlite_url(home / "feast.db"),
            "actor": _login_name(),
        }
        given = {key: value for key, value in values.items() if value not in ("", None)}
        return {**defaults, **given, "home": home, "project": project}

    @model_validator(mode="after")
    def _answers_can_be_replayed(self) -> Self:
        """An answer is explained from the features of its day; they may not go before it."""
        if self.transaction_days < self.prediction_retention_days:
            raise ValueError(
                f"transaction_days ({self.transaction_days}) must not be below prediction_retention_days "
                f"({self.prediction_retention_days}): an answer is replayed from its day's features"
            )
        return self

    @classmethod
    def load(cls) -> Self:
        """Read the environment. Raises BadConfigError naming the variable."""
        try:
            return cls()
        except ValidationError as error:
            first = error.errors()[0]
            name = "FRAUD_" + "_".join(str(part) for part in first["loc"]).upper()
            raise BadConfigError(f"{name} is wrong", expected=first["msg"], got=repr(first.get("input"))) from error


def _login_name() -> str:
    """The login name; the user id where it has none, as in a container that runs under an arbitrary one."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
