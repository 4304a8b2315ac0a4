"""What differs between deployments: `SERVING_*` environment variables, read once into a frozen model.

MLflow's credentials keep MLflow's own names (MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

PREFIX: Final = "SERVING_"
_CREDENTIALS: Final = {
    "MLFLOW_TRACKING_USERNAME": "mlflow_username",
    "MLFLOW_TRACKING_PASSWORD": "mlflow_password",
}


class BadSettingError(Exception):
    """An environment variable is wrong or missing. The message names it; nothing was started."""


class Settings(BaseModel):
    """Every setting. The variable of `port` is SERVING_PORT."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field(default="127.0.0.1", description="address the public port listens on")
    port: int = Field(default=8000, ge=0, le=65535, description="public port")
    internal_port: int = Field(
        default=0, ge=0, le=65535, description="own port for /metrics; 0 serves it on the public one"
    )
    redis_url: SecretStr = Field(description="online store, redis://:password@host:port/db (rediss:// for TLS)")
    mlflow_url: str = Field(description="registry, http(s)://host:port")
    mlflow_username: str = Field(default="", description="registry user")
    mlflow_password: SecretStr = Field(default=SecretStr(""), description="registry password")
    model_name: str = Field(default="fraud-detector", description="registered model")
    model_alias: str = Field(default="production", description="alias that is followed")
    model_cache: Path = Field(description="folder of the verified local copy")
    prediction_log: Path = Field(description="folder of the prediction log's segments")
    poll_seconds: float = Field(default=5.0, gt=0, le=3600, description="how often the registry is asked")
    store_deadline_ms: float = Field(default=20.0, gt=0, le=10_000, description="longest wait for the online store")
    answer_ttl_seconds: int = Field(default=3600, ge=1, le=604_800, description="how long a retry gets its answer back")
    max_body_bytes: int = Field(default=16_384, ge=1024, description="largest body of POST /predict")
    max_batch_bytes: int = Field(default=8_388_608, ge=1024, description="largest body of POST /predict/batch")
    body_deadline_seconds: float = Field(default=5.0, gt=0, le=300, description="a body slower than this gets 408")
    client_rate: float = Field(default=0.0, ge=0, description="transactions a second that one client may send; 0: any")
    client_burst_seconds: float = Field(default=2.0, gt=0, le=3600, description="seconds of its rate it may save up")
    max_in_flight: int = Field(default=96, ge=1, description="requests at work at once; one more gets 429")
    challenger_alias: str = Field(default="", description="alias scored in shadow, as staging; empty: none")
    access_log: Literal["none", "refused", "all"] = Field(
        default="refused", description="which requests get a line on standard error"
    )
    log_queue_records: int = Field(default=100_000, ge=1000, description="answers that wait for the disk at most")
    log_segment_bytes: int = Field(default=67_108_864, ge=4096, description="a segment larger than this is closed")
    api_keys: Path | None = Field(default=None, description="file of hashed API keys; see docs/serving.md")
    open: bool = Field(default=False, description="1: answer callers without a key. For one machine's own use")

    @field_validator("redis_url")
    @classmethod
    def _redis(cls, value: SecretStr) -> SecretStr:
        if not value.get_secret_value().startswith(("redis://", "rediss://")):
            raise ValueError("must start with redis:// or rediss://")
        return value

    @field_validator("mlflow_url")
    @classmethod
    def _http(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            raise ValueError("must start with http:// or https://")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _keys_or_open(self) -> Self:
        if self.open == (self.api_keys is not None):
            raise ValueError("give either SERVING_API_KEYS (a file) or SERVING_OPEN=1 (no keys asked), not both")
        return self

    @classmethod
    def load(cls, environment: Mapping[str, str]) -> Self:
        """Read the environment. Raises BadSettingError naming the variable."""
        given = {
            name.removeprefix(PREFIX).lower(): value for name, value in environment.items() if name.startswith(PREFIX)
        }
        given |= {field: environment[name] for name, field in _CREDENTIALS.items() if name in environment}
        try:
            return cls.model_validate({name: value for name, value in given.items() if value != ""})
        except ValidationError as error:
            raise BadSettingError("; ".join(_explain(e["loc"], e["msg"]) for e in error.errors())) from None


def _explain(location: tuple[int | str, ...], message: str) -> str:
    """The variable and what is wrong with it; never its value, which may be a secret."""
    if not location:
        return message
    variables = {field: name for name, field in _CREDENTIALS.items()}
    field = str(location[0])
    return f"{variables.get(field, PREFIX + field.upper())}: {message}"
