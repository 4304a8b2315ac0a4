"""The settings: a value out of range, without effect or in contradiction to another ends the start and is named."""

import subprocess
import sys
from pathlib import Path

import pytest

from fraud_serving.settings import BadSettingError, Settings

GOOD = {
    "SERVING_REDIS_URL": "redis://:hush@127.0.0.1:1/0", "SERVING_MLFLOW_URL": "http://127.0.0.1:2/",
    "SERVING_MODEL_CACHE": "/cache", "SERVING_PREDICTION_LOG": "/log", "SERVING_OPEN": "1",
}  # fmt: skip
CREDENTIALS = dict(zip(("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"), ("serving", "hush"), strict=True))
AT_HOST = "http://{}:{}@h".format("serving", "hush")


def test_settings_are_read_from_the_environment() -> None:
    settings = Settings.load(GOOD | CREDENTIALS | {"SERVING_PORT": "9", "PATH": "/bin"})
    assert (settings.port, settings.mlflow_url, settings.model_cache) == (9, "http://127.0.0.1:2", Path("/cache"))
    assert settings.mlflow_password.get_secret_value() == "hush"
    assert "hush" not in repr(settings)


KEYS = {"SERVING_OPEN": "", "SERVING_API_KEYS": "/keys"}
WRONG = {
    "HOST": ("no.such.host.invalid", "127.0.0.1:8000", "1.2.3.4.5", "a" * 300),
    "PORT": ("many", "-1", "65536", "80.5", "tcp://10.0.0.1:8000"),
    "INTERNAL_PORT": ("-1", "65536", "8000"),
    "REDIS_URL": (
        "http://:hush@x", "redis://", "redis://:hush@", "redis://:hush@h:port", "redis://:hush@h:0", "redis://:hush@h:65536",
        "redis://:hush@h/zero", "redis://:hush@h/0/1", "redis://:hush@h?ssl_cert_reqs=none",
        "rediss://:hush@h?ssl_cert_reqs=none", "rediss://:hush@h?ssl_ca_certs=/dev/null", "rediss://:hush@h?ssl_ca_certs=/none",
        "redis://:hush@h?ssl_ca_certs=/ca.pem", "rediss://:hush@h?ssl_ca_certs=", "redis://:hu#sh@h",
        "redis://[::1", "redis://:hush@h,i", "redis+cluster://", "redis+cluster://:hush@h,", "redis+cluster://h:1,i:x",
        "redis+cluster://:hush@h/1", "redis+other://h", "redis+://h", "redis+cluster://:hush@h?x=1,i",
    ),
    "MLFLOW_URL": ("mlflow:5000", "http://", "http://h:port", AT_HOST, "http://h?x=1", "sqlite:///x"),
    "POLL_SECONDS": ("0", "0.001", "3601", "nan", "inf", "often"),
    "STORE_DEADLINE_MS": ("0", "0.5", "-1", "1001", "5000", "nan"),
    "ANSWER_TTL_SECONDS": ("0", "604801", "1.5"),
    "MAX_BODY_BYTES": ("1023", "1048577", "16k"),
    "MAX_BATCH_BYTES": ("1023", "134217729"),
    "BODY_DEADLINE_SECONDS": ("0", "0.05", "301", "nan"),
    "CLIENT_RATE": ("-1", "inf", "nan", "1000001", "10"),
    "CLIENT_BURST_SECONDS": ("0", "3601", "2"),
    "MAX_IN_FLIGHT": ("0", "10001"),
    "CHALLENGER_ALIAS": ("production",),
    "ACCESS_LOG": ("some",),
    "LOG_QUEUE_RECORDS": ("999", "10000001"),
    "LOG_SEGMENT_BYTES": ("4095", "1099511627777"),
    "TRACES": ("perhaps",),
    "OTLP_ENDPOINT": ("collector:4318", "http://h", "http://h?x=1"),
    "OPEN": ("perhaps", "0"),
    "API_KEYS": ("/keys",),
    "PORTS": ("1",),
}  # fmt: skip
"""Each with GOOD. A rate, a burst and keys are in range, but have no effect without keys, without a rate, with OPEN."""


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_setting_ends_the_start_naming_the_variable_and_no_secret(name: str, value: str) -> None:
    with pytest.raises(BadSettingError, match=f"SERVING_{name}\\b") as raised:
        Settings.load(GOOD | {f"SERVING_{name}": value})
    assert "hush" not in str(raised.value)
    assert "hu#sh" not in str(raised.value)


def test_every_setting_with_a_range_is_tried_out_of_it() -> None:
    texts = {
        "model_name",
        "model_alias",
        "model_cache",
        "prediction_log",
        "what_if",
        "mlflow_username",
        "mlflow_password",
    }
    assert {name.lower() for name in WRONG} - {"ports"} == Settings.model_fields.keys() - texts


@pytest.mark.parametrize("needed", ["REDIS_URL", "MLFLOW_URL", "MODEL_CACHE", "PREDICTION_LOG"])
def test_a_missing_setting_is_named(needed: str) -> None:
    with pytest.raises(BadSettingError, match=f"SERVING_{needed}: Field required"):
        Settings.load(GOOD | {f"SERVING_{needed}": ""})


def test_a_password_without_a_user_is_named() -> None:
    with pytest.raises(
        BadSettingError, match="MLFLOW_TRACKING_PASSWORD has no effect without MLFLOW_TRACKING_USERNAME"
    ):
        Settings.load(GOOD | CREDENTIALS | {"MLFLOW_TRACKING_USERNAME": ""})


@pytest.mark.parametrize(
    "more",
    [
        {"SERVING_HOST": "::1"}, {"SERVING_HOST": "localhost"},
        {"SERVING_REDIS_URL": "rediss://:p%23ss@valkey.internal:6380/15"}, {"SERVING_REDIS_URL": "redis://[::1]:6379"},
        {"SERVING_REDIS_URL": "rediss+cluster://u:p%2C@a:7001,b,[::1]:7002/0"},
        {"SERVING_MLFLOW_URL": "https://mlflow.internal/prefix/"}, {"SERVING_STORE_DEADLINE_MS": "1000"},
        {"SERVING_INTERNAL_PORT": "0", "SERVING_PORT": "0"}, {"SERVING_CHALLENGER_ALIAS": "staging"},
        KEYS | {"SERVING_CLIENT_RATE": "10", "SERVING_CLIENT_BURST_SECONDS": "2"}, KEYS,
    ],
)  # fmt: skip
def test_what_is_within_range_and_has_an_effect_is_accepted(more: dict[str, str]) -> None:
    Settings.load(GOOD | more)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("STORE_DEADLINE_MS", "5000"), ("REDIS_URL", "redis://h:port"), ("MODEL_CACHE", "/dev/null/cache"),
        ("PREDICTION_LOG", "/dev/null/log"), ("API_KEYS", "/dev/null/keys"),
    ],
)  # fmt: skip
def test_the_process_ends_with_2_and_one_line_that_names_the_variable(tmp_path: Path, name: str, value: str) -> None:
    environment = GOOD | {"SERVING_MODEL_CACHE": str(tmp_path / "c"), "SERVING_PREDICTION_LOG": str(tmp_path / "l")}
    if name == "API_KEYS":
        environment["SERVING_OPEN"] = ""
    done = subprocess.run(
        [sys.executable, "-m", "fraud_serving"], env=environment | {f"SERVING_{name}": value}, check=False,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert f"fraud_serving: SERVING_{name}: " in done.stderr
    assert "Traceback" not in done.stderr
