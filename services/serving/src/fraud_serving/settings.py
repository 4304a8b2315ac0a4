"""Settings: `SERVING_*` environment variables, read once into a frozen model.

The process does not start with a value that is out of range, has no effect or contradicts another. MLflow's credentials
have MLflow's variable names (MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD).
"""

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from fraud_serving.store.address import StoreAddress
from fraud_serving.store.connection import HUNG_S

PREFIX: Final = "SERVING_"
_CREDENTIALS: Final = {
    "MLFLOW_TRACKING_USERNAME": "mlflow_username",
    "MLFLOW_TRACKING_PASSWORD": "mlflow_password",
}


class BadSettingError(Exception):
    """An environment variable is invalid or missing. The message names it; nothing was started."""


class ScoringSettings(BaseModel):
    """The settings that scoring over HTTP and from a topic share. The variable of `redis_url` is SERVING_REDIS_URL."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    host: str = Field(default="127.0.0.1", description="address the public port listens on")
    internal_port: int = Field(
        default=0, ge=0, le=65535, description="own port for /metrics; 0 serves it on the public one"
    )
    redis_url: SecretStr = Field(
        description="online store, redis://:password@host:port/db, redis+cluster://; rediss for TLS (docs/serving.md)"
    )
    mlflow_url: str = Field(description="registry, http(s)://host:port")
    mlflow_username: str = Field(default="", description="registry user")
    mlflow_password: SecretStr = Field(default=SecretStr(""), description="registry password")
    model_name: str = Field(default="fraud-detector", description="registered model")
    model_alias: str = Field(default="production", description="alias whose version is served")
    model_cache: Path = Field(description="folder of local copies of verified versions")
    prediction_log: Path = Field(description="folder of the prediction log's segments")
    poll_seconds: float = Field(default=5.0, ge=0.01, le=3600, description="how often the registry is polled")
    store_deadline_ms: float = Field(
        default=20.0, ge=1, le=1e3 * HUNG_S, description="longest wait for the online store"
    )
    answer_ttl_seconds: int = Field(
        default=3600, ge=1, le=604_800, description="how long an answer is kept for retries"
    )
    max_body_bytes: int = Field(default=16_384, ge=1024, le=1_048_576, description="largest body of POST /predict")
    challenger_alias: str = Field(default="", description="alias scored in shadow, for example staging; empty: none")
    traces: bool = Field(
        default=False, description="1: write the W3C traceparent of requests and messages to the prediction log"
    )
    log_queue_records: int = Field(
        default=100_000, ge=1000, le=10_000_000, description="records that may wait for the disk"
    )
    log_segment_bytes: int = Field(
        default=67_108_864, ge=4096, le=1_099_511_627_776, description="a segment larger than this is closed"
    )

    @field_validator("host")
    @classmethod
    def _resolves(cls, value: str) -> str:
        try:
            socket.getaddrinfo(value, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except (OSError, UnicodeError) as error:
            raise ValueError(f"expected an address to listen on: {error}") from None
        return value

    @field_validator("redis_url")
    @classmethod
    def _redis(cls, value: SecretStr) -> SecretStr:
        _ = StoreAddress.of(value.get_secret_value()).tls_context  # a ValueError is the setting's error
        return value

    @field_validator("mlflow_url")
    @classmethod
    def _http(cls, value: str) -> str:
        url = _url(value, ("http", "https"), "http(s)://host[:port]")
        if url.username is not None:
            raise ValueError(
                "expected no credentials in the URL; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )
        return value.rstrip("/")

    @model_validator(mode="after")
    def _versions_and_login(self) -> Self:
        if self.challenger_alias == self.model_alias:
            raise ValueError("SERVING_CHALLENGER_ALIAS: expected another alias than SERVING_MODEL_ALIAS")
        if self.mlflow_password.get_secret_value() and not self.mlflow_username:
            raise ValueError("MLFLOW_TRACKING_PASSWORD has no effect without MLFLOW_TRACKING_USERNAME")
        return self

    @classmethod
    def load(cls, environment: Mapping[str, str]) -> Self:
        """Read the environment. Raises BadSettingError naming the variable."""
        values = {
            name.removeprefix(PREFIX).lower(): value for name, value in environment.items() if name.startswith(PREFIX)
        }
        values |= {field: environment[name] for name, field in _CREDENTIALS.items() if name in environment}
        try:
            return cls.model_validate({name: value for name, value in values.items() if value != ""})
        except ValidationError as error:
            raise BadSettingError(explained(error, PREFIX)) from None


class Settings(ScoringSettings):
    """Every setting of serving over HTTP. The variable of `port` is SERVING_PORT."""

    port: int = Field(default=8000, ge=0, le=65535, description="public port")
    max_batch_bytes: int = Field(
        default=8_388_608, ge=1024, le=134_217_728, description="largest body of POST /predict/batch"
    )
    body_deadline_seconds: float = Field(default=5.0, ge=0.1, le=300, description="a body slower than this gets 408")
    client_rate: float = Field(
        default=0.0, ge=0, le=1e6, description="transactions per second of one client; 0: no limit"
    )
    client_burst_seconds: float = Field(
        default=2.0, ge=0.1, le=3600, description="seconds of its rate that a client may use at once"
    )
    max_in_flight: int = Field(default=96, ge=1, le=10_000, description="requests in progress; one more gets 429")
    access_log: Literal["none", "refused", "all"] = Field(
        default="refused", description="which requests get a line on standard error"
    )
    otlp_endpoint: str = Field(
        default="",
        description="OpenTelemetry collector, http(s)://host:port, for spans of sampled requests; empty: no spans",
    )
    what_if: Path | None = Field(
        default=None, description="folder of a web export that is served under /what-if/; empty: none"
    )
    api_keys: Path | None = Field(default=None, description="file of hashed API keys; see docs/serving.md")
    open: bool = Field(default=False, description="1: require no API key. For the embedded stack on one machine")

    @field_validator("otlp_endpoint")
    @classmethod
    def _collector(cls, value: str) -> str:
        if value:
            _url(value, ("http", "https"), "http(s)://host[:port]")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _no_contradiction(self) -> Self:
        if self.otlp_endpoint and not self.traces:
            raise ValueError("SERVING_OTLP_ENDPOINT has no effect without SERVING_TRACES=1")
        if self.open == (self.api_keys is not None):
            raise ValueError(
                "set either SERVING_API_KEYS (a file) or SERVING_OPEN=1 (no API key is required), not both"
            )
        if self.client_rate and self.open:
            raise ValueError("SERVING_CLIENT_RATE has no effect with SERVING_OPEN=1: without keys there are no clients")
        if "client_burst_seconds" in self.model_fields_set and not self.client_rate:
            raise ValueError("SERVING_CLIENT_BURST_SECONDS has no effect without SERVING_CLIENT_RATE")
        if self.internal_port and self.internal_port == self.port:
            raise ValueError("SERVING_INTERNAL_PORT: expected another port than SERVING_PORT")
        return self


def _url(text: str, schemes: tuple[str, ...], expected: str) -> SplitResult:
    """Parse a URL. Raises ValueError without the text, which may hold a password."""
    try:
        url = urlsplit(text)
        valid = url.scheme in schemes and bool(url.hostname) and url.port != 0
    except ValueError:  # the port is not a number, or a bracket is missing
        valid = False
    if not valid:
        raise ValueError(f"expected {expected}")
    if url.query or url.fragment:
        raise ValueError(f"expected {expected}; a query (?) or fragment (#) has no effect")
    return url


def explained(error: ValidationError, prefix: str) -> str:
    """The variables and their errors, without their values, which may be secrets."""
    return "; ".join(_explain(of["loc"], of["msg"], prefix) for of in error.errors())


def _explain(location: tuple[int | str, ...], message: str, prefix: str) -> str:
    if not location:
        return message
    variables = {field: name for name, field in _CREDENTIALS.items()}
    field = str(location[0])
    return f"{variables.get(field, prefix + field.upper())}: {message}"
