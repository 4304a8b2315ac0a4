"""Settings of one installation, read once from `FRAUD_*` environment variables into a frozen model.

Settings differ between a laptop, the embedded stack and a deployment. Parameters of the model are in params.yaml
(`fraud.params`). MLflow and boto3 read their own variables (MLFLOW_TRACKING_USERNAME, AWS_...).
"""

import getpass
import os
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from fraud.errors import BadConfigError
from fraud.uris import sqlite_url, uri_of

NO_STORE = "none"
"""Value of FRAUD_REDIS_URL of an installation without an online store."""


class Settings(BaseSettings):
    """URIs are `file://` followed by the absolute path, not percent-encoded (`fraud.uris`), or `s3://bucket/prefix`."""

    model_config = SettingsConfigDict(env_prefix="FRAUD_", frozen=True, extra="forbid")

    home: Path = Field(default=Path("var"), description="folder of everything that the embedded stack writes")
    project: Path = Field(default=Path(), description="the checkout: params.yaml, feature_repo/, mappings/")
    landing_uri: str = Field(default="", description="landing zone: files that wait for ingest; default <home>/landing")
    lake_uri: str = Field(default="", description="the lake: one Delta table per dataset; default <home>/lake")
    reports_uri: str = Field(default="", description="HTML reports; default <home>/reports")
    report_days: int = Field(
        default=400, ge=1, description="retention of drift, concept and skew reports, in days before the newest"
    )
    job_runs_uri: str = Field(default="", description="record of the last run of each job; default <home>/job_runs")
    prediction_log: Path = Field(
        default=Path(), description="folder of serving's log segments; default <home>/predictions"
    )
    prediction_retention_days: int = Field(
        default=400, ge=1, description="retention of the prediction log, in the lake and in serving's segments"
    )
    transaction_days: int = Field(
        default=800, ge=1, description="retention of features and labels, in days before the newest day"
    )
    version_days: int = Field(
        default=180,
        ge=1,
        description="retention of versions that were never in production, and of their runs and data",
    )
    landing_days: int = Field(
        default=180, ge=1, description="retention of ingested landing files and of quarantined rows"
    )
    history_days: int = Field(
        default=7,
        ge=1,
        le=30,
        description="days that replaced versions of the lake's tables can be read (--as-of-version)",
    )
    redis_url: SecretStr = Field(
        default=SecretStr("redis://127.0.0.1:6379/0"),
        description="online store; redis+cluster://: a cluster, rediss: TLS (docs/scale.md); `none`: no online store",
    )
    kafka_brokers: str = Field(
        default="", description="Kafka brokers, host:port,host:port, of the topics that jobs read; empty: none"
    )
    kafka_sasl_mechanism: Literal["", "SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"] = Field(
        default="", description="how to log in to the brokers; empty: without a login"
    )
    kafka_sasl_username: str = Field(default="", description="user of the brokers")
    kafka_sasl_password: SecretStr = Field(default=SecretStr(""), description="password of the user")
    kafka_tls: bool = Field(default=False, description="encrypt connections to the brokers with TLS")
    kafka_tls_ca: str = Field(default="", description="file of CA certificates of the brokers; default: the system's")
    dvc_remote: str = Field(default="", description="DVC remote for snapshots and models; default <home>/dvc")
    wandb_project: str = Field(
        default="", description="Weights & Biases project that receives a copy of each training's figures; empty: none"
    )
    repository: str = Field(
        default="", description="Git repository with the commits of all versions; default the project"
    )
    git_tags: bool = Field(default=False, description="tag a promoted version's commit model-v<N> in the project")
    mlflow_url: str = Field(
        default="http://127.0.0.1:5000", description="tracking server and registry; sqlite:///FILE needs no server"
    )
    control_db: SecretStr = Field(default=SecretStr(""), description="SQLAlchemy URL of the promotion history")
    feast_registry: SecretStr = Field(default=SecretStr(""), description="SQLAlchemy URL of Feast's registry")
    airflow_url: str = Field(
        default="", description="Airflow whose health is exported as metrics and shown by fraud status; empty: none"
    )
    airflow_username: str = Field(
        default="", description="user of Airflow's API, for the failed DAG runs in fraud status; empty: none are read"
    )
    airflow_password: SecretStr = Field(default=SecretStr(""), description="password of that user")
    airflow_token: SecretStr = Field(
        default=SecretStr(""), description="token of Airflow's API, instead of user and password"
    )
    serving_url: str = Field(default="", description="serving, for fraud status; empty: it is not asked")
    prometheus_url: str = Field(default="", description="Prometheus, for fraud status; empty: it is not asked")
    alertmanager_url: str = Field(default="", description="Alertmanager, for fraud status; empty: it is not asked")
    docs_url: str = Field(
        default="", description="URL of docs/ in a browser, AIRFLOW/fraud/docs; alerts link to its runbooks"
    )
    spark_master: str = Field(default="local[*]", description="Spark master: a cluster, or local threads")
    spark_workers: Literal["archive", "image"] = Field(
        default="archive",
        description="source of the code and packages of a cluster's workers: archives from the job, or its image",
    )
    feature_engine: Literal["one-machine", "spark"] = Field(
        default="one-machine",
        description="engine of build-daily and build-features: this process, or spark (FRAUD_SPARK_MASTER)",
    )
    actor: str = Field(default="", description="name that is recorded for approvals; default the login name")
    approval: Literal["", "required"] = Field(
        default="",
        description="`required`: a person decides about each promotion; nightly and Airflow leave it to them",
    )
    retraining_cool_down_hours: float = Field(
        default=24.0, ge=0, description="minimum time between two requests for retraining by the monitors"
    )

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
        """The features of a day must be kept at least as long as its answers, because replay reads them."""
        if self.transaction_days < self.prediction_retention_days:
            raise ValueError(
                f"transaction_days ({self.transaction_days}) must not be below prediction_retention_days "
                f"({self.prediction_retention_days}): an answer is replayed from its day's features"
            )
        return self

    @property
    def has_online_store(self) -> bool:
        """Whether the installation has an online store."""
        return self.redis_url.get_secret_value() != NO_STORE

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
    """The login name; `uid N` for a user without a name, as in a container with an arbitrary user id."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
